"""The choice of device and precision, before anything starts."""

from __future__ import annotations

import pytest

from detectctl.engine import devices
from detectctl.errors import UsageError
from processor import capabilities


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_that_the_processor_lacks_is_refused(precision: str) -> None:
    if precision.upper() in capabilities():
        assert devices.choose("cpu", precision) == "cpu"
    else:
        with pytest.raises(UsageError, match=f"precision {precision} is not available") as caught:
            devices.choose("cpu", precision)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("asked", "lack", "device"),
    [("auto", None, "cuda"), ("auto", "none", "cpu"), ("cuda", None, "cuda"), ("cpu", None, "cpu")],
)
def test_the_gpu_is_taken_where_it_can_be_used(
    monkeypatch: pytest.MonkeyPatch, asked: str, lack: str | None, device: str
) -> None:
    monkeypatch.setattr(devices, "_lack_of_gpu", lambda: lack)
    assert devices.choose(asked, "auto") == device


def test_a_gpu_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_lack_of_gpu", lambda: "there is none")
    with pytest.raises(UsageError, match="--device cuda") as caught:
        devices.choose("cuda", "auto")
    assert caught.value.why == "there is none"


def test_a_precision_that_the_gpu_lacks_is_refused_and_one_of_the_cpu_only_is_not_asked_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_lack_of_gpu", lambda: None)
    assert devices.choose("cuda", "bf16") == "cuda"
    with pytest.raises(UsageError, match="int8 does not run on cuda"):
        devices.choose("cuda", "int8")
