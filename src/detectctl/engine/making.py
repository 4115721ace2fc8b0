"""Compiled models come from child processes: made once for all who ask, and whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from detectctl import child
from detectctl.engine.compiled import CompiledModel, load_compiled
from detectctl.errors import ConversionFailed, ModelCorrupt, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    # Scratch folder, folder to fill and seal, seconds left.
    Make = Callable[[Path, Path, float], None]
    OnEvent = Callable[[child.Event], None]

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONUSERBASE", "VIRTUAL_ENV")


def make_once(directory: Path, make: Make, *, checkpoint_sha256: str, timeout_s: float, name: str) -> CompiledModel:
    """The model in `directory` if it is there and sound, else made now.

    Args:
        directory: named after everything that the outcome depends on.
        make: given a scratch folder, an empty folder to fill and seal, and the seconds left.
        checkpoint_sha256: of the checkpoint it is made from.
        timeout_s: seconds for everything, the wait for another process that makes the same included.
        name: what errors call the model.

    Raises:
        ConversionFailed: the time is over, and what `make` raises.
        ModelError: the folder cannot be written.
    """
    timeout_s = max(0.0, timeout_s)  # to filelock less than nothing means for ever
    deadline = time.monotonic() + timeout_s
    lock = FileLock(directory.with_name(directory.name + ".lock"), timeout=timeout_s, mode=0o600)
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock:
            try:
                return load_compiled(directory, checkpoint_sha256=checkpoint_sha256)
            except ModelCorrupt:  # or not there yet
                shutil.rmtree(directory, ignore_errors=True)
            # In the same folder, so that the last step is one rename; whoever fails before leaves nothing.
            with tempfile.TemporaryDirectory(prefix=".converting-", dir=directory.parent) as scratch:
                output = Path(scratch) / "output"
                output.mkdir(mode=0o700)
                make(Path(scratch), output, deadline - time.monotonic())
                output.replace(directory)
            return load_compiled(directory, checkpoint_sha256=checkpoint_sha256)
    except Timeout as error:
        raise ConversionFailed(
            f"{name} was not converted within {timeout_s:.0f} s",
            why="another process converts the same model and did not finish",
            hint="try again, or raise --timeout",
        ) from error
    except OSError as error:
        raise ModelError(
            f"{name} cannot be converted in {directory.parent}",
            why=f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""),
            hint="check the folder's owner and free space, or point XDG_CACHE_HOME elsewhere",
        ) from error


def run_child(
    module: str,
    request: Mapping[str, Any],
    *,
    env: Mapping[str, str],
    timeout_s: float,
    on_event: OnEvent | None,
    name: str,
) -> child.Event:
    """`child.run` with errors that users understand.

    Raises:
        ChildFailed: as the child reported it.
        ConversionFailed: the child died, or its time is over.
    """
    try:
        return child.run(module, request, timeout_s=timeout_s, env=env, on_event=on_event)
    except child.ChildTimeout as error:
        stage = (error.last_event or {}).get("stage", "start")
        raise ConversionFailed(
            f"{name} was not converted within the time given",
            why=f"the converter was stopped during its step {stage!r}",
            hint="try again, or raise --timeout",
        ) from error
    except child.ChildCrashed as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        failed = ConversionFailed(
            f"{name} could not be converted", why=lines[-1], hint="run again with --verbose for the whole story"
        )
        failed.add_note(error.stderr)
        raise failed from error


def child_environment(environ: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """What a child sees of the environment; what it writes goes into `scratch`."""
    env = {name: environ[name] for name in _PASSED_ON if name in environ}
    return env | {
        "MPLCONFIGDIR": str(scratch / "matplotlib"),
        "TMPDIR": str(scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
