"""What the state file records of a service on a cluster."""

from __future__ import annotations

from dataclasses import dataclass

_PREFIX = "detectctl-"


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """Enough to find the service again.

    Attributes:
        address: of the dashboard, `http://host:port`.
        application: its name in Serve.
        token_file: of the dashboard's token; None for where Ray looks for it.
    """

    address: str
    application: str
    token_file: str | None = None

    @classmethod
    def of(cls, name: str, address: str, token_file: str | None) -> ClusterPlace:
        """Of the instance of this name."""
        return cls(address, f"{_PREFIX}{name}", token_file)
