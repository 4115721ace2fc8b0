"""torchvision for checkpoints that name it, as those of models that classify do, also where its operators do not load.

Built for CUDA it does not go with a PyTorch that is not, and the two come so from many an index. Of its operators none
is needed: a checkpoint names only how its pictures were scaled and cropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectctl.engine.checkpoint import names_package
from detectctl.errors import ConversionFailed

if TYPE_CHECKING:
    from pathlib import Path


def prepare_torchvision(checkpoint: Path) -> None:
    """Import torchvision if the checkpoint's pickles ask for it; ConversionFailed if it is not there."""
    if not names_package(checkpoint, "torchvision"):
        return
    try:
        import torchvision
    except ImportError as error:
        raise ConversionFailed(
            "the checkpoint cannot be loaded without torchvision",
            why=f"it names how torchvision makes its pictures, and: {error}",
            hint="install it from where torch is from, for example `pip install torchvision`",
        ) from error
    except RuntimeError:  # "operator torchvision::nms does not exist": it describes operators that it does not have
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision  # noqa: F401 - see above


_KEPT: list[object] = []
"""What would undo its definitions when it is collected."""
