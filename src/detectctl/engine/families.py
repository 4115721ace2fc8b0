"""Every family of models that Ultralytics trains, as `Trained` describes it; the next family is added here.

After the heads of ultralytics 8.4 (`ultralytics.nn.modules.head`). What is not served is refused by its own name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detectctl.colours import printable
from detectctl.engine.trained import MOST_NAME, MOST_SIDE, Head, Trained
from detectctl.errors import CheckpointRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from detectctl.wire import Task

_TASKS: dict[str, tuple[Task, Head]] = {
    # v3u, v5u, v6, v8, v9, 11, 12 and 26 have the first.
    "Detect": ("detect", Head("anchors")),
    "v10Detect": ("detect", Head("anchors")),
    "RTDETRDecoder": ("detect", Head("queries", one_to_one=True)),
    "Segment": ("segment", Head("anchors")),
    "Segment26": ("segment", Head("anchors")),
    "Pose": ("pose", Head("anchors")),
    "Pose26": ("pose", Head("anchors")),
    "OBB": ("obb", Head("anchors")),
    "OBB26": ("obb", Head("anchors")),
    "Classify": ("classify", Head("image")),
}
"""The heads that are served: what each is for, and what it gives."""
_OPEN = {"WorldDetect", "YOLOEDetect", "YOLOESegment", "YOLOESegment26"}
_HINT = "give a checkpoint as `yolo train` writes it"
_EXTRAS: dict[Task, str] = {"segment": "mask_coefficient", "pose": "kpts", "obb": "angle"}
"""What a head calls that which it gives of each anchor beside box and classes."""


def describe(model: Any, args: Mapping[str, Any]) -> Trained:
    """The description of a loaded Ultralytics model, trained with `args`.

    Raises:
        CheckpointRefused: its head or its pictures are of a kind that is not served.
    """
    if not hasattr(model, "yaml"):
        raise _refused(f"holds a {type(model).__name__}, which is not a model of Ultralytics", hint=_HINT)
    try:
        kind = type(model.model[-1]).__name__
        if kind in _OPEN:
            raise _refused(
                "looks for what a text names, and its classes are not fixed",
                hint="fix its classes with `model.set_classes([…])`, export it to OpenVINO or ONNX with `model.export` "
                "and serve that",
            )
        if kind not in _TASKS:
            tasks = list(dict.fromkeys(task for task, _ in _TASKS.values()))
            raise _refused(
                f"is for the task {str(model.task)!r}, with the head {kind!r}; served are {', '.join(tasks)}",
                hint="give a checkpoint for one of these, or use this one with `yolo predict`",
            )
        task, head = _TASKS[kind]
        if head.kind == "anchors":
            head = Head("anchors", _strides(model.model[-1]), _has_one_to_one_only(model.model[-1]))
        if task == "classify":
            _check_transforms(model)
        keypoints, values = model.model[-1].kpt_shape if task == "pose" else (0, 0)
        points = int(keypoints), int(values)
        return Trained(_labels(model), head, _imgsz(args), _channels(model), task, points)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _refused(
            f"lacks a part that such models have: {error}",
            hint=_HINT,
        ) from error


def _check_transforms(model: Any) -> None:
    """Refuse pictures that are made for the network in another way than since ultralytics 8.1."""
    for step in getattr(getattr(model, "transforms", None), "transforms", ()):
        mean, std = (getattr(step, name, None) for name in ("mean", "std"))
        if mean is not None and std is not None and (any(mean) or any(value != 1 for value in std)):
            raise _refused(
                f"normalises its pictures, by the means {[round(float(value), 3) for value in mean]}",
                hint="train it again with a current Ultralytics, which does not",
            )


def _has_one_to_one_only(head: Any) -> bool:
    """Whether the branch that needs NMS was removed, as `fuse` does.

    Where v10 and 26 have both branches, Ultralytics' predictor (8.4.190, `nms=None`) takes that one and applies NMS.
    """
    return getattr(head, "one2one_cv2", None) is not None and head.cv2 is None


def _strides(head: Any) -> tuple[int, ...]:
    strides = tuple(int(stride) for stride in head.stride)
    if not all(1 <= stride <= MOST_SIDE for stride in strides):
        raise ValueError(f"strides {strides}")
    return strides


def _labels(model: Any) -> dict[int, str]:
    head = model.model[-1]
    names, classes = model.names, int(head.nc if hasattr(head, "nc") else head.linear.out_features)
    # A list's numbers may have become text.
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    labels = {int(class_id): str(name) for class_id, name in pairs}
    if unnamed := [class_id for class_id in range(classes) if class_id not in labels]:
        raise _refused(
            f"has {classes} classes, and no name for {unnamed[0]}",
            hint="name them all, from 0 on, in the data set's YAML, and train it again",
        )
    return {class_id: printable(labels[class_id], MOST_NAME) for class_id in range(classes)}


def _imgsz(args: Mapping[str, Any]) -> tuple[int, int] | None:
    asked = args.get("imgsz")
    if not asked:
        return None
    sides = [int(side) for side in (asked if isinstance(asked, list | tuple) else [asked])]
    height, width = sides[0], sides[-1]
    if not 1 <= min(height, width) <= max(height, width) <= MOST_SIDE:
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
    """Let a loaded model give what `Head` says, in the order of `outputs`.

    Boxes of anchors are computed from these, in fp32 and only where there may be an object. In the network this would
    be done for all of them, and in bf16 would move boxes by up to a pixel.
    """
    head = model.model[-1]
    task, described = _TASKS[type(head).__name__]
    if described.kind == "image":
        return
    if described.kind == "queries":
        head.postprocess = lambda boxes, scores: (boxes.transpose(1, 2), scores.transpose(1, 2))
        return
    keys = ["boxes", "scores", *([_EXTRAS[task]] if task in _EXTRAS else [])]
    if type(head).__name__ == "Pose":
        _centre_keypoints(head)
    if _has_one_to_one_only(head):
        head._inference = lambda parts: _Parts([parts[key] for key in keys])
        head.postprocess = tuple
    else:
        head._end2end = False
        head._inference = lambda parts: tuple(parts[key] for key in keys)


def outputs(answer: Any) -> dict[str, Any]:
    """What a model after `raw` answered in evaluation mode: tensors (B, …) by name.

    There are always classes; of the others, boxes, extras and prototypes, those that the task has.
    """
    first = answer[0]
    if not isinstance(first, tuple):  # classes only
        return {"classes": first}
    prototypes = None
    if isinstance(first[0], tuple):
        first, prototypes = first
    found = dict(zip(("boxes", "classes", "extras"), first, strict=False))
    return found if prototypes is None else found | {"prototypes": prototypes}


def _centre_keypoints(head: Any) -> None:
    """Let keypoints be in strides from their anchor, as those of YOLO26: v8 and 11 give half of it, and 1/4 more."""
    _, values = head.kpt_shape
    for branch in head.one2one_cv4 if _has_one_to_one_only(head) else head.cv4:
        convolution = branch[-1]
        for axis in (0, 1):
            convolution.weight.data[axis::values] *= 2
            convolution.bias.data[axis::values] *= 2
            convolution.bias.data[axis::values] -= 0.5


class _Parts(list[Any]):
    """What stands in for the tensor of decoded boxes between the two last steps of a one-to-one head."""

    def permute(self, *_: int) -> _Parts:
        """Itself: there is no tensor to turn."""
        return self


def last_convolutions(model: Any) -> Iterator[tuple[Any, int]]:
    """Where the layers are whose sums are what anchors have: a sequence of modules, and the index in it."""
    head = model.model[-1]
    task, described = _TASKS[type(head).__name__]
    if described.kind != "anchors":
        return
    prefix = "one2one_" if _has_one_to_one_only(head) else ""
    names = ["cv2", "cv3", *(["cv4"] if task in {"segment", "obb"} or type(head).__name__ == "Pose" else [])]
    for name in names:
        for branch in getattr(head, prefix + name):
            yield branch, len(branch) - 1
    if type(head).__name__ == "Pose26":
        level = getattr(head, prefix + "cv4_kpts")
        yield from ((level, index) for index in range(len(level)))


def _refused(why: str, *, hint: str) -> CheckpointRefused:
    return CheckpointRefused("the checkpoint is of a kind that is not served", why=f"it {why}", hint=hint)
