"""Whom detectctl trusts when it opens an encrypted connection, as a caller and as a service that fetches images."""

from __future__ import annotations

import ssl


def trusting_context() -> ssl.SSLContext:
    """Verifies servers by the system's authorities and certifi's; costs 40 ms of CPU, so make it once.

    A company's own authority is only in the system's; a slim container has none but certifi's.
    """
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
