"""The choice of device and precision, before anything starts."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING

import pytest

from detectctl.engine import devices
from detectctl.errors import UsageError
from detectctl.progress import Progress, silent
from processor import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)"


@pytest.fixture
def device_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GPU as far as the system's device files go, for a torch that could use one."""
    file = tmp_path / "nvidiactl"
    file.touch()
    monkeypatch.setattr(devices, "_DEVICE_FILES", (file,))
    monkeypatch.setattr(devices, "version", lambda _: "2.9.0")
    return file


@pytest.fixture
def torch_doing(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """The environment in which torch, asked to compute on a GPU, does this in its place."""

    def environ(statement: str) -> dict[str, str]:
        (tmp_path / "torch.py").write_text(
            f"import os, time\nclass nn:\n    class functional:\n        conv2d = lambda *_: nn\n    item = int\n"
            f"def ones(*_, device):\n    assert device == 'cuda'\n    {statement}\n"
        )
        return os.environ | {"PYTHONPATH": str(tmp_path)}

    return environ


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_that_the_processor_lacks_is_refused(precision: str) -> None:
    if precision.upper() in capabilities():
        assert devices.choose("cpu", precision, {}, silent) == "cpu"
    else:
        with pytest.raises(UsageError, match=f"precision {precision} is not available") as caught:
            devices.choose("cpu", precision, {}, silent)
        assert caught.value.exit_code == 2


def test_a_precision_that_the_gpu_lacks_is_refused_and_one_of_the_cpu_only_is_not_asked_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "lack_of_gpu", lambda _: None)
    assert devices.choose("cuda", "bf16", {}, silent) == "cuda"
    with pytest.raises(UsageError, match="int8 does not run on cuda"):
        devices.choose("cuda", "int8", {}, silent)


@pytest.mark.usefixtures("device_file")
def test_auto_takes_the_cpu_for_a_precision_that_the_gpu_lacks() -> None:
    assert devices.choose("auto", "int8", {}, silent) == "cpu"


@pytest.mark.parametrize(("asked", "device"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
@pytest.mark.usefixtures("device_file")
def test_a_gpu_that_computes_is_used(torch_doing: Callable[[str], dict[str, str]], asked: str, device: str) -> None:
    assert devices.choose(asked, "auto", torch_doing("pass"), silent) == device


UNUSABLE = {
    "a driver that is too old": (f"raise RuntimeError('{TOO_OLD}. Please update it at http://…. Or not')", TOO_OLD),
    "a GPU that is too old": (
        "raise RuntimeError('CUDA error: no kernel image is available\\nFor debugging, …')",
        "no kernel image is available",
    ),
    "an abbreviation": (
        "raise RuntimeError('CUDA unknown error, e.g. a driver. Setting none')",
        "error, e.g. a driver",
    ),
    "no libcuda": ("raise OSError('libcuda.so.1: cannot open shared object file')", "libcuda.so.1: cannot open"),
    "an error without words": ("raise MemoryError", "MemoryError"),
    "a driver that crashes": ("os.abort()", "crashed when it tried to use the GPU: "),
    "a driver that never answers": ("time.sleep(600)", "did not answer for 1 s"),
}
"""What torch does, and what is told of it."""


@pytest.mark.parametrize("lack", UNUSABLE)
@pytest.mark.usefixtures("device_file")
def test_auto_takes_the_cpu_where_the_gpu_does_not_compute_and_says_why(
    lack: str, torch_doing: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, at once; to ask for the GPU is an error."""
    statement, words = UNUSABLE[lack]
    if "never" in lack:
        monkeypatch.setattr(devices, "_PATIENCE_S", 1.0)
    reported: list[Progress] = []
    environ = torch_doing(statement)
    assert devices.choose("auto", "auto", environ, reported.append) == "cpu"
    (warning,) = reported
    assert warning.warning
    assert words in warning.message
    assert "\n" not in warning.message
    assert not warning.message.endswith(".")
    with pytest.raises(UsageError, match="--device cuda is not available here") as caught:
        devices.choose("cuda", "auto", environ, silent)
    assert words in str(caught.value.why)


@pytest.mark.parametrize("hiding", ["", "-1", "-1,0", "NoDevFiles"])
@pytest.mark.usefixtures("device_file")
def test_gpus_that_are_hidden_on_purpose_are_not_asked_for(
    hiding: str, torch_doing: Callable[[str], dict[str, str]]
) -> None:
    environ = torch_doing("pass") | {"CUDA_VISIBLE_DEVICES": hiding}
    assert devices.lack_of_gpu(environ) == f'CUDA_VISIBLE_DEVICES="{hiding}" hides every GPU'


@pytest.mark.usefixtures("device_file")
def test_a_choice_of_gpus_is_named_where_none_of_them_computes(torch_doing: Callable[[str], dict[str, str]]) -> None:
    """It may be the cause: GPU 7 of a machine that has one."""
    environ = torch_doing("raise RuntimeError('No CUDA GPUs are available')") | {"CUDA_VISIBLE_DEVICES": "7"}
    lack = devices.lack_of_gpu(environ)
    assert lack == 'PyTorch cannot use the GPU: No CUDA GPUs are available, with CUDA_VISIBLE_DEVICES="7"'


def test_without_a_gpu_torch_is_not_asked(device_file: Path, torch_doing: Callable[[str], dict[str, str]]) -> None:
    """That would take seconds of each `up`; and there is nothing to warn of."""
    device_file.unlink()
    environ = torch_doing(f"open({str(device_file.with_name('asked'))!r}, 'w')")
    reported: list[Progress] = []
    assert devices.choose("auto", "auto", environ, reported.append) == "cpu"
    assert reported == []
    assert not device_file.with_name("asked").exists()


@pytest.mark.usefixtures("device_file")
def test_a_torch_for_cpus_is_not_asked_either(
    torch_doing: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "version", lambda _: "2.9.0+cpu")
    assert devices.lack_of_gpu(torch_doing("pass")) == "the installed torch 2.9.0+cpu is built for CPUs only"


@pytest.mark.usefixtures("device_file")
def test_without_torch_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a lean image that somebody gives a GPU."""

    def missing(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(devices, "version", missing)
    assert devices.lack_of_gpu({}) == "PyTorch is not installed"


@pytest.mark.slow
@pytest.mark.usefixtures("device_file")
def test_the_installed_torch_answers() -> None:
    """It computes, or has words of its own for why it does not."""
    lack = devices.lack_of_gpu(os.environ)
    assert lack is None or lack.startswith("PyTorch cannot use the GPU: ")
