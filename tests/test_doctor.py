"""`detectctl doctor` on broken machines: each finding names the cause and the fix."""

# ruff: noqa: S104, S108 - what is wrong here is wrong by intent

from __future__ import annotations

import contextlib
import fcntl
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from detectctl.doctor import model_sources
from detectctl.doctor.checkup import ALL, Check, examine, explain
from detectctl.doctor.finding import Subject
from detectctl.errors import ConversionFailed, NotReady, UsageError
from detectctl.lifecycle.state import InstanceFolder
from detectctl.processes import Process
from detectctl.settings import UpSettings
from installed import Home, file_server, free_port
from lifecycle_values import PLACE, STATE, with_head
from served import served
from test_cli import HEAVY, modules_after
from wandb_server import API_KEY, WandbServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from detectctl.doctor.finding import Finding
    from detectctl.engine.compiled import CompiledModel

_UNSHARE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")
# One check, so that each test is as quick as that, as the command would do it.
_ONE = """
import json, sys
from dataclasses import asdict
from detectctl.cli.doctor_command import subject
from detectctl.cli.options import Session
from detectctl.doctor.checkup import ALL, examine
from detectctl.settings import DoctorSettings
checks = [check for check in ALL if check.name == sys.argv[1]]
print(json.dumps([asdict(finding) for finding in examine(subject(Session(), DoctorSettings()), checks)]))
"""


@pytest.fixture
def bare(tmp_path: Path) -> Home:
    """A home without anything, and a temporary folder of its own."""
    made = Home(tmp_path / "home")
    (made.path / "tmp").mkdir(parents=True)
    return made


