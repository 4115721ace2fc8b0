"""Whether a checkpoint may be loaded: an undamaged one of Ultralytics that brings no code along.

PyTorch's restricted unpickler decides; the names read from the pickles without running them tell the user why. (PyTorch
has `get_unsafe_globals_in_checkpoint` for that. It needs torch, which the parent process does without, and gives up on
what an attacker writes and `torch.save` does not: pickles of protocol 4, without an archive around them, or cut short.)
"""

from __future__ import annotations

import pickletools
import re
import struct
import sys
import zipfile
from importlib.metadata import version
from typing import TYPE_CHECKING

from detectctl.engine.trained import printable
from detectctl.errors import CheckpointRefused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What checkpoints of detection models name; the user is told anything else. Protocol 2, which PyTorch writes, calls the
# builtins by their name in Python 2.
_EXPECTED = re.compile(
    r"(torch|torchvision|ultralytics|numpy|collections|pathlib|_codecs)(\.|$)"
    r"|(builtins|__builtin__)\.(set|getattr|dict|list|int|float|object|slice)$"
)
_MAX_PICKLE = 64 << 20
# What is in one of these is there to be called. A script's own classes are in `__main__`, and none of those is here.
_INSTALLED = (
    sys.stdlib_module_names | {"__builtin__", "nt", "posix", "torch", "torchvision", "ultralytics", "numpy"}
) - {"__main__"}

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
    strings: list[str] = []
    memo: dict[int, str] = {}
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in {"GLOBAL", "INST"}:
                yield str(argument).replace(" ", ".", 1)
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
            elif opcode.name == "MEMOIZE" and strings:
                memo[len(memo)] = strings[-1]
            elif opcode.name in {"BINGET", "LONG_BINGET"} and argument in memo:
                strings.append(memo[argument])
    except (ValueError, UnicodeDecodeError, struct.error, OverflowError, IndexError):
        return  # damaged from here on


def refuse_at_sight(checkpoint: Path) -> None:
    """CheckpointRefused for what is visibly not a checkpoint or asks for code, before anything tries to load it."""
    if asked_for := unexpected_globals(checkpoint):
        raise _wants_code(asked_for)
    if not zipfile.is_zipfile(checkpoint):
        raise _damaged("it is not an archive as PyTorch saves it, or only part of one")


def refuse_unreadable(checkpoint: Path, error: BaseException, *, trusted: bool) -> CheckpointRefused:
    """The refusal for a checkpoint whose loading ended in `error`; names the code that it asked for."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 10:
        causes.append(cause)
    texts = [f"{type(cause).__name__}: {cause}" for cause in causes]
    blocked = re.findall(r"Unsupported global: GLOBAL (\S+)", "\n".join(texts))
    if not trusted and (asked_for := unexpected_globals(checkpoint) or blocked):
        return _wants_code(asked_for)
    said = texts[-1].partition("\n")[0]
    if missing := re.search(r"Can't get attribute '(\w+)' on <module '(ultralytics[\w.]*)'", "\n".join(texts)):
        return CheckpointRefused(
            "the checkpoint is of a newer Ultralytics, or of a fork",
            why=f"its model is made of {missing[2]}.{missing[1]}, which the installed {version(PACKAGE)} lacks",
            hint="update detectctl, or give a checkpoint that this version trained",
        )
    names = _names(checkpoint)
    if names and not any(name.startswith("ultralytics.") or not _EXPECTED.match(name) for name in names):
        return CheckpointRefused(
            "the checkpoint holds weights without their model",
            why="it is a state dict, or a dictionary of another program's",
            hint="give the .pt that `yolo train` writes, usually `weights/best.pt`",
        )
    # Ultralytics names the file, which is our copy, and goes on to advise one of its own models.
    of_the_file = said.partition(f"{checkpoint} ")[2].partition(". ")[0]
    return _damaged(f"it {of_the_file}" if of_the_file else said)


def _wants_code(names: list[str]) -> CheckpointRefused:
    """The refusal for a pickle that asks for these; what is installed is code, all else a missing class."""
    if not any(name.partition(".")[0] in _INSTALLED for name in names):
        return _foreign(names)
    return CheckpointRefused(
        "the checkpoint asks to run code that no detection model needs",
        why=f"its pickle names {', '.join(printable(name) for name in names[:5])}",
        hint="load it with `--trust-checkpoint`, but only if you trust its author to run code here",
    )


def _foreign(names: list[str]) -> CheckpointRefused:
    shown = ", ".join(printable(name) for name in names[:3])
    if any(name.startswith("models.") for name in names):
        return CheckpointRefused(
            "the checkpoint is of the YOLOv5 repository or a fork of it, not of Ultralytics' package",
            why=f"its model is made of that repository's classes: {shown}",
            hint="train it again with the package, for example `yolo detect train model=yolov5su.pt`",
        )
    return CheckpointRefused(
        "the checkpoint is not of Ultralytics' package alone",
        why=f"its model is made of classes that are not here: {shown}",
        hint="give a checkpoint as `yolo train` writes it, without classes of your own",
    )


def _damaged(why: str) -> CheckpointRefused:
    return CheckpointRefused(
        "the checkpoint is damaged, or not a PyTorch checkpoint of Ultralytics",
        why=why,
        hint="download or export it again; it must be a .pt file that Ultralytics saved",
    )
