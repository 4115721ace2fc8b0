"""Models that Ultralytics exported: what is in the file of one, and what its metadata says of the network.

There is no pickle in it, and nothing of it is run. Nothing is unpacked to a name out of an archive, and sizes are
bounded. For the file see `detectctl.exports`.
"""

from __future__ import annotations

import ast
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from detectctl.colours import printable
from detectctl.engine.trained import MOST_NAME, MOST_SIDE, Head, Trained
from detectctl.errors import CheckpointRefused
from detectctl.exports import METADATA, networks, of_another_kind, other_format, parts_of, require_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from detectctl.wire import Task

_MOST_BYTES = {".xml": 64 << 20, ".bin": 2 << 30, ".yaml": 1 << 20}
_IN_ONNX = [bytes([field << 3 | kind]) for field, kind in ((2, 2), (3, 2), (4, 2), (5, 0), (6, 2), (7, 2), (8, 2))]
_MOST_CLASSES = 100_000
_REQUIRED = ("names", "task", "imgsz", "stride")
_LITERALS = ("names", "imgsz", "kpt_shape", "args", "end2end", "stride", "channels")
"""What ONNX, which knows text only, has as Python writes it."""
_TASKS: tuple[Task, ...] = ("detect", "segment", "pose", "obb", "classify")
_HINT = "export it again with Ultralytics, or give the .pt that it was made from"

Shape = tuple[int | None, ...]
"""Of a tensor; None where a length may vary."""
Layout = Literal["rows", "columns", "final", "classes"]
"""Of the first output. `rows` (B, numbers, places) and `columns` (B, places, numbers) have the box of a place, the
confidence for each class, and the extras; `final` (B, places, numbers) the box, one confidence, its class, and the
extras; `classes` (B, classes) the picture's confidence for each."""


@dataclass(frozen=True, slots=True)
class Parts:
    """An export's content: `network` is XML with its weights and metadata beside it, or ONNX with all in it."""

    network: bytes
    weights: bytes | None = None
    metadata: bytes | None = None


def is_export(file: Path) -> bool:
    """Whether the file's content is for `read`: ONNX, or an archive with a network.

    Raises:
        CheckpointRefused: it is an export to a format that is not served.
        OSError: it cannot be read.
    """
    with file.open("rb") as content:
        start = content.read(16)
    if start[4:5] == b"{" and int.from_bytes(start[:4], "little") < file.stat().st_size:
        raise of_another_kind("TensorRT", "it")
    if start[4:8] == b"TFL3":
        raise of_another_kind("TensorFlow Lite", "it")
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        # ONNX begins with its version, a number below 128; another of its fields follows.
        return start[:1] == b"\x08" and start[2:3] in _IN_ONNX
    if any(name.endswith("constants.pkl") for name in names):
        raise of_another_kind("TorchScript", "it")
    if any(name.endswith((".pkl", ".pt")) for name in names):
        return False
    if kind := next(filter(None, (other_format(part) for name in names for part in name.split("/"))), None):
        raise of_another_kind(kind, "it")
    return any(name.endswith(".xml") for name in names)


def read(file: Path) -> Parts:
    """The content of a file that `is_export`.

    Raises:
        CheckpointRefused: it is incomplete, damaged or too large.
    """
    if not zipfile.is_zipfile(file):
        if file.stat().st_size > _MOST_BYTES[".bin"]:
            raise _too_large(file.name, _MOST_BYTES[".bin"])
        return Parts(file.read_bytes())
    try:
        with zipfile.ZipFile(file) as archive:
            # macOS packs a second one of each, of its own, beside them.
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
            found = networks(names)
            if len(found) != 1:
                raise CheckpointRefused(
                    f"the archive has {len(found)} networks",
                    why=f"each is an .xml with its .bin, and it has {', '.join(printable(name) for name in names[:5])}",
                    hint="zip one folder that `yolo export format=openvino` writes",
                )
            parts = parts_of(found[0])
            require_parts(found[0], names)
            return Parts(*(_member(archive, parts[name]) for name in ("model.xml", "model.bin", METADATA)))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CheckpointRefused("the archive is damaged", why=str(error), hint=_HINT) from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    most = _MOST_BYTES[PurePosixPath(name).suffix]
    if archive.getinfo(name).file_size > most:  # of which no more is unpacked, whatever is in it
        raise _too_large(PurePosixPath(name).name, most)
    return archive.read(name)


def _too_large(name: str, most: int) -> CheckpointRefused:
    return CheckpointRefused(
        f"{name} is too large",
        why=f"it has more than {most >> 20} MiB",
        hint="give an export that Ultralytics made, or the .pt",
    )


