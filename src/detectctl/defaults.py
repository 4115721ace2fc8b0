"""Defaults and limits that help texts and queries state, of modules that are slow to load."""

TIMEOUT_S = 30.0
"""For each source, from reading it to its answer, retries included."""
RETRIES = 4
"""Attempts after the first."""
CONCURRENCY = 8
"""Requests in flight."""
LABELS = True
"""Whether boxes are labelled."""
MAX_DET = 300
"""Objects in an answer."""
MOST_DET = 1000
"""That may be asked for. So many large masks are 10 MB of JSON and a second of work, in which others wait."""
MAX_LINE_WIDTH = 1000
"""Pixels of a box's line."""
QUALITY = 90
"""Of a JPEG or WebP, 1 to `MAX_QUALITY`."""
MAX_QUALITY = 100
"""The most that codecs take."""
