"""The child process that imports OpenVINO: on an old processor that may end the process.

The request has a `precision`, or None; the result has the one `chosen` for that, and all `precisions`. An error says
that the processor does not compute in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectctl.child import serve_parent
from detectctl.engine.openvino_engine import choose_precision, precisions

if TYPE_CHECKING:
    from detectctl.child import Message
    from detectctl.progress import Report


def look(request: Message, _report: Report) -> Message:
    """Ask OpenVINO."""
    return {"chosen": choose_precision(request["precision"]), "precisions": list(precisions())}


if __name__ == "__main__":
    serve_parent(look)
