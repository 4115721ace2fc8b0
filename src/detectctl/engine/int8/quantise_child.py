"""The child process that quantises: a network in fp32 and images in, a network in int8 and its agreement out.

Request: `network` (folder of the fp32 network), `output` (an existing folder), `checkpoint_sha256`, `labels`,
`strides`, `imgsz`, `images` (path and sha256 of each). Result: the fields of `Agreement`. Events: `{"stage": …}`, some
with `fraction`. Errors: kinds `images` (none is of use) and `changed` (one is not what it was a moment ago).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl.child import ChildFailed, serve_parent
from detectctl.engine.compiled import CompiledModel
from detectctl.engine.cpus import available_cpus
from detectctl.engine.decode import decode
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.engine.int8.agreement import compare
from detectctl.engine.letterbox import letterbox
from detectctl.engine.openvino_engine import OpenVINOEngine
from detectctl.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.wire import Detection, Precision

    Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class _Image:
    """A file that may be an image.

    Attributes:
        path: of the file.
        sha256: that its bytes must have; None if it could not be read.
    """

    path: str
    sha256: str | None

    def read(self) -> bytes:
        """Its bytes; raises ChildFailed if they are not those that the result will be kept for."""
        data = None
        with contextlib.suppress(OSError):
            data = Path(self.path).read_bytes()
        if data is None or hashlib.sha256(data).hexdigest() != self.sha256:
            raise ChildFailed("changed", f"{self.path} was changed meanwhile")
        return data


def quantise(request: dict[str, Any], send: Send) -> dict[str, Any]:
    """Quantise `request["network"]` into `request["output"]`; raises ChildFailed as the module says."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would report each use to its maker
    sys.modules["torch"] = None  # type: ignore[assignment]  # NNCF would load it, and do nothing with it here
    send({"stage": "import"})
    import cv2

    cv2.setNumThreads(1)  # images are decoded in several threads already
    labels = {int(class_id): label for class_id, label in request["labels"].items()}
    fp32 = CompiledModel(Path(request["network"]), request["checkpoint_sha256"], labels, tuple(request["strides"]))
    int8 = CompiledModel(Path(request["output"]), request["checkpoint_sha256"], labels, tuple(request["strides"]))
    settings = DetectorSettings("", "", imgsz=request["imgsz"])
    files = [_Image(path, sha256) for path, sha256 in request["images"]]

    seen = _detect(fp32, "fp32", settings, files, send)
    expected = {image: found for image, found in zip(files, seen, strict=True) if found is not None}
    if not expected:
        raise ChildFailed("images", f"none of {len(files)} files can be decoded as an image")
    if not any(expected.values()):
        raise ChildFailed(
            "images", f"the model finds nothing in {len(expected)} images, so there is nothing to compare"
        )
    _quantise(fp32, int8.network, _Letterboxes(list(expected), settings, fp32.stride, send), len(expected))
    send({"stage": "save"})
    found = [detections or () for detections in _detect(int8, "int8", settings, list(expected), send)]
    return asdict(compare(expected.values(), found, skipped=len(files) - len(expected)))


def _detect(
    model: CompiledModel, precision: Precision, settings: DetectorSettings, images: Sequence[_Image], send: Send
) -> list[tuple[Detection, ...] | None]:
    """The detections in each image, as the service would answer; None for what is no image."""
    threads = available_cpus()
    detector = Detector(OpenVINOEngine(model, precision=precision, threads=threads), settings)

    def detect(image: _Image) -> tuple[Detection, ...] | None:
        if image.sha256 is None:
            return None
        try:
            return detector.detect(image.read())[1]
        except RequestError:  # the service would refuse it too
            return None

    results = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(detect, images):
            results.append(result)
            send({"stage": precision, "fraction": len(results) / len(images)})
    detector.close()
    return results


@dataclass(frozen=True, slots=True)
class _Letterboxes:
    """The images as the network takes them, decoded when their turn comes: all at once would fill the memory."""

    images: Sequence[_Image]
    settings: DetectorSettings
    stride: int
    send: Send

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        imgsz = -(-self.settings.imgsz // self.stride) * self.stride
        limits = {"max_bytes": self.settings.max_image_bytes, "max_pixels": self.settings.max_image_pixels}
        for index, image in enumerate(self.images):
            self.send({"stage": "calibrate", "fraction": index / len(self.images)})
            yield letterbox(decode(image.read(), **limits), imgsz, self.stride)[0]


def _quantise(model: CompiledModel, network: Path, images: _Letterboxes, count: int) -> None:
    import nncf
    import openvino as ov
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    quantised = nncf.quantize(
        ov.Core().read_model(model.network),
        nncf.Dataset(images),
        # Activations behind SiLU reach further up than down.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=count,
        # Measured against the default, which lets single outliers widen a range: confidences and box sides move by a
        # quarter less.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
        ),
    )
    # The head's decoding needs no exception: the converter took it out of the graph.
    ov.save_model(quantised, network, compress_to_fp16=False)


if __name__ == "__main__":
    serve_parent(quantise)
