"""The child process that quantises: takes an fp32 network and images, gives an int8 network and its agreement.

Request: that of `compiled.make_once`, with `fp32` (folder of the fp32 network), `imgsz`, `folder` (as the user named
it), `images` (path and sha256 of each). The result is empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detectctl.child import serve_parent
from detectctl.engine.compiled import load_compiled, seal
from detectctl.engine.cpus import available_cpus
from detectctl.engine.decode import decode
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.engine.int8.agreement import compare
from detectctl.engine.int8.calibration import unusable
from detectctl.engine.letterbox import fit
from detectctl.engine.openvino_engine import OpenVINOEngine
from detectctl.errors import ConversionFailed, RequestError
from detectctl.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.child import Message
    from detectctl.engine.compiled import CompiledModel
    from detectctl.progress import Report
    from detectctl.wire import Detection, Precision

    Stage = Callable[[str, float | None], None]
    Transform = Callable[[tuple[int, "_Image"]], NDArray[np.uint8]]


class _Image(NamedTuple):
    """A file that may be an image, to quantise the model of that name; its digest is None if it could not be read."""

    model: str
    path: str
    sha256: str | None

    def read(self) -> bytes:
        """Its bytes; ConversionFailed if they are not the ones that the result will be cached for."""
        data = None
        with contextlib.suppress(OSError):
            data = Path(self.path).read_bytes()
        if data is None or hashlib.sha256(data).hexdigest() != self.sha256:
            raise ConversionFailed(
                f"{self.model} could not be quantised",
                why=f"{self.path} was written to meanwhile",
                hint="run `detectctl up` again once nothing writes to that folder",
            )
        return data


def quantise(request: Message, report: Report) -> Message:
    """Quantise `request["fp32"]` into `request["output"]`.

    Raises:
        UsageError: none of the images can be decoded, or fp32 finds nothing in them.
        ConversionFailed: an image was written to meanwhile.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would report each use to its maker
    sys.modules["torch"] = None  # type: ignore[assignment]  # NNCF would load it and make no use of it here

    def stage(name: str, fraction: float | None = None) -> None:
        report(Progress("quantise", f"{request['name']}: {name}", fraction=fraction))

    stage("import")
    import cv2

    cv2.setNumThreads(1)  # images are decoded in several threads already
    fp32 = load_compiled(Path(request["fp32"]), checkpoint_sha256=request["checkpoint_sha256"])
    int8 = replace(fp32, directory=Path(request["output"]))
    settings = DetectorSettings("", "", imgsz=request["imgsz"])
    files = [_Image(request["name"], *image) for image in request["images"]]

    seen = _detect(fp32, "fp32", settings, files, stage)
    expected = {image: found for image, found in zip(files, seen, strict=True) if found is not None}
    if not expected:
        raise unusable(request["folder"], f"none of {len(files)} files can be decoded as an image")
    if not any(expected.values()):
        why = f"the model finds nothing in {len(expected)} images, so there is nothing to compare"
        raise unusable(request["folder"], why)
    images = list(expected)

    def letterboxed(item: tuple[int, _Image]) -> NDArray[np.uint8]:
        index, image = item
        stage("calibrate", index / len(images))
        pixels = decode(image.read(), max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
        return fit(pixels, fp32.trained, fp32.trained.size(settings.imgsz))[0]

    _quantise(fp32, int8, images, letterboxed)
    stage("save")
    found = [detections or () for detections in _detect(int8, "int8", settings, images, stage)]
    skipped = len(files) - len(images)
    seal(replace(int8, agreement=compare(expected.values(), found, task=fp32.trained.task, skipped=skipped)))
    return {}


def _detect(
    model: CompiledModel, precision: Precision, settings: DetectorSettings, images: Sequence[_Image], stage: Stage
) -> list[tuple[Detection, ...] | None]:
    """The detections in each image, as the service would answer; None where the file is not an image."""
    threads = available_cpus()
    detector = Detector(OpenVINOEngine(model, precision=precision, threads=threads, streams=threads), settings)

    def detect(image: _Image) -> tuple[Detection, ...] | None:
        if image.sha256 is None:
            return None
        try:
            return detector.detect(image.read())[1].detections
        except RequestError:  # the service would refuse it too
            return None

    results = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(detect, images):
            results.append(result)
            stage(precision, len(results) / len(images))
    detector.close()
    return results


def _quantise(fp32: CompiledModel, int8: CompiledModel, images: Sequence[_Image], letterboxed: Transform) -> None:
    import nncf
    import openvino as ov
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    quantised = nncf.quantize(
        ov.Core().read_model(fp32.network),
        nncf.Dataset(list(enumerate(images)), letterboxed),  # decoded one at a time: all at once would fill the memory
        # Activations after SiLU reach further up than down.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        # OpenVINO 2026.4 crashes on depthwise convolutions in int8 with small maps, where the processor has AMX.
        # Measured on YOLO11n: they gain nothing in int8.
        ignored_scope=nncf.IgnoredScope(types=["GroupConvolution"], validate=False),  # not every network has any
        # With the default, single outliers widen a range. Measured: confidences and box sides move a quarter less.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
        ),
    )
    # The head's decoding needs no exception: the converter has taken it out of the graph.
    ov.save_model(quantised, int8.network, compress_to_fp16=False)


if __name__ == "__main__":
    serve_parent(quantise)
