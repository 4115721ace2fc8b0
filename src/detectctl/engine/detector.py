"""The detector: takes the bytes of an image, gives detections. A plain class that knows nothing of servers.

`decode` and `detect_image` are apart so that a caller can time the two, or draw on the decoded image.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from detectctl.defaults import MAX_DET, MOST_DET
from detectctl.engine.compiled import load_compiled
from detectctl.engine.cpus import available_cpus
from detectctl.engine.decode import decode
from detectctl.engine.letterbox import fit
from detectctl.engine.nms import select
from detectctl.engine.objects import classified, located
from detectctl.engine.trained import LISTED
from detectctl.errors import BadParameter, UsageError
from detectctl.wire import DetectOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from detectctl.engine.detector_settings import DetectorSettings
    from detectctl.engine.interface import Engine
    from detectctl.wire import Detection, EngineInfo, Task


@dataclass(frozen=True, slots=True)
class Found:
    """What is in one image.

    Attributes:
        detections: by descending confidence.
        truncated: whether there are more, beyond the most that were asked for.
    """

    detections: tuple[Detection, ...]
    truncated: bool = False


class Detector:
    """A loaded model; may be called from many threads at once.

    Attributes:
        settings: those of thresholds hold where a request says nothing, and may be replaced while it runs.
        labels: the model's own name of each class id.
        task: what it was trained for.
        trained_imgsz: height and width in pixels that it was trained at; None where it is not said.
        imgsz: height and width in pixels of what its network sees; less of one of them where a picture is narrower.
    """

    def __init__(self, engine: Engine, settings: DetectorSettings) -> None:
        self._engine = engine
        self.settings = settings
        self.imgsz = engine.trained.size(settings.imgsz)
        self._busy = 0
        self._lock = threading.Lock()
        self.labels = engine.trained.labels
        self.task: Task = engine.trained.task
        self.trained_imgsz = engine.trained.imgsz

    @classmethod
    def load(cls, settings: DetectorSettings) -> Detector:
        """Load the model and make it ready.

        Raises:
            ModelCorrupt: the model's files are damaged, or were made from another checkpoint.
            CheckpointRefused: `torch` only: see `compile_checkpoint`.
            UsageError: the device or precision is not available here, or not with this model.
        """
        import cv2

        cv2.setNumThreads(1)  # its pool would compete with the engine's
        threads = settings.threads or available_cpus()
        if settings.engine == "torch":
            from detectctl.engine.torch_engine import TorchEngine

            return cls(TorchEngine(settings, threads=threads), settings)
        if settings.device != "cpu":
            raise UsageError(
                f"the engine openvino does not run on {settings.device}",
                why="it computes on the CPU",
                hint="use `--device cpu`",
            )
        from detectctl.engine.openvino_engine import OpenVINOEngine

        model = load_compiled(Path(settings.model), checkpoint_sha256=settings.sha256)
        if (model.agreement is not None) != (settings.precision == "int8"):
            raise UsageError(
                f"the precision {settings.precision} is not available with this model",
                why=f"it was made for {'floating point' if model.agreement is None else 'int8'}",
                hint="run `detectctl up` again: it makes a model for that precision",
            )
        precision = None if settings.precision == "auto" else settings.precision
        return cls(
            OpenVINOEngine(model, precision=precision, threads=threads, streams=settings.streams or threads), settings
        )

    @property
    def workers(self) -> int:
        """How many threads keep the engine busy while others decode; more would only keep images in memory.

        Measured with 2 streams: 3 threads give 0.94 of the throughput of 8, 4 give 0.99.
        """
        info = self._engine.info
        return (info.streams or 1) * (info.batch or 1) + 2

    def engine_info(self) -> EngineInfo:
        """What runs, for `/info`."""
        return self._engine.info

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """The image as upright RGB (height, width, 3); limits are those of the settings. Raises as `decode.decode`."""
        with self._working():
            return decode(data, max_bytes=self.settings.max_image_bytes, max_pixels=self.settings.max_image_pixels)

    def detect_image(self, image: NDArray[np.uint8], options: DetectOptions | None = None) -> Found:
        """What is in an RGB image (height, width, 3), as `decode` gives it.

        What `options` leave open, the settings say. A model that classifies goes by none of them.

        Raises:
            BadParameter: a value is out of range, or the model has no class of that name.
        """
        options, settings, trained = options or DetectOptions(), self.settings, self._engine.trained
        iou = _within("iou", settings.iou if options.iou is None else options.iou, 0, 1)
        limit = _within("max_det", settings.max_det if options.max_det is None else options.max_det, 1, MOST_DET)
        agnostic = settings.agnostic_nms if options.agnostic_nms is None else options.agnostic_nms
        thresholds = self._thresholds(options)
        classes = {class_id for name in options.classes for class_id in self._ids(name)} if options.classes else None
        with self._working() as alone:
            box, placement = fit(image, trained, self.imgsz)
            (candidates,) = self._engine.infer(box, [float(thresholds.min())], alone=alone)
        if trained.task == "classify":
            return Found(classified(candidates.scores[:, 0], trained, placement))
        if not candidates.scores.shape[1]:
            return Found(())
        queries = trained.head.kind == "queries"
        selection = select(
            candidates,
            iou=None if trained.head.one_to_one else iou,
            confidence=thresholds,
            classes=classes,
            rotated=trained.task == "obb",
            # Ultralytics' decoder of queries gives so many at most, and does not know the other.
            agnostic=agnostic and not queries,
            limit=min(limit, MAX_DET) if queries else limit,
        )
        return Found(located(candidates, selection, trained, placement, box.shape[1:3]), selection.truncated)

    def detect(self, data: bytes, options: DetectOptions | None = None) -> tuple[NDArray[np.uint8], Found]:
        """`decode`, then `detect_image`: the image and what is in it. Raises what they raise."""
        image = self.decode(data)
        return image, self.detect_image(image, options)

    def warm_up(self) -> None:
        """Answer a picture in every form of the network, so that whatever fails does so here and not in a request."""
        picture = _picture()
        # The settings' limits are for other people's images, and with their threshold there might be no box to name.
        image = decode(picture, max_bytes=len(picture), max_pixels=640 * 480)
        options = DetectOptions(confidence=0)
        self.detect_image(image, options)
        with self._working():  # the next one is not alone
            self.detect_image(image, options)

    def close(self) -> None:
        """Free what the engine holds; the detector must not be used afterwards."""
        self._engine.close()

    @contextmanager
    def _working(self) -> Iterator[bool]:
        """Count those at work; True for one that is alone."""
        with self._lock:
            self._busy += 1
            alone = self._busy == 1
        try:
            yield alone
        finally:
            with self._lock:
                self._busy -= 1

    def _thresholds(self, options: DetectOptions) -> NDArray[np.float32]:
        """(classes,): that of the class if it has one, else that of all. A request's replace those of the settings."""
        confidence, by_class = options.confidence, options.class_confidence
        if confidence is None:
            confidence, by_class = self.settings.confidence, {**self.settings.class_confidence, **by_class}
        thresholds = np.full(len(self.labels), _within("conf", confidence, 0, 1), np.float32)
        for name, value in by_class.items():
            thresholds[self._ids(name)] = _within(f"conf of {name[:100]!r}", value, 0, 1)
        return thresholds

    def _ids(self, name: str) -> list[int]:
        """Of the classes of that name; raises BadParameter if there is none."""
        trained = self._engine.trained
        if not (ids := trained.ids(name)):
            raise BadParameter(
                f"the model has no class {name[:100]!r}",
                why=trained.nearest(name),
                hint="use one of these names" if len(trained.labels) <= LISTED else "`/info` lists them all",
            )
        return ids


def _picture() -> bytes:
    """A 640x480 JPEG in all colours, in place of a photograph."""
    import cv2

    rows, columns = np.mgrid[0:480, 0:640].astype(np.uint8)
    encoded = cv2.imencode(".jpg", np.dstack((rows, columns, rows ^ columns)))[1]
    return encoded.tobytes()


N = TypeVar("N", int, float)


def _within(name: str, value: N, low: N, high: N) -> N:
    if not low <= value <= high:  # NaN fails this, too
        raise BadParameter(
            f"{name} is {value}", why=f"it must be from {low} to {high}", hint="leave it out for the service's own"
        )
    return value
