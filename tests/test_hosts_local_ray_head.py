"""A head that cannot be started."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

import pytest

from detectctl.errors import NotReady
from detectctl.hosts.local import ray_head, ray_head_child
from detectctl.hosts.local.local_host import LocalHost
from detectctl.progress import Progress, silent

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("step", ["pathlib.Path.mkdir", "subprocess.Popen"])
def test_what_the_system_does_not_let_it_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A full disk, a limit of processes: that is not a bug of ours."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")

    record = ray_head.HeadRecord("0", tmp_path / "new", "127.0.0.1", 8000)
    monkeypatch.setattr("detectctl.hosts.local.haproxy.obstacle", lambda *_: "not here")
    monkeypatch.setattr(step, fail)
    with pytest.raises(NotReady, match="could not be started") as caught:
        ray_head.spawn(record, {}, tmp_path / "alive", silent)
    assert caught.value.why == "No space left on device: /somewhere"


# Prints as Ray does: what it is about to do on stdout, and why it gave up on stderr.
_RAY = """
import sys
def main():
    print("Local node IP: 127.0.0.1", *sys.argv)
    raise Exception("The current node timed out during startup.")
"""


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ray_head.HeadRecord:
    """A head whose Ray gave up, in a Python that buffers what it prints into a file."""
    for file in ("ray/__init__.py", "ray/_private/services.py", "ray/scripts/scripts.py"):
        module = tmp_path / "packages" / file
        module.parent.mkdir(parents=True)
        module.write_text(_RAY)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    monkeypatch.setattr("detectctl.hosts.local.haproxy.obstacle", lambda *_: "not here")
    record = ray_head.HeadRecord("0", tmp_path / "head", "127.0.0.1", 8000)
    packages = {"PYTHONPATH": str(tmp_path / "packages")}
    record = ray_head.spawn(record, environ | packages, tmp_path / "alive", silent)
    assert record.head is not None
    os.waitpid(record.head.pid, 0)
    return record


@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")  # a head outlives who starts it
def test_why_a_head_ended_is_the_last_that_its_log_has(ended: ray_head.HeadRecord) -> None:
    """Of a machine that was too slow for Ray nothing else tells."""
    with LocalHost(ended) as host, pytest.raises(NotReady, match="ended while starting") as caught:
        host.require_running("starting")
    assert caught.value.why == "Exception: The current node timed out during startup."


@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")
def test_ray_is_told_of_the_same_processors_and_of_no_gpu_on_every_machine(ended: ray_head.HeadRecord) -> None:
    """It counts none where half of one is allowed, and starts an idle worker for each of 64."""
    assert {"--num-cpus=4", "--num-gpus=0"} < set(ended.head_log.read_text().split())


def test_traces_that_cannot_be_sent_are_a_warning_and_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is on its way to be started; here that ends before it is."""
    said: list[Progress] = []
    record = ray_head.HeadRecord("0", tmp_path / "nowhere" / "new", "127.0.0.1", 8000)
    monkeypatch.setattr("detectctl.hosts.local.haproxy.obstacle", lambda *_: None)
    monkeypatch.setattr("detectctl.serving.tracing._PACKAGE", "a-package-that-nobody-has")
    for environ in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}):
        with pytest.raises(NotReady, match="could not be started"):
            ray_head.spawn(record, environ, tmp_path / "alive", said.append)
    (lack,) = said
    assert lack.warning
    assert lack.message.startswith("without traces: a-package-that-nobody-has is not installed; ")
    assert "pip install 'detectctl[traces]'" in lack.message


def test_the_dashboards_address_is_known_before_it_is_told() -> None:
    """So that nothing waits for it; whatever else is looked up is."""
    get = ray_head_child._not_awaited(lambda key, **options: (key, options), "127.0.0.1:8265")
    assert get("dashboard", namespace=b"of it") == b"127.0.0.1:8265"
    assert get("webui:url", namespace=b"of it") == ("webui:url", {"namespace": b"of it"})


@pytest.mark.parametrize(("seconds", "found"), [(60, "node 3"), (0, None)])
def test_a_head_looks_for_its_node_as_long_as_it_may(seconds: float, found: str | None) -> None:
    """Ray itself gives up after 30 s, which a busy machine may take."""
    looks: list[tuple[str, ...]] = []

    def get_node(*of: str) -> str:
        looks.append(of)
        if len(looks) < 3:
            raise RuntimeError("not there")
        return f"node {len(looks)}"

    patient = ray_head_child._patient(get_node, seconds)
    if found is None:
        with pytest.raises(RuntimeError, match="not there"):
            patient("gcs", "id")
    else:
        assert (patient("gcs", "id"), looks) == (found, [("gcs", "id")] * 3)
