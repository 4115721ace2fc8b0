"""Which files an export of Ultralytics is made of, and one file of them all for the store.

An export for ONNX is one file. One for OpenVINO is a folder of three, or that folder zipped. The three are packed into
one archive, whose sha256 so covers all of them; what is in them, the engine knows.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from detectctl.errors import CheckpointRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

SUFFIXES = (".xml", ".onnx", ".zip")
"""Of an export that is served; the first names a folder of OpenVINO's by the network in it."""
FOLDER = "_openvino_model"
"""What the name of such a folder ends in."""
METADATA = "metadata.yaml"
_OTHERS = {
    ".torchscript": "TorchScript",
    ".engine": "TensorRT",
    ".mlpackage": "CoreML",
    ".mlmodel": "CoreML",
    ".aimodel": "Core AI",
    "_saved_model": "TensorFlow SavedModel",
    ".pb": "TensorFlow GraphDef",
    "_edgetpu.tflite": "TensorFlow Edge TPU",
    ".tflite": "TensorFlow Lite",
    "_web_model": "TensorFlow.js",
    "_paddle_model": "PaddlePaddle",
    ".mnn": "MNN",
    "_ncnn_model": "NCNN",
    "_imx_model": "IMX",
    "_rknn_model": "RKNN",
    ".rknn": "RKNN",
    "_executorch_model": "ExecuTorch",
    ".pte": "ExecuTorch",
    "_axelera_model": "Axelera",
    "_deepx_model": "DEEPX",
    "_hailo_model": "Hailo",
    ".hef": "Hailo",
    "_ascend_model": "Ascend",
    "_qnn_model": "Qualcomm QNN",
}
"""Other formats that Ultralytics exports to, by the end of the name."""


def other_format(name: str) -> str | None:
    """The format that is not served which a file or folder of this name is an export to."""
    return next((kind for ending, kind in _OTHERS.items() if name.lower().endswith(ending)), None)


def of_another_kind(kind: str, name: str) -> CheckpointRefused:
    """The refusal of an export to a format that is not served, whose name is `kind`."""
    article = "an" if kind[0] in "AEIN" or kind.startswith(("RK", "MN")) else "a"
    return CheckpointRefused(
        f"{name} is {article} {kind} export",
        why="of the formats that Ultralytics exports to, OpenVINO and ONNX are served",
        hint="give the .pt that it was made from",
    )


def network_in(folder: Path) -> Path | None:
    """The one network of OpenVINO's in a folder, with weights beside it; None if there is none, or several."""
    found = [network for network in folder.glob("*.xml") if network.with_suffix(".bin").exists()]
    return found[0] if len(found) == 1 else None


def parts_of(network: str) -> dict[str, str]:
    """The files that belong to a network `….xml`: their paths by the names that they are packed under."""
    xml = PurePosixPath(network)
    parts = {"model.xml": xml, "model.bin": xml.with_suffix(".bin"), METADATA: xml.with_name(METADATA)}
    return {name: str(path) for name, path in sorted(parts.items())}


def files_of(path: str) -> list[str]:
    """The files that a model in the file `path` is made of."""
    return list(parts_of(path).values()) if path.endswith(".xml") else [path]


def networks(paths: Iterable[str]) -> list[str]:
    """Those of the paths that are networks of OpenVINO's: there is many another `.xml`."""
    known = set(paths)
    return sorted(path for path in known if path.endswith(".xml") and parts_of(path)["model.bin"] in known)


def require_parts(network: str, there: Iterable[str]) -> None:
    """CheckpointRefused if a file that belongs to a network `….xml` is not among `there`."""
    known = set(there)
    missing = [PurePosixPath(path).name for path in parts_of(network).values() if path not in known]
    if missing:
        raise CheckpointRefused(
            f"the export of {PurePosixPath(network).name} is incomplete",
            why=f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not beside it",
            hint="give the whole folder that `yolo export format=openvino` writes, or the .pt",
        )


def pack(network: Path, target: Path) -> Path:
    """Write `network`, `….xml`, and what belongs to it into an archive, which is the same for the same files.

    Raises:
        CheckpointRefused: something of it is missing.
        OSError: a file cannot be read or written.
    """
    parts = parts_of(network.as_posix())
    require_parts(network.as_posix(), [path for path in parts.values() if Path(path).is_file()])
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in parts.items():
            entry = zipfile.ZipInfo(name)  # of 1980, whatever the clock says
            entry.file_size = Path(path).stat().st_size
            with Path(path).open("rb") as source, archive.open(entry, "w") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
    return target
