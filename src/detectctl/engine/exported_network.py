"""From the network of an export to one that is served: in the converter's child process, without PyTorch."""

from __future__ import annotations

import contextlib
import io
import resource
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from detectctl.engine.exported import describe, metadata_of
from detectctl.errors import CheckpointRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.engine.exported import Layout, Parts, Shape
    from detectctl.engine.trained import Trained


def described_network(parts: Parts) -> tuple[Any, Trained]:
    """The network of an export, giving what `CompiledModel` says but for the greatest of the classes; its description.

    Its input is as it was exported.

    Raises:
        CheckpointRefused: OpenVINO cannot read it, its metadata is not Ultralytics', or it is not served.
    """
    try:
        network = _loaded(parts)
        taken = [_shape(source) for source in network.inputs]
        given = [_shape(output) for output in network.outputs]
    except RuntimeError as error:
        raise CheckpointRefused(
            "the export is damaged, or of a kind that OpenVINO does not read",
            why=_last_line(error),
            hint="export it again with Ultralytics, or give the .pt that it was made from",
        ) from error
    metadata = _in_onnx(network) if parts.weights is None else metadata_of(parts.metadata or b"")
    trained, layout = describe(metadata, taken[0] if len(taken) == 1 else (), given)
    # int8 of any shape may crash OpenVINO where the processor has AMX, so that Ultralytics gives it one shape, too. The
    # last step of a final layout takes 300 places, and fails where a narrow picture has fewer.
    if layout == "final" or any(operation.get_type_name() == "FakeQuantize" for operation in network.get_ops()):
        trained = replace(trained, imgsz=trained.size(None), exported="static")
    return _split(network, trained, layout), trained


def _loaded(parts: Parts) -> Any:
    import openvino
    from openvino.frontend import FrontEndManager

    if parts.weights is not None:
        return openvino.Core().read_model(parts.network, parts.weights)
    reader = FrontEndManager().load_by_framework("onnx")
    with _no_files():
        return reader.convert(reader.load(io.BytesIO(parts.network)))


@contextlib.contextmanager
def _no_files() -> Iterator[None]:
    """Nothing can be opened in the block: ONNX may name files of this machine to take weights from."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _shape(port: Any) -> Shape:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ()
    return tuple(None if length.is_dynamic else length.get_length() for length in shape)


def _in_onnx(network: Any) -> dict[str, str]:
    """Its metadata, which OpenVINO passes on as text."""
    if not network.has_rt_info(["framework"]):
        return {}
    keys = network.get_rt_info()["framework"]
    return {key: str(network.get_rt_info(["framework", key]).value) for key in keys}


def _last_line(error: RuntimeError) -> str:
    return (str(error).strip().splitlines() or ["it gives no reason"])[-1][:200]


def _split(network: Any, trained: Trained, layout: Layout) -> Any:
    """Boxes by centre and size, classes and extras as outputs of their own, each (B, numbers, places)."""
    import numpy as np
    import openvino as ov
    import openvino.opset15 as ops

    first, *prototypes = (output.get_node().input_value(0) for output in network.outputs)
    if layout == "classes":
        return network

    def constant(*values: int) -> Any:
        return ops.constant(np.array(values, np.int64))

    def part(begin: int, end: int) -> Any:
        return ops.slice(rows, constant(begin), constant(end), constant(1), constant(1))

    rows = ops.convert(first, "f32")
    if layout != "rows":
        rows = ops.transpose(rows, constant(0, 2, 1))
    boxes, classes = part(0, 4), len(trained.labels)
    if layout == "final":
        scores, extras_from = _for_each_class(part(4, 5), part(5, 6), classes), 6
        if trained.task != "obb" and trained.head.kind == "decoded":
            least, most = part(0, 2), part(2, 4)
            half = ops.constant(np.float32(0.5))
            centre = ops.multiply(ops.add(least, most), half)
            boxes = ops.concat([centre, ops.subtract(most, least)], 1)
    else:
        scores, extras_from = part(4, 4 + classes), 4 + classes
    found = [boxes, scores]
    if trained.task in {"segment", "pose", "obb"}:
        found.append(part(extras_from, 2**31))
    results = [*(node.output(0) for node in found), *(ops.convert(each, "f32").output(0) for each in prototypes)]
    return ov.Model(results, network.get_parameters())


def _for_each_class(confidence: Any, class_id: Any, classes: int) -> Any:
    """(B, classes, places): the confidence of each place's one class, 0 for the others."""
    import numpy as np
    import openvino.opset15 as ops

    numbers = ops.constant(np.arange(classes, dtype=np.float32).reshape(1, -1, 1))
    return ops.multiply(ops.convert(ops.equal(class_id, numbers), "f32"), confidence)
