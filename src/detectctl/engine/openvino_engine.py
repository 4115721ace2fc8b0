"""The engine for CPUs: an OpenVINO network, as fast as this processor can run it.

Two compiled forms of one network share the cores: all threads on one image while it is alone, one thread per image when
others wait. The first gives the lowest latency, the second the highest throughput.
"""

from __future__ import annotations

import queue
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from detectctl.engine.yolo_head import Raw, decode, least, whole
from detectctl.errors import UsageError
from detectctl.wire import EngineInfo, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectctl.engine.compiled import CompiledModel
    from detectctl.engine.trained import Trained
    from detectctl.engine.yolo_head import Candidates

# The few operations that are not quantised in an int8 network are as fast in fp32 as in bf16.
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_NATIVE: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
# Kernels that OpenVINO caches per stream for shapes it has seen. Its default of 5000 keeps all 39 shapes that
# letterboxes of 640 can have, 200 MB a stream. Measured: eight shapes in turn cost the same CPU time with 300 as with
# 600; all 39 in turn cost nearly twice as much as with 5000.
_KEPT_KERNELS = 300


class OpenVINOEngine:
    """See `detectctl.engine.interface.Engine`.

    Args:
        model: verified.
        precision: None for bf16 where the processor computes in it, else fp32; int8 needs a model made for it.
        threads: CPU threads that work on an image that is alone.
        streams: images that are worked on at the same time, one thread each, when they are not.

    Raises:
        UsageError: the processor does not compute in that precision.
    """

    def __init__(self, model: CompiledModel, *, precision: Precision | None, threads: int, streams: int) -> None:
        import openvino

        # Its table of types is built on first use. Two threads that use it first at the same time deadlock: one waits
        # for the table while it holds the GIL, the other for the GIL.
        openvino.Type.u8.to_dtype()
        core = openvino.Core()
        # No CACHE_DIR: OpenVINO would load what it keeps there unverified, to save a tenth of a second.
        chosen = choose_precision(precision)
        network = core.read_model(model.network)
        self.trained = model.trained
        self.info = EngineInfo("openvino", "cpu", chosen, threads, streams=streams, batch=1, agreement=model.agreement)
        compile_for = partial(_Pool, core, network, chosen, model.trained)
        self._crowded = compile_for(streams=streams, threads=streams)
        self._alone = compile_for(streams=1, threads=threads) if threads > 1 else self._crowded

    def infer(self, images: NDArray[np.uint8], confidences: Sequence[float], *, alone: bool) -> list[Candidates]:
        """See `Engine.infer`."""
        return (self._alone if alone else self._crowded).infer(images, confidences)

    def close(self) -> None:
        """See `Engine.close`."""
        del self._alone, self._crowded


class _Pool:
    """One compiled form of the network, with as many infer requests as it has streams."""

    def __init__(
        self, core: Any, network: Any, precision: Precision, trained: Trained, *, streams: int, threads: int
    ) -> None:
        import openvino

        self._trained, self._tensor = trained, openvino.Tensor
        compiled = core.compile_model(
            network,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": threads,
                "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_KERNELS,
                "ENABLE_CPU_PINNING": False,  # other replicas and decoders share these cores
            },
        )
        self._outputs = range(len(compiled.outputs))
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    def infer(self, images: NDArray[np.uint8], confidences: Sequence[float]) -> list[Candidates]:
        request, shape = self._requests.get(), images.shape[1:3]
        try:
            # What OpenVINO does to make a tensor of anything else holds the GIL for a twentieth of a millisecond.
            tensor = self._tensor(np.require(images, requirements=("C", "W")), shared_memory=True)
            # Not `start_async`: it would compute in another thread, and the way there costs a request one in ten.
            request.infer(tensor, share_inputs=True, share_outputs=True)
            # The tensors belong to the request, which others use once it is put back: indexing copies what is needed.
            outputs = [request.get_output_tensor(index).data for index in self._outputs]
            if self._trained.head.kind == "image":
                return [whole(classes, shape) for classes in outputs[0]]
            return [
                self._decode(*(output[index] for output in outputs), confidence=confidence, shape=shape)
                for index, confidence in enumerate(confidences)
            ]
        finally:
            self._requests.put(request)

    def _decode(
        self,
        boxes: NDArray[np.float32],
        classes: NDArray[np.float32],
        best: NDArray[np.float32],
        extras: NDArray[np.float32] | None = None,
        prototypes: NDArray[np.float32] | None = None,
        *,
        confidence: float,
        shape: tuple[int, ...],
    ) -> Candidates:
        """The candidates of one image by the outputs of `CompiledModel`; copies what it keeps of them."""
        places = np.flatnonzero(best > least(self._trained.head, confidence))
        picked = boxes[:, places], classes[:, places], (boxes[:0] if extras is None else extras)[:, places]
        masks = None if prototypes is None or not places.size else prototypes.copy()
        return decode(self._trained, Raw(places, *picked, masks), confidence=confidence, shape=shape)


def precisions() -> tuple[Precision, ...]:
    """Those that this processor computes in."""
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, native in _NATIVE.items() if native in capabilities)


def choose_precision(asked: Precision | None) -> Precision:
    """What the engine computes in; UsageError if it was asked for what this processor does not compute in."""
    native = precisions()
    if asked is None:
        return "bf16" if "bf16" in native else "fp32"
    if asked not in native:
        raise UsageError(
            f"the precision {asked} is not available on this processor",
            why=f"it computes in {', '.join(native)}",
            hint="use `--precision auto`",
        )
    return asked
