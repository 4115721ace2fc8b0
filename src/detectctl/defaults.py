"""Defaults that help texts show, of modules that are slow to load."""

TIMEOUT_S = 30.0
"""For each source, from reading it to its answer, retries included."""
RETRIES = 4
"""Attempts after the first."""
CONCURRENCY = 8
"""Requests in flight."""
QUALITY = 90
"""Of a JPEG or WebP, 1 to 100."""
