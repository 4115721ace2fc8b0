"""The other side of the wire: asking a service about images.

The defaults of a client are here because its modules are slow to load, and help texts show them.
"""

TIMEOUT_S = 30.0
"""For each source, from reading it to its answer, retries included."""
RETRIES = 4
"""Attempts after the first."""
CONCURRENCY = 8
"""Requests in flight."""