def metadata_of(document: bytes) -> dict[str, Any]:
    """What `metadata.yaml` says; CheckpointRefused if it is not one."""
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            # A mapping that takes in others, which take in others, doubles with each line; Ultralytics writes none.
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise yaml.constructor.ConstructorError(None, None, "it merges mappings (<<)", node.start_mark)

    try:
        found = yaml.load(document, Loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointRefused("metadata.yaml cannot be read", why=str(error).splitlines()[0], hint=_HINT) from error
    return found if isinstance(found, dict) else {}


def describe(metadata: Mapping[str, Any], taken: Shape, given: Sequence[Shape]) -> tuple[Trained, Layout]:
    """The description of an exported network, by its metadata and the shapes of its input and outputs.

    Raises:
        CheckpointRefused: the metadata lacks something or does not go with the network; or it is of a kind that is not
            served.
    """
    required = (*_REQUIRED, "kpt_shape") if metadata.get("task") == "pose" else _REQUIRED
    if missing := [key for key in required if metadata.get(key) in (None, "")]:
        raise CheckpointRefused(
            "the export lacks metadata that Ultralytics writes", why=f"it has no {', '.join(missing)}", hint=_HINT
        )
    try:
        return _described(
            {key: _value(key, value) for key, value in metadata.items() if key in (*_LITERALS, "task", "head")},
            taken,
            given,
        )
    except (
        *(AttributeError, TypeError, ValueError, KeyError, IndexError, OverflowError),
        *(SyntaxError, RecursionError, MemoryError),
    ) as error:
        raise CheckpointRefused(
            "the export's metadata does not go with its network", why=printable(str(error)), hint=_HINT
        ) from error


def _value(key: str, value: Any) -> Any:
    return ast.literal_eval(value) if isinstance(value, str) and key in _LITERALS else value


def _described(metadata: dict[str, Any], taken: Shape, given: Sequence[Shape]) -> tuple[Trained, Layout]:
    task = metadata["task"]
    if not isinstance(task, str):  # which, by its aliases, may be too long to be shown
        raise TypeError("task is no text")
    if task not in _TASKS:
        raise CheckpointRefused(
            "the export is of a kind that is not served",
            why=f"it is for the task {printable(task)!r}",
            hint=f"give an export for one of the tasks {', '.join(_TASKS)}",
        )
    arguments = metadata.get("args") or {}
    if arguments.get("nms"):
        raise CheckpointRefused(
            "the export has NMS built in",
            why="its thresholds are those of the export, and no request could choose others",
            hint="export it again without `nms=True`, or give the .pt that it was made from",
        )
    labels, (batch, channels, *sides) = _labels(metadata["names"]), taken
    if channels != metadata.get("channels", channels) or channels not in {1, 3}:
        raise ValueError(f"pictures of {channels} channels")
    if batch not in {None, 1}:
        raise CheckpointRefused(
            f"the export takes {batch} pictures at once",
            why="requests bring one at a time",
            hint="export it again without `batch`, or give the .pt that it was made from",
        )
    asked = metadata["imgsz"]
    height, width = (int(side) for side in (asked if isinstance(asked, list | tuple) else [asked, asked]))
    static = None not in sides
    if any(sides):
        height, width = (side or 0 for side in sides)
    if not 1 <= min(height, width) <= max(height, width) <= MOST_SIDE:
        raise ValueError(f"imgsz {asked}")
    if not 1 <= int(metadata["stride"]) <= max(height, width):  # to which every picture would be padded
        raise ValueError(f"stride {metadata['stride']} of pictures of {height}x{width}")
    keypoints, values = (int(number) for number in (metadata["kpt_shape"] if task == "pose" else (0, 0)))
    layout, head = _output(metadata, len(labels), (keypoints, values), given)
    exported: Literal["static", "dynamic"] = "static" if static else "dynamic"
    return Trained(labels, head, (height, width), channels or 0, task, (keypoints, values), exported), layout


def _output(
    metadata: dict[str, Any], classes: int, keypoints: tuple[int, int], given: Sequence[Shape]
) -> tuple[Layout, Head]:
    """What the network gives; ValueError if that is not what an export for its task does."""
    task, first = metadata["task"], given[0]
    mismatch = ValueError(f"it gives {given} for the task {task} with {classes} classes")
    if task == "classify":
        if [shape[1:] for shape in given] != [(classes,)]:
            raise mismatch
        return "classes", Head("image")
    if [len(shape) for shape in given] != ([3, 4] if task == "segment" else [3]):
        raise mismatch
    prototypes = (given[1][1] or 0) if task == "segment" else 0
    extras = {"segment": prototypes, "pose": keypoints[0] * keypoints[1], "obb": 1}.get(task, 0)
    numbers = 4 + classes + extras
    queries = metadata.get("head") == "RTDETRDecoder"
    layout: Layout
    if first[2] == 6 + extras and (queries or metadata.get("end2end") or first[1] != numbers):
        layout = "final"
    elif first[1] == numbers:
        layout = "rows"
    elif first[2] == numbers and task == "detect":  # RT-DETR, as it was exported until ultralytics 8.3
        layout, queries = "columns", True
    else:
        raise mismatch
    if queries:
        return layout, Head("queries", one_to_one=True)
    return layout, Head("decoded", (int(metadata["stride"]),), one_to_one=layout == "final")


def _labels(names: Any) -> dict[int, str]:
    if isinstance(names, list | tuple):
        names = dict(enumerate(names))
    found = {int(class_id): name for class_id, name in names.items()}
    if not 1 <= len(found) <= _MOST_CLASSES or not all(isinstance(name, str | int | float) for name in found.values()):
        raise ValueError("names of classes")
    return {class_id: printable(str(found[class_id]), MOST_NAME) for class_id in range(len(found))}
