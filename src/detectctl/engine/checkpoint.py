"""Whether a checkpoint may be loaded: an undamaged one of Ultralytics that brings no code along.

PyTorch's restricted unpickler decides; the names read from the pickles without running them tell the user why. (PyTorch
has `get_unsafe_globals_in_checkpoint` for that. It needs torch, which the parent process does without, and gives up on
what an attacker writes and `torch.save` does not: pickles of protocol 4, without an archive around them, or cut short.)
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import pickletools
import re
import struct
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl import not_images
from detectctl.colours import printable
from detectctl.errors import CheckpointRefused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# What checkpoints name; the user is told anything else. Protocol 2, which PyTorch writes, calls the builtins by their
# name in Python 2.
_EXPECTED = re.compile(
    r"(torch|torchvision|ultralytics|numpy|collections|pathlib|_codecs)(\.|$)"
    r"|(builtins|__builtin__)\.(set|getattr|dict|list|int|float|object|slice)$"
)
_MAX_PICKLE = 64 << 20
_MOST_PICKLES = 8  # in a file without an archive around them, as PyTorch before 1.6 wrote five
# What is in one of these is there to be called. A script's own classes are in `__main__`, and none of those is here.
_INSTALLED = (
    sys.stdlib_module_names | {"__builtin__", "nt", "posix", "torch", "torchvision", "ultralytics", "numpy"}
) - {"__main__"}
# But these hold data, and do nothing: classes of the libraries, which Python writes with a capital, and what scripts
# keep beside a model.
_DATA = re.compile(
    r"(torch|torchvision|ultralytics|numpy)\.(\w+\.)*[A-Z]\w*$"
    r"|(argparse|types)\.\w*Namespace$|contextlib\.nullcontext$|functools\.partial$|copy_?reg\._reconstructor$"
    r"|(datetime|decimal|enum|fractions|uuid)\.\w+$"
    r"|(builtins|__builtin__)\.(bool|bytearray|bytes|complex|frozenset|range|str|tuple|unicode|long|xrange)$"
)
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_BY_MAGIC = (
    (re.compile(rb"\x89HDF\r\n\x1a\n"), "an HDF5 file, as Keras writes"),
    (re.compile(rb"\x93NUMPY"), "an array of NumPy"),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive"),
)
_HINT = "give the .pt that `yolo train` writes, usually `weights/best.pt`"
_TRUST = "load it with `--trust-checkpoint`, but only if you trust its author to run code here"

PACKAGE = "ultralytics-opencv-headless"
ULTRALYTICS = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
"""It reads these variables while it is imported: it must neither go online, which also switches its usage events off,
nor install what a checkpoint names."""


def unexpected_globals(checkpoint: Path) -> list[str]:
    """Dotted names that the file's pickles ask for and no detection checkpoint does, such as `posix.system`; sorted.

    A file that is damaged gives the names found before the damage. Raises OSError if it cannot be opened.
    """
    return sorted(name for name in _names(checkpoint) if not _EXPECTED.match(name))


def names_package(checkpoint: Path, package: str) -> bool:
    """Whether the file's pickles ask for anything of this package; OSError if it cannot be opened."""
    return any(name.partition(".")[0] == package for name in _names(checkpoint))


def _names(checkpoint: Path) -> set[str]:
    return {name for data in _pickles(checkpoint) for name in _globals(data)}


def _pickles(checkpoint: Path) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".pkl") and info.file_size <= _MAX_PICKLE:
                    yield archive.read(info)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        with checkpoint.open("rb") as file:
            yield file.read(_MAX_PICKLE)


def _globals(data: bytes) -> Iterator[str]:
    file = io.BytesIO(data)
    try:
        for _ in range(_MOST_PICKLES):
            yield from _globals_of_one(file)
    except (ValueError, UnicodeDecodeError, struct.error, OverflowError, IndexError):
        return  # damaged from here on, or its end


def _globals_of_one(file: io.BytesIO) -> Iterator[str]:
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in {"GLOBAL", "INST"}:
            yield str(argument).replace(" ", ".", 1)
        elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)
        elif opcode.name == "MEMOIZE" and strings:
            memo[len(memo)] = strings[-1]
        elif opcode.name in {"BINGET", "LONG_BINGET"} and argument in memo:
            strings.append(memo[argument])


def refuse_at_sight(checkpoint: Path, *, trusted: bool) -> None:
    """CheckpointRefused for what is visibly not a checkpoint, or asks for code and is not trusted, before it is loaded.

    Raises OSError if it cannot be opened.
    """
    if kind := _kind_of(checkpoint):
        raise CheckpointRefused("the file is not a checkpoint of Ultralytics", why=f"it is {kind}", hint=_HINT)
    if trusted:
        return
    if asked_for := unexpected_globals(checkpoint):
        raise _names_others(asked_for, _names(checkpoint))
    if not zipfile.is_zipfile(checkpoint):
        with checkpoint.open("rb") as file:
            start = file.read(len(_OLD_FORMAT))
        if start == _OLD_FORMAT:
            raise CheckpointRefused(
                "the checkpoint is in the format of PyTorch before 1.6",
                why="Ultralytics cannot load that format and keep code out",
                hint=f"save it again with a current PyTorch, or {_TRUST}",
            )
        raise _damaged("it is not an archive as PyTorch saves it, or only part of one")


