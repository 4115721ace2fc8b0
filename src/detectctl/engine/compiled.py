"""Compiled models on disk: what a replica needs to serve one, sealed by a manifest, and the cache that keeps them.

A child process makes each model once for all who ask, whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from detectctl import child, files
from detectctl.engine.checkpoint import ULTRALYTICS
from detectctl.engine.trained import Trained
from detectctl.errors import ConversionFailed, ModelCorrupt, ModelError
from detectctl.files import describe, remedy, sha256_of, temporary_folder
from detectctl.waiting import Deadline
from detectctl.wire import Agreement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from detectctl.progress import Report

MANIFEST = "manifest.json"
NETWORK = "model.xml"
WEIGHTS = "model.bin"
_FOLDER = "compiled"
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONUSERBASE", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """An OpenVINO network with its description.

    The network takes letterboxed images, uint8 `(B, H, W, channels)`, H and W multiples of `trained.head.stride`. Its
    float32 outputs are, for each place that the head knows (for anchors, level by level and row by row), what `Head`
    says: boxes `(B, 4 * bins, places)`, distances left, up, right and down in strides where they are those of anchors,
    or `(B, 4, places)`; classes `(B, classes, places)`; `(B, places)`, the greatest of these; for the tasks that have
    them extras `(B, numbers, places)` and prototypes `(B, coefficients, H/4, W/4)`, as in `yolo_head.Raw`. One that
    classifies has one output: confidences `(B, classes)`.

    Attributes:
        directory: holds the network, its weights and the manifest.
        checkpoint_sha256: hex digest of the checkpoint it was made from.
        trained: what the network is.
        agreement: of an int8 network with the fp32 one it was made from; None for the fp32 one.
    """

    directory: Path
    checkpoint_sha256: str
    trained: Trained
    agreement: Agreement | None = None

    @property
    def network(self) -> Path:
        """Its weights are beside it."""
        return self.directory / NETWORK


def seal(model: CompiledModel) -> None:
    """Write the manifest of a folder that holds a network and its weights: from now on a changed byte is noticed."""
    manifest = asdict(model)
    del manifest["directory"]
    manifest["files"] = {name: sha256_of(model.directory / name) for name in (NETWORK, WEIGHTS)}
    (model.directory / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def load_compiled(directory: Path, *, checkpoint_sha256: str) -> CompiledModel:
    """Read a sealed folder; ModelCorrupt if a file is missing or changed, or it was made from another checkpoint."""
    try:
        manifest = _manifest(directory)
        model = CompiledModel(
            directory,
            manifest["checkpoint_sha256"],
            _trained(manifest),
            _agreement(manifest),
        )
        digests = {name: manifest["files"][name] for name in (NETWORK, WEIGHTS)}
        changed = [name for name, digest in digests.items() if sha256_of(directory / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(directory, f"{type(error).__name__}: {error}") from error
    if changed:
        raise _corrupt(directory, f"{', '.join(changed)} changed after it was made")
    if model.checkpoint_sha256 != checkpoint_sha256:
        raise _corrupt(directory, f"it was made from the checkpoint {model.checkpoint_sha256}")
    return model


def read_agreement(directory: Path) -> Agreement | None:
    """The agreement of an int8 model, unverified; None for other models, and where the folder is gone."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return _agreement(_manifest(directory))
    return None


def _manifest(directory: Path) -> Any:
    return json.loads((directory / MANIFEST).read_text(encoding="utf-8"))


def _agreement(manifest: dict[str, Any]) -> Agreement | None:
    found = manifest.get("agreement")
    return None if found is None else Agreement(**found)


def _trained(manifest: dict[str, Any]) -> Trained:
    if "trained" in manifest:
        return Trained.from_json(manifest["trained"])
    # From before other families than YOLOv8's were served; the size was 640 then, whatever the model was trained at.
    head = {"kind": "anchors", "strides": manifest["strides"], "one_to_one": False}
    return Trained.from_json({"labels": manifest["labels"], "head": head, "imgsz": None, "channels": 3})


def compiled_models(cache: Path) -> dict[Path, str | None]:
    """The folders of all compiled models → sha256 of the checkpoint that each was made from; None if damaged."""
    found: dict[Path, str | None] = {}
    for manifest in (cache / _FOLDER).glob(f"*/{MANIFEST}"):
        found[manifest.parent] = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found[manifest.parent] = _manifest(manifest.parent)["checkpoint_sha256"]
    return found


