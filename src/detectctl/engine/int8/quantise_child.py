"""The child process that quantises: takes an fp32 network and images, gives an int8 network and its agreement.

Request: `network` (folder of the fp32 network), `output` (an existing folder), `checkpoint_sha256`, `labels`,
`strides`, `imgsz`, `images` (path and sha256 of each), `name` (for reports). Result: the fields of `Agreement`. Errors:
kinds `images` (none can be used) and `changed` (one was written to meanwhile).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
from detectctl.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.child import Message
    from detectctl.progress import Report
    from detectctl.wire import Detection, Precision

    Stage = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class _Image:
    """A file that may be an image.

    Attributes:
        path: absolute.
        sha256: hex digest that its bytes must have; None if it could not be read.
    """

    path: str
    sha256: str | None

    def read(self) -> bytes:
        """Its bytes; raises ChildFailed if they are not the ones that the result will be cached for."""
        data = None
        with contextlib.suppress(OSError):
            data = Path(self.path).read_bytes()
        if data is None or hashlib.sha256(data).hexdigest() != self.sha256:
            raise ChildFailed("changed", f"{self.path} was written to meanwhile")
        return data


def quantise(request: Message, report: Report) -> Message:
    """Quantise `request["network"]` into `request["output"]`; raises ChildFailed as the module says."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would report each use to its maker
    sys.modules["torch"] = None  # type: ignore[assignment]  # NNCF would load it and make no use of it here

    def stage(name: str, fraction: float | None = None) -> None:
        report(Progress("quantise", f"{request['name']}: {name}", fraction=fraction))

    stage("import")
    import cv2

    cv2.setNumThreads(1)  # images are decoded in several threads already
    labels = {int(class_id): label for class_id, label in request["labels"].items()}
    fp32 = CompiledModel(Path(request["network"]), request["checkpoint_sha256"], labels, tuple(request["strides"]))
    int8 = CompiledModel(Path(request["output"]), request["checkpoint_sha256"], labels, tuple(request["strides"]))
    settings = DetectorSettings("", "", imgsz=request["imgsz"])
    files = [_Image(path, sha256) for path, sha256 in request["images"]]

    seen = _detect(fp32, "fp32", settings, files, stage)
    expected = {image: found for image, found in zip(files, seen, strict=True) if found is not None}
    if not expected:
        raise ChildFailed("images", f"none of {len(files)} files can be decoded as an image")
    if not any(expected.values()):
        raise ChildFailed(
            "images", f"the model finds nothing in {len(expected)} images, so there is nothing to compare"
        )
    _quantise(fp32, int8.network, _Letterboxes(list(expected), settings, fp32.stride, stage), len(expected))
    stage("save")
    found = [detections or () for detections in _detect(int8, "int8", settings, list(expected), stage)]
    return asdict(compare(expected.values(), found, skipped=len(files) - len(expected)))


def _detect(
    model: CompiledModel, precision: Precision, settings: DetectorSettings, images: Sequence[_Image], stage: Stage
) -> list[tuple[Detection, ...] | None]:
    """The detections in each image, as the service would answer; None where the file is not an image."""
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
            stage(precision, len(results) / len(images))
    detector.close()
    return results


@dataclass(frozen=True, slots=True)
class _Letterboxes:
    """The images as the network takes them, decoded one at a time: all at once would fill the memory."""

    images: Sequence[_Image]
    settings: DetectorSettings
    stride: int
    report_stage: Stage

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        imgsz = -(-self.settings.imgsz // self.stride) * self.stride
        limits = {"max_bytes": self.settings.max_image_bytes, "max_pixels": self.settings.max_image_pixels}
        for index, image in enumerate(self.images):
            self.report_stage("calibrate", index / len(self.images))
            yield letterbox(decode(image.read(), **limits), imgsz, self.stride)[0]


def _quantise(model: CompiledModel, network: Path, images: _Letterboxes, count: int) -> None:
    import nncf
    import openvino as ov
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    quantised = nncf.quantize(
        ov.Core().read_model(model.network),
        nncf.Dataset(images),
        # Activations after SiLU reach further up than down.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=count,
        # With the default, single outliers widen a range. Measured: confidences and box sides move a quarter less.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
        ),
    )
    # The head's decoding needs no exception: the converter has taken it out of the graph.
    ov.save_model(quantised, network, compress_to_fp16=False)


if __name__ == "__main__":
    serve_parent(quantise)
