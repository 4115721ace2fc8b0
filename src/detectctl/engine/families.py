"""Every family of models that Ultralytics trains, as `Trained` describes it; the next family is added here.

After the heads of ultralytics 8.4 (`ultralytics.nn.modules.head`). What is not served is refused by its own name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detectctl.engine.trained import IMGSZ, Head, Trained, printable
from detectctl.errors import CheckpointRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_GRIDS = {"Detect", "v10Detect"}  # v3u, v5u, v6, v8, v9, 11, 12 and 26 have the first
_QUERIES = {"RTDETRDecoder"}
_OPEN = {"WorldDetect", "YOLOEDetect", "YOLOESegment", "YOLOESegment26"}


def describe(model: Any, args: Mapping[str, Any]) -> Trained:
    """The description of a loaded Ultralytics model, trained with `args`.

    Raises:
        CheckpointRefused: it is not for detection, or its head or its pictures are of a kind that is not served.
    """
    try:
        kind, task = type(model.model[-1]).__name__, str(model.task)
        if kind in _OPEN:
            raise _refused(
                "looks for what a text names, and its classes are not fixed",
                hint="fix them with Ultralytics: `model.set_classes([…])`, then train or export a detection model",
            )
        if kind not in _GRIDS | _QUERIES:
            raise _refused(
                f"is for the task {task!r}, with the head {kind!r}; only detection is served",
                hint="give a checkpoint that was trained with `yolo detect train`",
            )
        channels = _channels(model)
        return Trained(_labels(model), _head(model), _imgsz(args), channels)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _refused(
            f"lacks a part that detection models have: {error}",
            hint="give a checkpoint as `yolo detect train` writes it",
        ) from error


def _head(model: Any) -> Head:
    head = model.model[-1]
    if type(head).__name__ in _QUERIES:
        return Head("queries", one_to_one=True)
    return Head("anchors", tuple(int(stride) for stride in model.stride), _has_one_to_one_only(head))


def _has_one_to_one_only(head: Any) -> bool:
    """Whether the branch that needs NMS was removed, as `fuse` does.

    Where v10 and 26 have both branches, Ultralytics' predictor (8.4.190, `nms=None`) takes that one and applies NMS.
    """
    return getattr(head, "one2one_cv2", None) is not None and head.cv2 is None


def _labels(model: Any) -> dict[int, str]:
    names, classes = model.names, int(model.model[-1].nc)
    if isinstance(names, dict):
        names = {int(key): name for key, name in names.items()}  # a list's numbers may have become text
    return {class_id: printable(str(names[class_id])) for class_id in range(classes)}


def _imgsz(args: Mapping[str, Any]) -> tuple[int, int]:
    asked = args.get("imgsz") or IMGSZ
    sides = [int(side) for side in (asked if isinstance(asked, list | tuple) else [asked])]
    height, width = sides[0], sides[-1]
    if min(height, width) < 1:
        raise ValueError(f"imgsz {asked}")
    return height, width


def _channels(model: Any) -> int:
    channels = int(getattr(model, "yaml", {}).get("channels") or 3)
    if channels not in {1, 3}:
        raise _refused(
            f"takes pictures of {channels} channels",
            hint="give a checkpoint trained on colour or grey pictures, as JPEG and PNG have them",
        )
    return channels


def raw(model: Any) -> None:
    """Let a loaded model give what `Head` says: (boxes (B, .., places), classes (B, classes, places)).

    Boxes of anchors are computed from these, in fp32 and only where there may be an object. In the network this would
    be done for all of them, and in bf16 would move boxes by up to a pixel.
    """
    head = model.model[-1]
    if type(head).__name__ in _QUERIES:
        head.postprocess = lambda boxes, scores: (boxes.transpose(1, 2), scores.transpose(1, 2))
    elif _has_one_to_one_only(head):
        head._inference = _Pair
        head.postprocess = lambda pair: pair.parts
    else:
        head._end2end = False
        head._inference = lambda parts: (parts["boxes"], parts["scores"])


class _Pair:
    """What stands in for the tensor of decoded boxes between the two last steps of a one-to-one head."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts["boxes"], parts["scores"]

    def permute(self, *_: int) -> _Pair:
        """Itself: there is no tensor to turn."""
        return self


def last_convolutions(model: Any) -> Iterator[Any]:
    """The branches, as `torch.nn.Sequential`, whose last layers give what anchors have."""
    head = model.model[-1]
    if type(head).__name__ not in _QUERIES:
        prefix = "one2one_" if _has_one_to_one_only(head) else ""
        for name in (f"{prefix}cv2", f"{prefix}cv3"):
            yield from getattr(head, name)


def _refused(why: str, *, hint: str) -> CheckpointRefused:
    return CheckpointRefused("the checkpoint is of a kind that is not served", why=f"it {why}", hint=hint)
