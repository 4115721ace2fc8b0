"""What travels from a replica to its callers and to `--json`: one shape of each thing.

`serving.openapi` makes the JSON schemas of the HTTP API from these types, so description and answer cannot differ.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

from detectctl.defaults import LABELS, MAX_DET, QUALITY
from detectctl.errors import REQUEST_ERRORS, DetectctlError, RequestError
from detectctl.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SCHEMA = 1
"""The version of these shapes, in `/info` and in what a command prints with `--json`; grows when a key goes or changes
its meaning, not when one is added."""

Task = Literal["detect", "segment", "pose", "obb", "classify"]
"""What a model was trained for, in Ultralytics' words."""
EngineName = Literal["openvino", "torch"]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]

Share = Annotated[float, {"minimum": 0, "maximum": 1}]
Count = Annotated[int, {"minimum": 0}]

Points = tuple[float, ...]

T = TypeVar("T")


def _read(kind: type[T], data: dict[str, Any], **parts: Any) -> T:
    """A dataclass from JSON and `parts` of it; ignores keys that a later version added. TypeError if one is missing."""
    data = {**data, **parts}
    return kind(**{item.name: data[item.name] for item in fields(kind) if item.name in data})  # type: ignore[arg-type]


DetectionJSON = TypedDict(
    "DetectionJSON",
    {
        "class": str,
        "coordinates": Annotated[list[float], {"minItems": 4, "maxItems": 4}],
        "confidence": Share,
        "class_id": Count,
        "mask": NotRequired[
            Annotated[
                list[Annotated[list[float], {"minItems": 6}]],
                {"description": "outline of each part, [x1, y1, x2, y2, …] in pixels"},
            ]
        ],
        "keypoints": NotRequired[
            Annotated[
                list[Annotated[list[float], {"minItems": 2, "maxItems": 3}]],
                {"description": "[x, y] in pixels, and a confidence if the model gives one"},
            ]
        ],
        "corners": NotRequired[
            Annotated[
                list[Annotated[list[float], {"minItems": 2, "maxItems": 2}]],
                {"minItems": 4, "maxItems": 4, "description": "of a rotated box, [x, y] in pixels, in turn"},
            ]
        ],
        "angle": NotRequired[Annotated[float, {"description": "of a rotated box, in radians, from x towards y"}]],
    },
)


class SizeJSON(TypedDict):
    """Pixels of the upright source image."""

    width: int
    height: int


class ResultJSON(TypedDict):
    """The body of a `/detect` answer."""

    status: Literal["found", "not found"]
    objects: list[DetectionJSON]
    image: SizeJSON
    model: Annotated[dict[str, Any], ModelInfo]
    truncated: NotRequired[Literal[True]]


def _enclosed(outline: Sequence[float]) -> float:
    """The area of a polygon `(x1, y1, x2, y2, …)`, by the shoelace formula."""
    x, y = outline[::2], outline[1::2]
    return abs(sum(x[place - 1] * y[place] - x[place] * y[place - 1] for place in range(len(y)))) / 2


