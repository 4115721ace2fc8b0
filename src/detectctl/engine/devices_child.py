"""The child process that tries to compute on the GPU: drivers have many ways to fail, and some never return.

The request is empty. The result has `failure`: PyTorch's own words, one sentence; None if the GPU computes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from detectctl.child import serve_parent

if TYPE_CHECKING:
    from detectctl.child import Message
    from detectctl.progress import Report


def attempt(_request: Message, _report: Report) -> Message:
    """Run one convolution, as the smallest model would: it needs a driver, a GPU, its kernels and cuDNN."""
    try:
        import torch

        one = torch.ones(1, 1, 1, 1, device="cuda")
        torch.nn.functional.conv2d(one, one).item()
    except Exception as error:  # noqa: BLE001 - whatever an unusable GPU, or a torch without its libraries, leads to
        # Advice follows in further sentences: for the author of a program, not for its user.
        words = re.split(r"\.?\s*\n|\.\s+(?=[A-Z])", str(error).strip())[0].removesuffix(".")
        return {"failure": words or type(error).__name__}
    return {"failure": None}


if __name__ == "__main__":
    serve_parent(attempt)