def folder_for(cache: Path, *depends_on: Any) -> Path:
    """Where the model is kept whose making depends on these things, which are JSON data."""
    return cache / _FOLDER / hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]


def _corrupt(directory: Path, why: str) -> ModelCorrupt:
    return ModelCorrupt(
        f"the compiled model in {directory} is damaged",
        why=why,
        hint="run `detectctl up` again: it recreates the compiled model",
    )


def make_once(
    directory: Path,
    module: str,
    prepare: Callable[[Path], child.Message],
    *,
    checkpoint_sha256: str,
    timeout_s: float,
    environ: Mapping[str, str],
    report: Report,
    name: str,
) -> CompiledModel:
    """The model in `directory`; made now, by a child process, if it is missing or damaged.

    Args:
        directory: from `folder_for`.
        module: of the child, which fills and seals the folder `output` of its request.
        prepare: called with a scratch folder; gives the rest of the request, but for `name` and `checkpoint_sha256`.
        checkpoint_sha256: of the checkpoint it is made from.
        timeout_s: seconds for everything, including the wait for another process that makes the same.
        environ: of this process; the child sees little of it.
        report: called with what the child reports.
        name: of the model, for errors and reports.

    Raises:
        ConversionFailed: the child crashed, or the deadline passed.
        ModelError: the folder cannot be written.
        DetectctlError: what `prepare` and the child raise.
    """
    deadline = Deadline.after(max(0.0, timeout_s))  # a negative timeout would mean for ever
    lock = files.lock(directory.with_name(directory.name + ".lock"), deadline.left_s)
    with _told_as_errors(name, directory.parent, timeout_s):
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock:
            try:
                return load_compiled(directory, checkpoint_sha256=checkpoint_sha256)
            except ModelCorrupt:  # or not there yet
                shutil.rmtree(directory, ignore_errors=True)
            # In the same folder, so that the last step is one rename, and a failure before it leaves nothing.
            with temporary_folder(directory.parent, ".converting-") as scratch:
                output = scratch / "output"
                output.mkdir(mode=0o700)
                request = {"output": str(output), "name": name, "checkpoint_sha256": checkpoint_sha256}
                request |= prepare(scratch)
                env = _environment(environ, scratch)
                child.run(module, request, timeout_s=deadline.left_s, env=env, report=report)
                output.replace(directory)
            return load_compiled(directory, checkpoint_sha256=checkpoint_sha256)


@contextlib.contextmanager
def _told_as_errors(name: str, folder: Path, timeout_s: float) -> Iterator[None]:
    """Raises what keeps the model `name` from being made in `folder` as an error for people."""
    from filelock import Timeout  # a replica does without

    try:
        yield
    except Timeout as error:
        raise ConversionFailed(
            f"{name} was not converted within {max(0.0, timeout_s):.0f} s",
            why="another process is converting the same model and has not finished",
            hint="try again, or raise `--timeout`",
        ) from error
    except child.ChildTimeout as error:
        raise ConversionFailed(
            f"{name} was not converted in time",
            why=f"the converter was stopped {f'at {error.last.message!r}' if error.last else 'while it started'}",
            hint="try again, or raise `--timeout`",
        ) from error
    except child.ChildCrashed as error:
        hint = "run again with `--verbose` for the whole output"
        failed = ConversionFailed(f"{name} could not be converted", why=error.last_words, hint=hint)
        failed.add_note(error.stderr)
        raise failed from error
    except OSError as error:
        raise ModelError(
            f"{name} cannot be converted in {folder}",
            why=describe(error),
            hint=remedy(error, folder, "XDG_CACHE_HOME"),
        ) from error


def _environment(environ: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The little of the environment that a child sees; what it writes goes into `scratch`."""
    return {name: environ[name] for name in _PASSED_ON if name in environ} | {
        **ULTRALYTICS,
        "ULTRALYTICS_SAFE_LOAD": "1",
        "YOLO_CONFIG_DIR": str(scratch / "ultralytics"),
        "MPLCONFIGDIR": str(scratch / "matplotlib"),
        "TMPDIR": str(scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
