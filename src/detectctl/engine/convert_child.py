"""The child process that turns a checkpoint into an OpenVINO network: the one place that unpickles for the CPU engine.

An export is turned into one, too. Request: that of `compiled.make_once`, with `checkpoint` (a private copy named *.pt)
and `trust`. The result is empty.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl.child import serve_parent
from detectctl.engine.checkpoint import refuse_at_sight, refuse_unreadable
from detectctl.engine.compiled import CompiledModel, seal
from detectctl.engine.exported import is_export, read
from detectctl.engine.exported_network import described_network
from detectctl.engine.families import describe, last_convolutions, raw
from detectctl.engine.torchvision_operators import prepare_torchvision
from detectctl.errors import CheckpointRefused, ConversionFailed
from detectctl.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectctl.child import Message
    from detectctl.progress import Report

# Logits beyond this differ in nothing that can be seen.
_FAR = 1000.0

# Loading weights and tracing a network need none of these.
_FORBIDDEN_EVENTS = re.compile(
    r"socket\.|subprocess\.|os\.(system|exec|fork|posix_spawn|spawn|forkpty|startfile)|pty\."
)


def convert(request: Message, report: Report) -> Message:
    """Convert `request["checkpoint"]` into `request["output"]`.

    Raises:
        CheckpointRefused: it must not or cannot be loaded, or is of a kind that is not served.
    """
    try:
        return _convert(request, report)
    except CheckpointRefused as error:
        raise CheckpointRefused(
            f"{request['name']} was refused: {error.what}", why=error.why, hint=error.hint
        ) from error


def _convert(request: Message, report: Report) -> Message:
    checkpoint, trust = Path(request["checkpoint"]), bool(request["trust"])
    # OpenVINO's converter would otherwise report each use to its maker, from forked processes.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

    def stage(name: str) -> None:
        report(Progress("convert", f"{request['name']}: {name}"))

    if is_export(checkpoint) or request["name"].endswith(".onnx"):
        return _convert_export(request, checkpoint, stage)
    refuse_at_sight(checkpoint, trusted=trust)
    if trust:
        del os.environ["ULTRALYTICS_SAFE_LOAD"]
    stage("import")
    # Import everything before the guard is set: imports may open files and start processes, a checkpoint may not.
    try:
        import torch  # noqa: F401 - loaded for the guard's sake
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise  # it is there, and lacks something
        raise ConversionFailed(
            f"{request['name']} cannot be converted here",
            why="PyTorch is not installed, and this is a checkpoint that was not converted before",
            hint="give an export of it, such as best.onnx; or install PyTorch: `pip install torch`, or the full image",
        ) from error
    import openvino.tools.ovc
    import ultralytics.engine.exporter  # noqa: F401 - loaded for the guard's sake

    prepare_torchvision(checkpoint)
    if not trust:
        forbid_reaching_out()
    stage("load")
    yolo = _load(checkpoint, trust=trust)
    trained = describe(yolo.model, yolo.ckpt.get("train_args") or {})
    model = CompiledModel(Path(request["output"]), request["checkpoint_sha256"], trained)
    stage("export")
    raw(yolo.model)
    _keep_sums(yolo.model)
    # The size matters only where it is not dynamic.
    exported = yolo.export(
        format="openvino", dynamic=not trained.fixed, imgsz=list(trained.size(None)), device="cpu", verbose=False
    )
    stage("save")
    import openvino as ov

    _save(ov.Core().read_model(next(Path(exported).glob("*.xml"))), model)
    return {}


def _convert_export(request: Message, file: Path, stage: Callable[[str], None]) -> Message:
    stage("import")
    import yaml  # noqa: F401 - all are loaded for the guard's sake

    forbid_reaching_out()  # nothing of it is run, but who knows what reading it leads to
    stage("load")
    network, trained = described_network(read(file))
    stage("save")
    _save(network, CompiledModel(Path(request["output"]), request["checkpoint_sha256"], trained))
    return {}


def forbid_reaching_out() -> None:
    """From here on, nothing in this process may open a connection or start a process.

    The restricted unpickler runs no foreign code, but it lets a checkpoint construct the libraries' own model classes
    with arguments of its choice, and some of these download files.
    """

    def guard(event: str, _arguments: tuple[Any, ...]) -> None:
        if _FORBIDDEN_EVENTS.match(event):
            raise PermissionError(f"the checkpoint led to {event}")

    sys.addaudithook(guard)


def _load(checkpoint: Path, *, trust: bool) -> Any:
    """The checkpoint as an Ultralytics `YOLO`; `ULTRALYTICS_SAFE_LOAD` in the environment keeps its code out."""
    from ultralytics import YOLO

    try:
        return YOLO(checkpoint)
    except Exception as error:  # hostile bytes may lead the loader to any exception
        raise refuse_unreadable(checkpoint, error, trusted=trust) from error


def _keep_sums(model: Any) -> None:
    """Have the CPU plugin write the sums of the last convolutions in fp32, whatever it computes in.

    An operation that follows them does it; it is fused away.
    """
    import torch

    for layers, index in last_convolutions(model):
        layers[index] = torch.nn.Sequential(layers[index], torch.nn.Hardtanh(-_FAR, _FAR))


def _save(network: Any, model: CompiledModel) -> None:
    """Move colour scaling, layout and the greatest of each place's classes into the graph, where they cost least.

    Then the model is sealed.
    """
    import numpy as np
    import openvino as ov
    import openvino.opset15 as ops
    from openvino.preprocess import PrePostProcessor

    wrapper = PrePostProcessor(network)
    trained = model.trained
    images = ov.PartialShape(
        [1, *trained.size(None), trained.channels] if trained.fixed else [-1, -1, -1, trained.channels]
    )
    wrapper.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_shape(images)
    wrapper.input().model().set_layout(ov.Layout("NCHW"))
    wrapper.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)
    network = wrapper.build()
    if trained.head.kind != "image":
        boxes, classes, *others = (output.get_node().input_value(0) for output in network.outputs)
        best = ops.reduce_max(classes, ops.constant(np.array([1], np.int64)), False).output(0)
        network = ov.Model([boxes, classes, best, *others], network.get_parameters())
    ov.save_model(network, model.network, compress_to_fp16=False)
    seal(model)


if __name__ == "__main__":
    serve_parent(convert)
