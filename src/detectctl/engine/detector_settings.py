"""What a replica's detector is made with, and the default of each setting; imports nothing that is slow to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from detectctl.defaults import MAX_DET

if TYPE_CHECKING:
    from detectctl.wire import Device, EngineName, Precision

CONFIDENCE = 0.25
IOU = 0.7
MAX_IMAGE_BYTES = 20 * 2**20
MAX_IMAGE_PIXELS = 64_000_000
MOST_PIXELS = 10**9
"""That `max_image_pixels` may be: OpenCV decodes no more than 2**30."""
BYTES_PER_PIXEL = 22
"""At most, while an image is decoded: measured 6 for JPEG, 10 for PNG and TIFF, 22 for WebP."""


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """What a detector needs to know; travels as JSON, by `asdict`.

    Attributes:
        model: for `openvino` the folder of the compiled model, for `torch` the checkpoint.
        sha256: hex digest of the checkpoint; a model made from another one is not served.
        engine: which engine computes.
        device: where it computes; `openvino` runs on `cpu` only.
        precision: of the arithmetic; `auto` is the fastest that the device computes in natively and without
            calibration. `int8` is for a model that `quantise` made, and for no other.
        imgsz: pixels of the longer side that the network sees, rounded up to a multiple of the model's stride; None as
            it was trained.
        confidence: default threshold; a detection is strictly above it.
        class_confidence: default thresholds of the classes that have one of their own.
        iou: default threshold of NMS.
        max_det: default of the most detections in an image.
        agnostic_nms: whether boxes of different classes suppress each other by default.
        threads: CPU threads; None for as many as this process may use.
        streams: `openvino` only: images at a time, when several wait; None for as many as there are threads.
        trust_checkpoint: `torch` only: load it even if that runs code it brings along.
        max_image_bytes: of an encoded image.
        max_image_pixels: of a decoded image.
    """

    model: str
    sha256: str
    engine: EngineName = "openvino"
    device: Device = "cpu"
    precision: Literal["auto"] | Precision = "auto"
    imgsz: int | None = None
    confidence: float = CONFIDENCE
    class_confidence: dict[str, float] = field(default_factory=dict)
    iou: float = IOU
    max_det: int = MAX_DET
    agnostic_nms: bool = False
    threads: int | None = None
    streams: int | None = None
    trust_checkpoint: bool = False
    max_image_bytes: int = MAX_IMAGE_BYTES
    max_image_pixels: int = MAX_IMAGE_PIXELS