@pytest.fixture(scope="module", autouse=True)
def _may_mount() -> None:
    if subprocess.run([*_UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody but root mount anything")


def _found(home: Home, check: str, script: str = "", **env: str) -> list[dict[str, Any]]:
    """What one check says after this script, in a shell with mounts of its own."""
    command = [*_UNSHARE, "sh", "-ec", f'{script}\nexec "$@"', "sh", sys.executable, "-c", _ONE, check]
    with home.start_command(command, **{"TMPDIR": str(home.path / "tmp"), **env}) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    findings: list[dict[str, Any]] = json.loads(stdout)
    assert {finding["check"] for finding in findings} <= {check}
    return findings


class Broken(NamedTuple):
    """What is done to a machine, and what the check says then."""

    check: str
    level: str
    says: tuple[str, ...]
    script: str = ""
    env: dict[str, str] = {}  # noqa: RUF012 - never changed


_GROUP = "mount -t tmpfs none /sys/fs/cgroup; cd /sys/fs/cgroup; "
_READ_ONLY_TMP = """
for folder in /tmp /var/tmp; do mount --bind $folder $folder; mount -o remount,bind,ro $folder; done
mount --bind "$HOME" "$HOME"
mount -o remount,bind,rw "$HOME"
"""
_TMPFS = 'mkdir -p "{0}"; mount -t tmpfs -o {1} none "{0}"; '
_GPU = (
    "mkdir dev; mount -t tmpfs none dev; touch dev/nvidiactl; "
    "for file in null zero random urandom; do touch dev/$file; mount --bind /dev/$file dev/$file; done; "
    "mount --rbind dev /dev; "
)
_NO_NAMES = (
    "for file in hosts nsswitch.conf resolv.conf; do [ ! -e /etc/$file ] || mount --bind /dev/null /etc/$file; done"
)
_PACKAGE = """
mkdir -p "$HOME/packages/{name}-{version}.dist-info"
printf 'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n{more}' \\
  > "$HOME/packages/{name}-{version}.dist-info/METADATA"
export PYTHONPATH="$HOME/packages"
"""
_OPENVINO = """
mkdir -p "$HOME/packages/openvino"
cat > "$HOME/packages/openvino/__init__.py" <<'END'
{code}
END
export PYTHONPATH="$HOME/packages"
"""
_OLD_PROCESSOR = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
_PLAIN_PROCESSOR = """
class Core:
    def get_property(self, *_):
        return ["FP32", "INT8"]
"""
_CLOSED = "http://127.0.0.1:1"

BROKEN = {
    "a wrong setting": Broken("settings", "failure", ("DETECTCTL_PORT is 'x'", "--help"), env={"DETECTCTL_PORT": "x"}),
    "a service that would be open to others": Broken(
        "settings", "failure", ("without a key", "--no-auth"), env={"DETECTCTL_HOST": "0.0.0.0"}
    ),
    "a model that is not there": Broken(
        "settings", "failure", ("best.pt",), env={"DETECTCTL_MODEL": "/nowhere/best.pt"}
    ),
    "few files": Broken("open files", "failure", ("256 files open", "LimitNOFILE"), "ulimit -n 256"),
    "not many files": Broken("open files", "warning", ("748 connections", "nofile="), "ulimit -n 2000"),
    "few threads": Broken(
        "threads", "failure", ("10 more threads", "pids.max"), _GROUP + "echo 400 > pids.max; echo 390 > pids.current"
    ),
    "a CPU quota": Broken(
        "processors", "warning", ("0.3 of a CPU", "--cpus 1"), _GROUP + "echo 30000 100000 > cpu.max"
    ),
    "too little memory": Broken(
        "memory",
        "failure",
        ("768 MiB", "control group"),
        _GROUP + "echo 805306368 > memory.max; echo 9 > memory.current"
    ),
    "little memory": Broken(
        "memory", "warning", ("1536 MiB", "slow"), _GROUP + "echo 1610612736 > memory.max; echo 9 > memory.current"
    ),
    "images larger than the memory": Broken(
        "memory",
        "failure",
        ("2048 MiB", "--max-image-pixels"),
        _GROUP + "echo 2147483648 > memory.max; echo 9 > memory.current",
        {"DETECTCTL_MAX_IMAGE_PIXELS": "108M"},
    ),
    "no shared memory": Broken(
        "shared memory", "warning", ("/dev/shm cannot be written",), "mount -t tmpfs -o ro none /dev/shm"
    ),
    "Docker's shared memory": Broken(
        "shared memory", "warning", ("64 MiB free", "--shm-size"), "mount -t tmpfs -o size=64m none /dev/shm"
    ),
    "no temporary folder": Broken(
        "temporary folder", "failure", ("/tmp cannot be used", "Read-only"), _READ_ONLY_TMP + "unset TMPDIR"
    ),
    "a full temporary folder": Broken(
        "temporary folder",
        "warning",
        ("No space left", "/tmp is used instead", "free some space"),
        _TMPFS.format("$TMPDIR", "size=4k") + 'echo > "$TMPDIR/x"',
    ),
    "a nearly full temporary folder": Broken(
        "temporary folder", "warning", ("50 MiB free", "set TMPDIR"), _TMPFS.format("$TMPDIR", "size=50m")
    ),
    "a read-only temporary folder": Broken(
        "temporary folder", "warning", ("Read-only", "not mounted read-only"), _TMPFS.format("$TMPDIR", "ro")
    ),
    "a noexec temporary folder": Broken(
        "temporary folder", "warning", ("noexec", "set TMPDIR"), _TMPFS.format("$TMPDIR", "noexec")
    ),
    "a temporary folder with too long a name": Broken(
        "temporary folder", "warning", ("File name too long", "301 characters"), env={"TMPDIR": "/" + 300 * "x"}
    ),
    "no home": Broken(
        "state folder", "failure", ("no home folder", "set HOME"), "unset HOME; mount --bind /dev/null /etc/passwd; "
        "[ ! -e /etc/nsswitch.conf ] || mount --bind /dev/null /etc/nsswitch.conf",
    ),
    "a read-only home": Broken(
        "state folder",
        "failure",
        ("Read-only", "XDG_STATE_HOME"),
        'mount --bind "$HOME" "$HOME"; mount -o remount,bind,ro "$HOME"; export TMPDIR=/tmp',
    ),
    "a full cache": Broken(
        "cache folder",
        "failure",
        ("No space left", "XDG_CACHE_HOME"),
        _TMPFS.format("$HOME/.cache/detectctl", "size=40k,nr_inodes=0")
        + 'dd if=/dev/zero of="$HOME/.cache/detectctl/x" bs=4k count=99 2> /dev/null || :',
    ),
    "an address of another machine": Broken(
        "port", "failure", ("192.0.2.1 is not an address", "ip -brief"), env={"DETECTCTL_HOST": "192.0.2.1"}
    ),
    "no localhost": Broken("names", "warning", ("localhost is unknown", "/etc/hosts"), _NO_NAMES),
    "no name server": Broken("names", "warning", ("api.wandb.ai and github.com cannot", "resolv.conf"), _NO_NAMES),
    "a dead proxy": Broken(
        "proxies", "failure", ("HTTPS_PROXY=http://***@127.0.0.1:1", "refused"),
        env={"HTTPS_PROXY": "http://user:secret@127.0.0.1:1"},
    ),
    "a proxy of another kind": Broken(
        "proxies", "failure", ("ALL_PROXY=socks5://h:1", "must be http"), env={"ALL_PROXY": "socks5://h:1"}
    ),
    "an old package": Broken(
        "packages",
        "warning",
        ("ray 2.50.0 is not among the tested", "pip install"),
        _PACKAGE.format(name="ray", version="2.50.0", more=""),
    ),
    "a missing package": Broken(
        "packages",
        "failure",
        ("no-such-package is not installed",),
        _PACKAGE.format(name="detectctl", version="1", more="Requires-Dist: no-such-package>=1\\n"),
    ),
    "another Python": Broken(
        "Python",
        "warning",
        ("is not among the tested ones, 3.2 to 3.3",),
        _PACKAGE.format(
            name="detectctl",
            version="1",
            more="".join(f"Classifier: Programming Language :: Python :: 3.{minor}\\n" for minor in (2, 3)),
        ),
    ),
    "an old processor": Broken(
        "OpenVINO", "failure", ("does not run on this processor",), _OPENVINO.format(code=_OLD_PROCESSOR)
    ),
    "a precision that the processor lacks": Broken(
        "OpenVINO",
        "failure",
        ("bf16 is not available", "computes in fp32, int8", "--precision auto"),
        _OPENVINO.format(code=_PLAIN_PROCESSOR),
        {"DETECTCTL_PRECISION": "bf16"},
    ),
    "no GPU": Broken(
        "GPU", "failure", ("cuda is not available",), _GPU + "rm dev/nvidiactl", {"DETECTCTL_DEVICE": "cuda"}
    ),
    "a hidden GPU": Broken(
        "GPU", "warning", ("CUDA_VISIBLE_DEVICES", "hides every GPU", "nvidia-smi"), _GPU, {"CUDA_VISIBLE_DEVICES": ""}
    ),
    "a GPU without a driver": Broken(
        "GPU",
        "warning",
        ("no driver",),
        "mount -t tmpfs none /sys/bus/pci/devices; mkdir /sys/bus/pci/devices/0; "
        "echo 0x10de > /sys/bus/pci/devices/0/vendor",
    ),
    "no collector of traces": Broken(
        "traces", "warning", (f"collector {_CLOSED}", "refused"), env={"OTEL_EXPORTER_OTLP_ENDPOINT": _CLOSED}
    ),
    "traces by gRPC": Broken(
        "traces",
        "warning",
        ("grpc", "4318"),
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": _CLOSED, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ),
    "no way to W&B": Broken(
        "W&B", "warning", (f"{_CLOSED} cannot be reached", "refused", "WANDB_BASE_URL"), env={"WANDB_BASE_URL": _CLOSED}
    ),
    "no base model": Broken(
        "base model", "failure", ("yolov8n is not stored", "refused", "put yolov8n.pt"),
        env={"DETECTCTL_ASSETS_URL": _CLOSED},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_the_cause_is_named(bare: Home, name: str) -> None:
    """At its level, with its fix, and without a password."""
    broken = BROKEN[name]
    findings = _found(bare, broken.check, broken.script, **broken.env)
    [found] = [each for each in findings if all(said in f"{each['message']} {each['fix']}" for said in broken.says)]
    assert found["level"] == broken.level
    assert found["fix"]
    assert "secret" not in str(findings)


def _only(findings: list[dict[str, Any]]) -> tuple[str, str]:
    [found] = findings
    return found["level"], f"{found['message']} {found['fix']}"


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers all questions with its `info`, an hour ago."""

    info: bytes = b"{}"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.info)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.info)

    do_HEAD = do_GET  # noqa: N815 - as the library calls it

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() - 3600, usegmt=True)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _answering(info: bytes = b"{}") -> Iterator[int]:
    handler = type("_", (_Server,), {"info": info})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_a_wrong_clock(bare: Home) -> None:
    """Certificates and signed URLs would be refused, for reasons that nobody understands."""
    with _answering() as port:
        level, words = _only(_found(bare, "clock", WANDB_BASE_URL=f"http://127.0.0.1:{port}"))
    assert level == "failure"
    assert "ahead of that of 127.0.0.1" in words
    assert "timedatectl" in words


def test_a_taken_port(bare: Home) -> None:
    with _answering() as port:
        level, words = _only(_found(bare, "port", DETECTCTL_PORT=str(port)))
    assert level == "failure"
    assert f"port {port} on 127.0.0.1 is taken" in words
    assert f"(process {os.getpid()})" in words


def test_no_key_for_wandb(bare: Home) -> None:
    """A failure only if the model is to come from there."""
    with WandbServer() as wandb:
        level, words = _only(_found(bare, "W&B", WANDB_BASE_URL=wandb.url))
        wanted, _ = _only(_found(bare, "W&B", WANDB_BASE_URL=wandb.url, DETECTCTL_MODEL="acme/registry/yolo:latest"))
    assert (level, wanted) == ("warning", "failure")
    assert "No API key" in words
    assert "WANDB_API_KEY" in words


def test_a_key_that_wandb_does_not_know(bare: Home) -> None:
    with WandbServer() as wandb:
        wandb.fail("graphql", "status", status=401)
        level, words = _only(_found(bare, "W&B", WANDB_BASE_URL=wandb.url, WANDB_API_KEY=API_KEY))
    assert level == "warning"
    assert "W&B refuses access" in words
    assert API_KEY not in words


@pytest.mark.usefixtures("forks")
def test_a_wandb_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check has a deadline."""
    monkeypatch.setattr(model_sources, "WANDB_S", 1.0)
    with WandbServer() as wandb:
        wandb.fail("graphql", "hang")
        subject = Subject(UpSettings(), wandb.env(tmp_path, os.environ))
        [found] = examine(subject, [check for check in ALL if check.name == "W&B"])
    assert found.level == "warning"
    assert "did not deliver" in found.message


def test_another_ray_cluster(bare: Home, tmp_path: Path) -> None:
    """Whatever has the name of Ray's processes, and not our mark."""
    program = tmp_path / "gcs_server"
    shutil.copy(str(shutil.which("sleep")), program)
    with subprocess.Popen([program, "600"], env={}) as process:
        try:
            level, words = _only(_found(bare, "Ray"))
        finally:
            process.kill()
    assert level == "warning"
    assert f"gcs_server {process.pid}" in words
    assert "ray stop" in words


def _remember(home: Home, head: Process | None, port: int = 8000) -> InstanceFolder:
    """An instance whose head is this process, which listens at this port."""
    folder = InstanceFolder(home.state, "default")
    folder.create()
    folder.write(with_head(replace(STATE, place=replace(PLACE, port=port, dashboard_url=_CLOSED)), head))
    return folder


def test_a_dead_instance(bare: Home) -> None:
    """Both its service and its leftovers say so; nothing is touched."""
    folder = _remember(bare, None)
    assert "instance default died" in _only(_found(bare, "leftovers"))[1]
    level, words = _only(_found(bare, "service"))
    assert level == "failure"
    assert "instance default is dead" in words
    assert folder.read() is not None


def test_a_damaged_state(bare: Home) -> None:
    folder = InstanceFolder(bare.state, "default")
    folder.create()
    folder.state_file.write_text("{")
    level, words = _only(_found(bare, "leftovers"))
    assert level == "failure"
    assert "state of instance default cannot be read" in words


def test_folders_that_nobody_uses(bare: Home) -> None:
    """Old ones without a lock, which a living head has."""
    unused = bare.path / "tmp" / "dctl-0123abcd"
    unused.mkdir()
    assert "nothing was left" in _only(_found(bare, "leftovers"))[1]
    os.utime(unused, (0, 0))
    locked = os.open(unused, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_SH)
    assert "nothing was left" in _only(_found(bare, "leftovers"))[1]
    os.close(locked)
    level, words = _only(_found(bare, "leftovers"))
    assert level == "warning"
    assert f"`rm -r {unused}`" in words


def test_a_service_that_does_not_answer(bare: Home, closed_port: int) -> None:
    _remember(bare, Process.of(os.getpid()), closed_port)
    findings = _found(bare, "service")
    assert findings
    assert {finding["level"] for finding in findings} == {"failure"}


def test_names_that_no_font_can_write(bare: Home, yolov8n_compiled: CompiledModel) -> None:
    """Annotated pictures would have other words; those of a common model are fine."""
    with served(yolov8n_compiled) as port:
        _remember(bare, Process.of(os.getpid()), port)
        assert _only(_found(bare, "fonts"))[0] == "ok"
        info = httpx.get(f"http://127.0.0.1:{port}/info").json()
    with _answering(json.dumps({**info, "classes": {"0": "cat", "1": "𓃠"}}).encode()) as port:
        _remember(bare, Process.of(os.getpid()), port)
        level, words = _only(_found(bare, "fonts"))
    assert level == "warning"
    assert "1 class names: 𓃠" in words


def _examined(*looks: Callable[[Subject], list[Finding]]) -> list[Finding]:
    checks = [Check(f"check {number}", look, 0.2) for number, look in enumerate(looks)]
    return list(examine(Subject(UpSettings(), {}), checks))


def test_a_check_that_fails_or_hangs_is_a_finding() -> None:
    """The others go on."""
    hang = threading.Event()

    def hangs(_: Subject) -> list[Finding]:
        hang.wait()
        return []

    def fails(_: Subject) -> list[Finding]:
        raise KeyError("x")

    try:
        hung, failed = _examined(hangs, fails)
    finally:
        hang.set()
    assert (hung.level, hung.message) == ("failure", "the check did not end within 0.2 s")
    assert (failed.level, failed.message) == ("failure", "the check itself failed: KeyError: 'x'")


def test_a_good_machine_is_ok(home: Home, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Nothing but ok, on one line each, at once; neither Ray nor torch nor OpenVINO is loaded."""
    (tmp_path / "tmp").mkdir()
    with WandbServer() as wandb, file_server(tmp_path) as assets:
        env = {
            "TMPDIR": str(tmp_path / "tmp"),
            "WANDB_BASE_URL": wandb.url,
            "WANDB_API_KEY": API_KEY,
            "DETECTCTL_ASSETS_URL": assets,
            "DETECTCTL_PORT": str(free_port()),
        }
        begun = time.monotonic()
        done = home.run("doctor", **env)
        seconds = time.monotonic() - begun
        found = json.loads(home.run("doctor", "--json", **env).stdout)
    sys.stdout.write(f"\ndetectctl doctor took {seconds:.1f} s\n")
    record_property("seconds", seconds)
    beside = "another Ray cluster runs here"  # a test's in another process may
    lines = [line for line in done.stdout.splitlines() if beside not in line]
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert done.returncode == 0
    assert done.stderr == ""
    assert found["schema"] == 1
    assert [each["check"] for each in found["findings"]] == [check.name for check in ALL if check.name != "fonts"]


def test_it_exits_with_4_and_says_one_line_for_each_finding(bare: Home) -> None:
    done = bare.run("doctor", HTTPS_PROXY=_CLOSED, DETECTCTL_ASSETS_URL=_CLOSED)
    assert done.returncode == 4
    [line] = [line for line in done.stdout.splitlines() if " proxies: " in line]
    assert line.startswith("failure proxies: HTTPS_PROXY=http://127.0.0.1:1 cannot be used: Connection refused; try: ")
    assert all(line.startswith(("ok", "warning", "failure")) for line in done.stdout.splitlines())


def test_a_failed_up_ends_with_what_may_explain_it(bare: Home) -> None:
    """The error says that the download failed; the doctor's line says which proxy is to blame."""
    done = bare.run("up", HTTPS_PROXY=_CLOSED, DETECTCTL_PORT=str(free_port()))
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith("  doctor: proxies: HTTPS_PROXY=http://127.0.0.1:1 cannot be used")


def test_a_failed_head_is_explained_too() -> None:
    """By the first failure that the error does not say itself; what a user got wrong needs no explanation."""
    with _answering() as port:
        subject = Subject(UpSettings(port=port), os.environ)
        found = explain(NotReady("the Ray head ended", why="it said nothing", hint="try again"), subject)
        assert found is not None
        assert f"port {port} on 127.0.0.1 is taken" in found.message
        assert explain(NotReady(found.message, why="", hint=""), subject) is None
        assert explain(UsageError("--x is wrong", why="it is", hint="leave it out"), subject) is None


def test_a_conversion_that_crashed_is_explained_by_the_processor(bare: Home) -> None:
    """The child that converts and the one that the doctor asks load the same OpenVINO."""
    packages = bare.path / "packages" / "openvino"
    packages.mkdir(parents=True)
    (packages / "__init__.py").write_text(_OLD_PROCESSOR)
    subject = Subject(UpSettings(port=free_port()), bare.env | {"PYTHONPATH": str(packages.parent)})
    found = explain(ConversionFailed("yolov8n cannot be converted", why="its process ended", hint="retry"), subject)
    assert found is not None
    assert found.check == "OpenVINO"
    assert "OpenVINO does not run on this processor" in found.message


def test_wandbs_own_settings_say_where_it_is(tmp_path: Path) -> None:
    """`wandb login --host` writes them; the environment wins."""
    home, elsewhere = tmp_path / ".config" / "wandb", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir(parents=True)
        (folder / "settings").write_text(f"[default]\nbase_url = http://{folder.name}\n")
    environ = {"HOME": str(tmp_path)}
    assert Subject(UpSettings(), {"HOME": "/nowhere"}).wandb_url == "https://api.wandb.ai"
    assert Subject(UpSettings(), environ).wandb_url == "http://wandb"
    assert Subject(UpSettings(), environ | {"WANDB_CONFIG_DIR": str(elsewhere)}).wandb_url == "http://elsewhere"
    assert Subject(UpSettings(), environ | {"WANDB_BASE_URL": "http://h"}).wandb_url == "http://h"


def test_the_doctor_loads_neither_ray_nor_torch(bare: Home) -> None:
    """They may be what is broken."""
    loaded = "import sys\nfrom detectctl.doctor.checkup import ALL\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], env=bare.env, capture_output=True, text=True, check=True)
    assert "detectctl.doctor.compute" in done.stdout.split()
    assert HEAVY & set(done.stdout.split()) <= {"PIL"}


def test_help_loads_nothing_of_it() -> None:
    assert not [module for module in modules_after("--help") if module.startswith("detectctl.doctor")]
