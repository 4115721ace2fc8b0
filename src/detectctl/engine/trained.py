"""What there is to know of a trained network beside its weights: all that the code around the network goes by.

A network of any family is run through this description; `families` is the one place that knows the families.
"""

from __future__ import annotations

import difflib
import unicodedata
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from detectctl.wire import Task

IMGSZ = 640
"""Pixels; what Ultralytics trains at unless it is told otherwise."""
CLASSIFY_IMGSZ = 224
"""Pixels; the same for models that classify and do not say."""
MOST_NAME = 1000
"""Characters of a class's name; open-vocabulary models name theirs by whole sentences."""
MOST_SIDE = 2**14
"""Pixels of a side of what a network takes, and of its stride."""
LISTED = 20
"""So many classes are all named where there is none of a name."""
_COMPARED = 1000
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Head:
    """What a network's last layer gives for each of its places, of which most hold no object.

    Attributes:
        kind: `anchors`, whose places lie on grids over the picture, give the logits of distances to the box's sides and
            of the classes. `queries` give the box as centre x, y, width, height in shares of the picture, and each
            class's confidence. `decoded` give the box in pixels, and the rest as `yolo_head.Candidates` has it. `image`
            gives the picture's confidence for each class, and has no places.
        strides: pixels between the anchors of each level, of which `decoded` knows the greatest; none for other kinds.
        one_to_one: an object is found at one place only, so that no NMS is needed, and a place may hold several.
    """

    kind: Literal["anchors", "queries", "decoded", "image"] = "anchors"
    strides: tuple[int, ...] = ()
    one_to_one: bool = False

    @property
    def stride(self) -> int:
        """Pixels; height and width of an input are multiples of it.

        Ultralytics' predictor pads to multiples of at least 32, whatever smaller strides a head has.
        """
        return max((32, *self.strides))


@dataclass(frozen=True, slots=True)
class Trained:
    """What a checkpoint says of its model.

    Attributes:
        labels: the model's own name for each class id.
        head: what the network gives.
        imgsz: height and width in pixels that it was trained at; None where it is not said.
        channels: of the pictures: 3 for RGB, 1 for grey.
        task: what it was trained for.
        keypoints: of an object, and numbers of each: 2 for x and y, 3 with a confidence.
        exported: whether it is an export, which `imgsz` is of, and takes pictures of that size only, or of any; empty
            for a checkpoint.
    """

    labels: dict[int, str]
    head: Head
    imgsz: tuple[int, int] | None = None
    channels: int = 3
    task: Task = "detect"
    keypoints: tuple[int, int] = (0, 0)
    exported: Literal["", "static", "dynamic"] = ""

    @property
    def fixed(self) -> bool:
        """Whether the network takes pictures of `imgsz` only; others take any shape."""
        return self.exported == "static" or self.stretched

    @property
    def stretched(self) -> bool:
        """Whether pictures are made to fit by stretching them, without padding."""
        return self.head.kind == "queries"

    def size(self, longest: int | None) -> tuple[int, int]:
        """Height and width in pixels, multiples of the stride: `longest` for both, or as it was trained if None.

        Where that is not said, what Ultralytics trains at unless it is told otherwise.
        """
        if self.exported == "static" and self.imgsz:
            return self.imgsz
        usual = CLASSIFY_IMGSZ if self.task == "classify" else IMGSZ
        stride = self.head.stride
        sides = (longest, longest) if longest else self.imgsz or (usual, usual)
        height, width = (-(-side // stride) * stride for side in sides)
        return height, width

    def ids(self, name: str) -> list[int]:
        """Of the classes of that name, of which there may be several, or none.

        A letter with an accent is the same whether it is one character or two; keyboards and files differ in that. If
        there is none, spaces around it do not count: command lines lose them.
        """
        wanted, labels = _composed(name), {one: _composed(label) for one, label in self.labels.items()}
        exact = [one for one, label in labels.items() if label == wanted]
        return exact or [one for one, label in labels.items() if label.strip() == wanted.strip()]

    def nearest(self, name: str) -> str:
        """Why there is no class of that name, in words: what there is, or what comes nearest.

        Of very many only some are compared, those that begin most like it: each takes a while.
        """
        labels = [label[:_SHOWN] for label in self.labels.values()]
        if len(labels) <= LISTED:
            return f"{'its classes are' if len(labels) > 1 else 'its only class is'} {', '.join(map(repr, labels))}"
        wanted = name.casefold()
        labels.sort(key=lambda label: -sum(takewhile(bool, map(eq, label.casefold(), wanted))))
        (nearest,) = difflib.get_close_matches(name[:_SHOWN], labels[:_COMPARED], n=1, cutoff=0)
        return f"the nearest of its {len(labels)} classes is {nearest!r}"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trained:
        """The inverse of `dataclasses.asdict`. Raises KeyError, TypeError, ValueError or AttributeError."""
        head, imgsz = data["head"], data["imgsz"]
        if imgsz is not None:
            height, width = imgsz
            imgsz = int(height), int(width)
        return cls(
            {int(class_id): str(label) for class_id, label in data["labels"].items()},
            Head(head["kind"], tuple(int(stride) for stride in head["strides"]), bool(head["one_to_one"])),
            imgsz,
            int(data["channels"]),
            data.get("task", "detect"),
            tuple(data.get("keypoints", (0, 0))),
            data.get("exported", ""),
        )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