@dataclass(frozen=True, slots=True)
class Detection:
    """One object with its confidence and class, and what models of other tasks than detection tell of it.

    All coordinates are pixels of the upright (EXIF-rotated) source image.

    Attributes:
        class_name: the model's own name of the class.
        xyxy: the box `(x1, y1, x2, y2)`, clipped to the image; the whole image if the model classifies.
        confidence: 0 to 1.
        class_id: index of the class in the model.
        mask: of a model that segments, the outlines of the object's parts, each `(x1, y1, x2, y2, …)`.
        keypoints: of a model for poses, in the order of its training data, each `(x, y)` and, where the model gives
            it, a confidence from 0 to 1.
        corners: of a model for rotated boxes, the four corners `(x, y)` in turn; they may lie outside the image.
        angle: of a rotated box, in radians, from the x axis towards the y axis, as the model gives it.
    """

    class_name: str
    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    mask: tuple[Points, ...] | None = None
    keypoints: tuple[Points, ...] | None = None
    corners: tuple[Points, ...] | None = None
    angle: float | None = None

    @property
    def area(self) -> float:
        """Square pixels of the mask's parts, else of the rotated box, else of the box."""
        if self.mask is not None:
            return sum(map(_enclosed, self.mask))
        if self.corners is not None:
            return _enclosed([value for corner in self.corners for value in corner])
        x1, y1, x2, y2 = self.xyxy
        return (x2 - x1) * (y2 - y1)

    def to_json(self) -> DetectionJSON:
        """Coordinates are rounded to 0.01 px, the rest to 0.0001: finer digits are noise of the arithmetic."""
        data: DetectionJSON = {
            "class": self.class_name,
            "coordinates": [round(value, 2) for value in self.xyxy],
            "confidence": round(self.confidence, 4),
            "class_id": self.class_id,
        }
        if self.mask is not None:
            data["mask"] = [[round(value, 2) for value in outline] for outline in self.mask]
        if self.keypoints is not None:
            data["keypoints"] = [
                [*(round(value, 2) for value in point[:2]), *(round(value, 4) for value in point[2:])]
                for point in self.keypoints
            ]
        if self.corners is not None:
            data["corners"] = [[round(value, 2) for value in corner] for corner in self.corners]
        if self.angle is not None:
            data["angle"] = round(self.angle, 4)
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Detection:
        """Raises KeyError, TypeError or ValueError on another shape."""
        x1, y1, x2, y2 = (float(value) for value in data["coordinates"])
        mask, keypoints, corners = (
            None if data.get(key) is None else tuple(tuple(float(value) for value in part) for part in data[key])
            for key in ("mask", "keypoints", "corners")
        )
        angle = None if data.get("angle") is None else float(data["angle"])
        coordinates, confidence, class_id = (x1, y1, x2, y2), float(data["confidence"]), int(data["class_id"])
        return cls(str(data["class"]), coordinates, confidence, class_id, mask, keypoints, corners, angle)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model gives the answers.

    Attributes:
        name: `yolov8n`, a W&B collection's name, or a checkpoint's file name without suffix.
        version: W&B's `vN`, or None for a local checkpoint.
        digest: `sha256:` and the hex SHA-256 of the checkpoint file.
        fallback: True if this is the base model, served because the requested one was unavailable.
        stale: True if W&B could not be reached, and this is what the reference last resolved to.
        reason: why it is a fallback or stale; None if it is neither.
        reference: what the user asked for.
        task: what it was trained for; services before others than detection say nothing of it.
    """

    name: str
    version: str | None
    digest: str
    fallback: bool = False
    stale: bool = False
    reason: str | None = None
    reference: str = ""
    task: Task = "detect"

    def to_json(self) -> dict[str, Any]:
        """All keys, always."""
        return {name: getattr(self, name) for name in self.__slots__}  # `asdict` takes 8 times as long

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelInfo:
        """Raises TypeError on another shape."""
        return _read(cls, data)


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """The answer for one image, which shows itself in a notebook.

    Attributes:
        detections: by descending confidence.
        width, height: of the upright source, in pixels.
        truncated: whether there are more, left out because so many are the most that were asked for.
        read_image: reads the encoded image again, as the service saw it; raises SourceUnreadable if its file is gone
            or another one now. None where the image was downloaded. An image that was given as bytes is kept for it.
    """

    detections: tuple[Detection, ...]
    width: int
    height: int
    model: ModelInfo
    truncated: bool = False
    read_image: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> ResultJSON:
        """The body of a `/detect` answer."""
        data: ResultJSON = {
            "status": "found" if self.detections else "not found",
            "objects": [detection.to_json() for detection in self.detections],
            "image": {"width": self.width, "height": self.height},
            "model": self.model.to_json(),
        }
        if self.truncated:
            data["truncated"] = True
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DetectionResult:
        """Raises KeyError, TypeError or ValueError on another shape."""
        return cls(
            tuple(Detection.from_json(item) for item in data["objects"]),
            int(data["image"]["width"]),
            int(data["image"]["height"]),
            ModelInfo.from_json(data["model"]),
            bool(data.get("truncated", False)),
        )

    def to_supervision(self) -> Any:
        """The same in the types of the package `supervision`, as its own `from_ultralytics` would have it.

        A `KeyPoints` of a model for poses, with the boxes as `data["xyxy"]`; a `Classifications` of one that
        classifies; else a `Detections`. Masks are boolean arrays of the size of the image, one for each object; the
        corners of rotated boxes are `data["xyxyxyxy"]`, names of classes `data["class_name"]`.

        Raises:
            NotInstalled: the package is not installed, or does not load.
        """
        from detectctl import for_supervision

        return for_supervision.converted(self)

    def _repr_html_(self) -> str:
        from detectctl import notebook

        return notebook.html_of(self)


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """What is asked about an image; None and empty leave it to the service.

    Attributes:
        confidence: detections below it are left out, 0 to 1.
        iou: of two boxes of a class that overlap more, the weaker is left out, 0 to 1.
        classes: names of the classes to keep; all if empty.
        class_confidence: of classes for which another `confidence` holds. Where that is None, the service's own hold
            for the others; otherwise none of the service's do.
        max_det: how many detections there may be, the most confident ones.
        agnostic_nms: whether boxes of different classes count as of one for `iou`.
    """

    confidence: float | None = None
    iou: float | None = None
    classes: tuple[str, ...] = ()
    class_confidence: Mapping[str, float] = field(default_factory=dict, hash=False)
    max_det: int | None = None
    agnostic_nms: bool | None = None

    def parameters(self) -> list[tuple[str, str]]:
        """As the query of `/detect` and `/annotate`."""
        agnostic = None if self.agnostic_nms is None else str(self.agnostic_nms).lower()
        values = (
            ("conf", str(Thresholds(self.confidence, dict(self.class_confidence))) or None),
            ("iou", self.iou),
            ("max_det", self.max_det),
            ("agnostic_nms", agnostic),
        )
        parameters = [("class", name) for name in self.classes]
        return parameters + [(key, str(value)) for key, value in values if value is not None]


@dataclass(frozen=True, slots=True)
class DrawOptions:
    """How an annotated image looks.

    Attributes:
        labels: whether class and confidence are written at each box.
        line_width: pixels of a box's line; None grows with the image.
        quality: of a JPEG or WebP, 1 to 100.
    """

    labels: bool = LABELS
    line_width: int | None = None
    quality: int = QUALITY

    def parameters(self) -> list[tuple[str, str]]:
        """As the query of `/annotate`: only what differs from the default."""
        given = [(item.name, getattr(self, item.name), item.default) for item in fields(self)]
        return [(name, str(value).lower()) for name, value, default in given if value != default]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far int8 is from fp32: measured on the images that it was calibrated on, at the default thresholds.

    Boxes are objects: of a model that segments IoU is that of the masks, of rotated boxes that of the rectangles. Of a
    model that classifies, the most confident class of an image is its one object.

    Attributes:
        skipped: files that are not images.
        recall: of fp32's boxes, the share that int8 found too: same class, IoU of at least 0.5.
        precision: of int8's boxes, the share that fp32 found too.
        mean_iou: of the boxes that both found.
        confidence_gap: the greatest difference of confidence between two of these.
        keypoint_distance: the mean between their keypoints, as a share of the box's diagonal; None without keypoints.
    """

    images: int
    skipped: int
    fp32_boxes: int
    int8_boxes: int
    recall: Share
    precision: Share
    mean_iou: Share
    confidence_gap: Share
    keypoint_distance: float | None = None

    @property
    def loss(self) -> float:
        """The share of boxes that int8 misses or invents, whichever is greater."""
        return 1 - min(self.recall, self.precision)

    def __str__(self) -> str:
        figures = f"recall {self.recall:.2f}, precision {self.precision:.2f}, IoU {self.mean_iou:.2f}"
        if self.keypoint_distance is not None:
            figures += f", keypoints {self.keypoint_distance:.3f} of the box apart"
        return f"{figures} against fp32 on {self.images} image{'' if self.images == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What computes; None is what only a replica knows, and none is there to ask.

    Attributes:
        precision: of the arithmetic, as the engine chose it.
        threads: CPU threads that it may use.
        streams: batches that it works on at the same time under load.
        batch: images that it takes together at most.
        agreement: of int8 with fp32; None for the other precisions.
    """

    name: EngineName
    device: Device
    precision: Precision | None
    threads: int | None = None
    streams: int | None = None
    batch: int | None = None
    agreement: Agreement | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a service accepts: bytes of an encoded image, pixels of a decoded one, requests at once in a replica."""

    image_bytes: int
    image_pixels: int
    queue: int
    url_input: bool


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for a request that does not say otherwise; none changes `imgsz`, the longer side the network sees.

    Attributes:
        trained_imgsz: height and width in pixels that the model was trained at; None if it does not say.
        class_conf: of the classes for which another `conf` holds; these and what follows, an older service lacks.
    """

    imgsz: int
    conf: Share
    iou: Share
    trained_imgsz: list[int] | None = None
    class_conf: dict[str, Share] = field(default_factory=dict)
    max_det: Annotated[int, {"minimum": 1}] = MAX_DET
    agnostic_nms: bool = False


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """The body of `/info`.

    Attributes:
        version: of detectctl in the replica.
        deployment: identifies model and settings; equal for two replicas that serve the same in the same way.
        classes: class id → the model's name of the class.
    """

    schema: int
    version: str
    deployment: str
    model: ModelInfo
    classes: dict[str, str]
    engine: EngineInfo
    limits: Limits
    defaults: Defaults

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServiceInfo:
        """Raises KeyError, TypeError, ValueError or AttributeError on another shape."""
        agreement = data["engine"].get("agreement")
        if agreement is not None:
            agreement = _read(Agreement, agreement)
        return _read(
            cls,
            data,
            model=ModelInfo.from_json(data["model"]),
            engine=_read(EngineInfo, data["engine"], agreement=agreement),
            limits=_read(Limits, data["limits"]),
            defaults=_read(Defaults, data["defaults"]),
            classes={str(int(class_id)): str(name) for class_id, name in data["classes"].items()},
        )


class ErrorJSON(TypedDict):
    """An error, the same over HTTP, in `--json` and in the records of `detect`; the code is of `detectctl.errors`."""

    code: str
    message: str
    why: str | None
    hint: str | None


def error_json(error: DetectctlError) -> ErrorJSON:
    """The error as it travels."""
    return {"code": error.code, "message": error.what, "why": error.why, "hint": error.hint}


def error_body(error: DetectctlError) -> dict[str, Any]:
    """The body of an answer that is an error."""
    return {"status": "error", "error": error_json(error)}


def error_from_json(data: dict[str, Any]) -> RequestError:
    """The error that a service answered with, to be raised again; raises KeyError or TypeError on another shape."""
    code, what, why, hint = data["code"], data["message"], data.get("why"), data.get("hint")
    if not all(isinstance(part, str) for part in (code, what, why or "", hint or "")):
        raise TypeError("not an error of detectctl")
    error = REQUEST_ERRORS.get(code, RequestError)(what, why=why, hint=hint)
    error.code = code  # a service of a later version may know more codes
    return error


def versioned(data: dict[str, Any]) -> dict[str, Any]:
    """What a command prints with `--json`: the data with the number of its schema in front."""
    return {"schema": SCHEMA, **data}
