"""The wire shape: what a detection is and how it reads as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict


class ModelJSON(TypedDict):
    """The `model` of an answer."""

    name: str
    version: str | None
    digest: str
    fallback: bool
    stale: NotRequired[bool]
    reason: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Detection:
    """One box with its confidence and class.

    Attributes:
        class_name: the model's own name of the class.
        xyxy: `(x1, y1, x2, y2)` in pixels of the upright (EXIF-rotated) source image, clipped to it.
        confidence: 0 to 1.
        class_id: index of the class in the model.
    """

    class_name: str
    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int

    def to_json(self) -> dict[str, Any]:
        """Coordinates are rounded to 0.01 px, confidence to 0.0001: finer digits are noise of the arithmetic."""
        return {
            "class": self.class_name,
            "coordinates": [round(value, 2) for value in self.xyxy],
            "confidence": round(self.confidence, 4),
            "class_id": self.class_id,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Detection:
        """Raises KeyError, TypeError or ValueError on another shape."""
        x1, y1, x2, y2 = (float(value) for value in data["coordinates"])
        return cls(str(data["class"]), (x1, y1, x2, y2), float(data["confidence"]), int(data["class_id"]))


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Which model gave an answer.

    Attributes:
        name: `yolov8n`, a W&B collection's name, or a checkpoint's file name without suffix.
        version: W&B's `vN`, or None for a local checkpoint.
        digest: `sha256:` and the hex sha256 of the checkpoint file.
        fallback: True if this is the base model, served because the asked-for one could not be had.
        stale: True if W&B could not be reached, and this is what the reference last resolved to.
        reason: why it is a fallback or stale.
    """

    name: str
    version: str | None
    digest: str
    fallback: bool = False
    stale: bool = False
    reason: str | None = None

    def to_json(self) -> ModelJSON:
        """`stale` and `reason` appear only when there is something to say."""
        data: ModelJSON = {
            "name": self.name,
            "version": self.version,
            "digest": self.digest,
            "fallback": self.fallback,
        }
        if self.stale:
            data["stale"] = True
        if self.reason is not None:
            data["reason"] = self.reason
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServedModel:
        """Raises KeyError on another shape."""
        return cls(
            data["name"],
            data["version"],
            data["digest"],
            data["fallback"],
            data.get("stale", False),
            data.get("reason"),
        )


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """The answer for one image: detections by descending confidence.

    Attributes:
        detections: by descending confidence.
        width: pixels of the upright source image.
        height: pixels of the upright source image.
        model: which model gave the answer.
    """

    detections: tuple[Detection, ...]
    width: int
    height: int
    model: ServedModel

    def to_json(self) -> dict[str, Any]:
        """The body of a `/detect` answer."""
        return {
            "status": "found" if self.detections else "not found",
            "objects": [detection.to_json() for detection in self.detections],
            "image": {"width": self.width, "height": self.height},
            "model": self.model.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DetectionResult:
        """Raises KeyError, TypeError or ValueError on another shape."""
        return cls(
            tuple(Detection.from_json(item) for item in data["objects"]),
            int(data["image"]["width"]),
            int(data["image"]["height"]),
            ServedModel.from_json(data["model"]),
        )
