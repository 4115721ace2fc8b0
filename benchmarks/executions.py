"""How a network can be executed: operator by operator, as recorded CUDA graphs, or compiled; the rest is the engine's.

On the CPU, where nothing can be recorded and building kernels takes minutes, the same code runs around the network as
it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

import instance
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.engine.torch_engine import TorchEngine
from detectctl.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detectctl.engine.yolo_head import Candidates
    from detectctl.wire import Device, Precision

Execution = Literal["eager", "graphs", "compiled"]

_WARM_UPS = 3  # as PyTorch's own make_graphed_callables: cuDNN chooses its algorithms in the first


def yolov8n(device: Device, precision: Precision, imgsz: int | None = None) -> DetectorSettings:
    """What its detector is made with."""
    model = instance.YOLOV8N
    return DetectorSettings(
        str(model), sha256_of(model), engine="torch", device=device, precision=precision, imgsz=imgsz
    )


class ExecutedEngine(TorchEngine):
    """The engine of the product, with YOLOv8n, its network executed in one of these ways.

    Attributes:
        network: from (B, 3, height, width), channels last, to what `families.outputs` reads; the next call may
            overwrite what it gave.
    """

    def __init__(self, execution: Execution, device: Device, precision: Precision) -> None:
        # The GPU computes; and on a busy CPU, threads that wait for each other take a hundred times as long.
        super().__init__(yolov8n(device, precision), threads=1)
        self._model = self.network = _EXECUTIONS[execution](self._model, device)

    def tensor(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, height, width, 3) as `network` takes them."""
        return images.to(self._device).permute(0, 3, 1, 2).to(self._dtype) / 255

    def infer_there(self, images: torch.Tensor, confidences: Sequence[float]) -> list[Candidates]:
        """As `infer`, of images that are on the device."""
        return self._found(images, confidences)


class Recorded:
    """A network whose work is recorded once for each shape of its input, and replayed from then on."""

    def __init__(self, network: Callable[[torch.Tensor], Any], record: Callable[..., Callable[[], Any]]) -> None:
        self._network = network
        self._record = record
        self._recordings: dict[torch.Size, tuple[torch.Tensor, Callable[[], Any]]] = {}

    def __call__(self, batch: torch.Tensor) -> Any:
        """What the network gives; the next replay of this shape overwrites it."""
        if batch.shape not in self._recordings:
            place = batch.clone()  # of the same layout in memory; what is recorded reads here, and nowhere else
            self._recordings[batch.shape] = place, self._record(self._network, place)
        place, replay = self._recordings[batch.shape]
        place.copy_(batch)
        return replay()


def _record_graph(network: Callable[[torch.Tensor], Any], place: torch.Tensor) -> Callable[[], Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            network(place)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = network(place)

    def replay() -> Any:
        graph.replay()
        return answer

    return replay


def _record_nothing(network: Callable[[torch.Tensor], Any], place: torch.Tensor) -> Callable[[], Any]:
    return lambda: network(place)


def _eager(network: Any, _device: Device) -> Any:
    return network


def _graphs(network: Any, device: Device) -> Any:
    return Recorded(network, _record_graph if device == "cuda" else _record_nothing)


def _compiled(network: Any, device: Device) -> Any:
    if device == "cuda":
        return torch.compile(network, mode="reduce-overhead", dynamic=False)
    return torch.compile(network, backend="eager", dynamic=False)


_EXECUTIONS = {"eager": _eager, "graphs": _graphs, "compiled": _compiled}
