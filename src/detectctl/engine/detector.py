"""The detector: takes the bytes of an image, gives detections. A plain class that knows nothing of servers.

`decode` and `detect_image` are apart so that a caller can time the two, or draw on the decoded image.
"""

from __future__ import annotations

import difflib
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detectctl.engine.compiled import load_compiled
from detectctl.engine.cpus import available_cpus
from detectctl.engine.decode import decode
from detectctl.engine.letterbox import fit
from detectctl.engine.nms import select
from detectctl.engine.objects import classified, located
from detectctl.errors import BadParameter, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from detectctl.engine.detector_settings import DetectorSettings
    from detectctl.engine.interface import Engine
    from detectctl.wire import Detection, EngineInfo, Task


class Detector:
    """A loaded model; may be called from many threads at once.

    Attributes:
        labels: the model's own name of each class id.
        task: what it was trained for.
        trained_imgsz: height and width in pixels that it was trained at; None where it is not said.
        imgsz: height and width in pixels of what its network sees; less of one of them where a picture is narrower.
    """

    def __init__(self, engine: Engine, settings: DetectorSettings) -> None:
        self._engine = engine
        self._settings = settings
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
        return cls(OpenVINOEngine(model, precision=precision, threads=threads), settings)

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
            return decode(data, max_bytes=self._settings.max_image_bytes, max_pixels=self._settings.max_image_pixels)

    def detect_image(
        self,
        image: NDArray[np.uint8],
        *,
        confidence: float | None = None,
        iou: float | None = None,
        classes: Collection[str] | None = None,
    ) -> tuple[Detection, ...]:
        """Detections in an RGB image (height, width, 3), by descending confidence.

        Args:
            image: as `decode` gives it.
            confidence: threshold from 0 to 1; None for the one of the settings.
            iou: threshold of NMS from 0 to 1; None for the one of the settings. No effect on a model that needs no NMS.
            classes: names of the classes to report; None or empty for all.

        Raises:
            BadParameter: a threshold is out of range, or the model has no class of that name.
        """
        confidence = _fraction("conf", self._settings.confidence if confidence is None else confidence)
        iou = _fraction("iou", self._settings.iou if iou is None else iou)
        class_ids = self._ids(classes) if classes else None
        with self._working() as alone:
            box, placement = fit(image, self._engine.trained, self.imgsz)
            (candidates,) = self._engine.infer(box, [confidence], alone=alone)
        trained = self._engine.trained
        if trained.task == "classify":
            return classified(candidates.scores[:, 0], trained, placement)
        selection = select(
            candidates,
            iou=None if trained.head.one_to_one else iou,
            confidence=confidence,
            classes=class_ids,
            rotated=trained.task == "obb",
        )
        return located(candidates, selection, trained, placement, box.shape[1:3])

    def detect(
        self,
        data: bytes,
        *,
        confidence: float | None = None,
        iou: float | None = None,
        classes: Collection[str] | None = None,
    ) -> tuple[NDArray[np.uint8], tuple[Detection, ...]]:
        """`decode`, then `detect_image`: the image and its detections. Raises what they raise."""
        image = self.decode(data)
        return image, self.detect_image(image, confidence=confidence, iou=iou, classes=classes)

    def warm_up(self) -> None:
        """Answer a picture in every form of the network, so that whatever fails does so here and not in a request."""
        picture = _picture()
        # The settings' limits are for other people's images, and with their threshold there might be no box to name.
        image = decode(picture, max_bytes=len(picture), max_pixels=640 * 480)
        self.detect_image(image, confidence=0)
        with self._working():  # the next one is not alone
            self.detect_image(image, confidence=0)

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

    def _ids(self, classes: Collection[str]) -> set[int]:
        for name in classes:
            if name not in self.labels.values():
                (nearest,) = difflib.get_close_matches(name[:100], self.labels.values(), n=1, cutoff=0)
                raise BadParameter(
                    f"the model has no class {name[:100]!r}",
                    why=f"the nearest of its {len(self.labels)} classes is {nearest!r}",
                    hint="`/info` lists them all",
                )
        return {class_id for class_id, label in self.labels.items() if label in classes}


def _picture() -> bytes:
    """A 640x480 JPEG in all colours, in place of a photograph."""
    import cv2

    rows, columns = np.mgrid[0:480, 0:640].astype(np.uint8)
    encoded = cv2.imencode(".jpg", np.dstack((rows, columns, rows ^ columns)))[1]
    return encoded.tobytes()


def _fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:  # NaN fails this, too
        raise BadParameter(f"{name} is {value}", why="it must be from 0 to 1", hint="for example 0.25")
    return value