def _kind_of(file: Path) -> str | None:
    """What a file is that is not a checkpoint, in words that complete `it is …`; None for what may be one."""
    with file.open("rb") as content:
        head = content.read(1024)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size:
        return "a safetensors file, which holds weights without their model"
    for magic, kind in _BY_MAGIC:
        if magic.match(head):
            return kind
    if not head.startswith(b"PK"):
        # A pickle may be text as well.
        return None if _names(file) else not_images.kind_of(head)
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return None
    if any(name.endswith(".pkl") for name in names):
        return None
    packed = [name for name in names if name.endswith(".pt")]
    return f"a ZIP archive with {printable(packed[0])} in it" if packed else "a ZIP archive without a model in it"


def refuse_unreadable(checkpoint: Path, error: BaseException, *, trusted: bool) -> CheckpointRefused:
    """The refusal for a checkpoint whose loading ended in `error`; names the code that it asked for."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 10:
        causes.append(cause)
    texts = [f"{type(cause).__name__}: {cause}" for cause in causes]
    blocked = re.findall(r"Unsupported global: GLOBAL (\S+)", "\n".join(texts))
    names = _names(checkpoint)
    if not trusted and (asked_for := unexpected_globals(checkpoint) or blocked):
        return _names_others(asked_for, names)
    if missing := _missing(names):
        return _newer(missing)
    if trusted and (foreign := [name for name in sorted(names) if name.partition(".")[0] not in _INSTALLED]):
        return _foreign(foreign)
    loaded = not any(isinstance(cause, RuntimeError | EOFError | pickle.UnpicklingError) for cause in causes)
    if loaded and not any(name.startswith("ultralytics.") for name in names):
        layers = any(name.startswith("torch.nn.") for name in names)
        if not layers and any(name.startswith("torch.") for name in names):
            what, why = "weights without their model", "it is a state dict, or a dictionary of another program's"
        else:
            what, why = (
                "no model of Ultralytics",
                f"it has {'layers of PyTorch only' if layers else 'no layers at all'}",
            )
        return CheckpointRefused(f"the checkpoint holds {what}", why=why, hint=_HINT)
    # Ultralytics names the file, which is our copy, and goes on to advise one of its own models.
    said = texts[-1].partition("\n")[0]
    of_the_file = said.partition(f"{checkpoint} ")[2].partition(". ")[0]
    return _damaged(f"it {of_the_file}" if of_the_file else said)


def _names_others(others: list[str], names: Collection[str]) -> CheckpointRefused:
    """The refusal for a pickle that asks for these `others`: code, a missing class, or more than a model.

    `names` are all that it asks for.
    """
    code = [name for name in others if name.partition(".")[0] in _INSTALLED and not _DATA.match(name)]
    if code:
        return CheckpointRefused(
            "the checkpoint asks to run code that no model needs",
            why=f"its pickle names {_shown(code)}",
            hint=_TRUST,
        )
    foreign = [name for name in others if name.partition(".")[0] not in _INSTALLED]
    if foreign:
        return _foreign(foreign)
    if missing := _missing(names):
        return _newer(missing)
    compiled = "torch._dynamo.eval_frame.OptimizedModule"
    return CheckpointRefused(
        "the checkpoint holds more than a model as Ultralytics saves it",
        why=f"it names {compiled if compiled in names else _shown(others)}",
        hint=f"save the model alone, as `YOLO.save` and `yolo train` do, or {_TRUST}",
    )


def _shown(names: list[str]) -> str:
    return ", ".join(printable(name) for name in dict.fromkeys(names[:5]))


def _missing(names: Collection[str]) -> list[str]:
    """Those of Ultralytics that the installed one lacks, told from its source: a checkpoint must not import at will."""
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        return []
    root = Path(spec.origin).parent
    missing = []
    for name in sorted(names):
        package, *parents, what = name.split(".")
        if package != "ultralytics" or not name.replace(".", "").isidentifier() or parents[:1] == ["yolo"]:
            continue  # it finds again what was in `ultralytics.yolo`
        sources = (root.joinpath(*parents).with_suffix(".py"), root.joinpath(*parents, "__init__.py"))
        source = next((file.read_text(encoding="utf-8") for file in sources if file.is_file()), "")
        if not re.search(rf"\b{re.escape(what)}\b", source):
            missing.append(name)
    return missing


def _newer(missing: list[str]) -> CheckpointRefused:
    return CheckpointRefused(
        "the checkpoint is of a newer Ultralytics, or of a fork",
        why=f"its model is made of {_shown(missing)}, which the installed {version(PACKAGE)} lacks",
        hint="update detectctl, or give a checkpoint that this version trained",
    )


def _foreign(names: list[str]) -> CheckpointRefused:
    if any(name.startswith("models.") for name in names):
        return CheckpointRefused(
            "the checkpoint is of the YOLOv5 repository or a fork of it, not of Ultralytics' package",
            why=f"its model is made of that repository's classes: {_shown(names)}",
            hint="train it again with the package, for example `yolo detect train model=yolov5su.pt`",
        )
    return CheckpointRefused(
        "the checkpoint is not of Ultralytics' package alone",
        why=f"its model is made of what that package lacks: {_shown(names)}",
        hint="give a checkpoint as `yolo train` writes it, without classes of your own",
    )


def _damaged(why: str) -> CheckpointRefused:
    return CheckpointRefused(
        "the checkpoint is damaged, or not a PyTorch checkpoint of Ultralytics",
        why=why,
        hint="download or export it again; it must be a .pt file that Ultralytics saved",
    )
