"""`detectctl doctor --address` against a dashboard that lacks something: each finding names the cause and the fix."""

from __future__ import annotations

import ast
import contextlib
import http.server
import importlib
import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from detectctl.doctor import cluster
from detectctl.doctor.checkup import OF_CLUSTER, examine, explain
from detectctl.doctor.finding import Subject
from detectctl.errors import NotReady
from detectctl.hosts.cluster import probe
from detectctl.hosts.cluster.probe import FOUND, GPU, LACKING, Lacking, Seen
from detectctl.settings import UpSettings
from detectctl.values import replicas
from installed import Home
from lifecycle_values import STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectctl.doctor.finding import Finding

TOKEN = "secret"
_JOB = "/api/jobs/raysubmit_1"
_NODES = {1: 0.0, 2: 2.0, 3: 2.0}


def _serve(port: int, **changes: Any) -> dict[str, Any]:
    """What Serve says on a cluster where it runs, and somebody's application."""
    return {
        "controller_info": {"node_id": "1"},
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": port},  # noqa: S104 - as on a cluster
        "proxies": {"1": {"status": "HEALTHY", "node_ip": "10.77.0.1"}},
        "applications": {
            "other": {"route_prefix": "/other", "source": "declarative", "status": "RUNNING", "deployments": {"A": {}}}
        },
        **changes,
    }


def _found(**changes: Any) -> str:
    """What the job prints."""
    nodes = [
        {
            "address": f"10.77.0.{number}",
            "whole": {"CPU": cpus, "GPU": 0.0},
            "free": {"CPU": cpus, "GPU": 0.0},
            "seen": asdict(Seen(clock=time.time())) if cpus else None,
        }
        for number, cpus in _NODES.items()
    ]
    whole = {"python": "3.12.1", "lacks": [], "haproxy": True, "drain_s": 30.0, "nodes": nodes, **changes}
    return f"some words of Ray\n{FOUND}: {json.dumps(whole)}\n"


class Dashboard(http.server.ThreadingHTTPServer):
    """A cluster as far as its dashboard shows it; all is well, but for the `answers` that a test changes.

    Attributes:
        answers: method and path → status and body, JSON unless it is text.
        asked: methods and paths.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        port = self.server_address[1]
        nodes = [
            {
                "node_id": str(number),
                "node_ip": f"10.77.0.{number}",
                "is_head_node": number == 1,
                "state": "ALIVE",
                "resources_total": {"CPU": cpus} if cpus else {},
            }
            for number, cpus in _NODES.items()
        ]
        self.url = f"http://127.0.0.1:{port}"
        self.token: str | None = TOKEN
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, Any]] = {
            "GET /api/version": (200, {"ray_version": "2.60.0"}),
            "GET /api/v0/nodes": (200, {"data": {"result": {"result": nodes}}}),
            "GET /api/serve/applications/": (200, _serve(port)),
            "GET /api/packages/gcs/X": (404, "Package X does not exist"),
            "PUT /api/packages/gcs/X": (200, ""),
            "POST /api/jobs/": (200, {"submission_id": "raysubmit_1"}),
            f"GET {_JOB}": (200, {"status": "SUCCEEDED"}),
            f"GET {_JOB}/logs": (200, {"logs": _found()}),
            "GET /-/healthz": (503, "no application"),
        }

    def change_serve(self, **changes: Any) -> None:
        self.answers["GET /api/serve/applications/"] = (200, _serve(self.server_address[1], **changes))

    def change_node(self, number: int, **changes: Any) -> None:
        """What the job says of a node."""
        nodes = json.loads(_found().partition(f"{FOUND}: ")[2])["nodes"]
        nodes[number - 1].update(changes)
        self.answers[f"GET {_JOB}/logs"] = (200, {"logs": _found(nodes=nodes)})


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Dashboard

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = re.sub(r"_ray_pkg_\w+\.zip", "X", self.path.partition("?")[0])
        question = f"{self.command} {path}"
        self.server.asked.append(question)
        status, body = self.server.answers.get(question, (404, "404: Not Found"))
        given = self.headers.get("Authorization")
        if self.server.token is not None and path.startswith("/api") and given != f"Bearer {self.server.token}":
            status, body = (403, "Forbidden: Invalid authentication token")
            if given is None:
                status, body = (401, "Unauthorized: Missing authentication token")
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = _answer  # noqa: N815 - as the library calls them

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with Dashboard() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _examined(dashboard: Dashboard, *, secret: str | None = TOKEN, **settings: Any) -> list[Finding]:
    """What is found on the cluster alone."""
    variables = {"RAY_AUTH_TOKEN": secret} if secret else {"RAY_AUTH_TOKEN_PATH": "/dev/null"}
    subject = Subject(UpSettings(address=dashboard.url, **settings), variables)
    return list(examine(subject, [check for check in OF_CLUSTER if check.name in {"cluster", "nodes", "service"}]))


@pytest.fixture(autouse=True)
def _no_token_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)


def test_a_good_cluster_is_ok(dashboard: Dashboard) -> None:
    """Who serves what there, nodes with what they have free, and the ingress: a line each."""
    said = [f"{finding.level} {finding.check}: {finding.message}" for finding in _examined(dashboard)]
    said = [re.sub("to within .*", "", line.replace(dashboard.url, "URL")) for line in said]
    assert said == [
        "ok cluster: the cluster at URL answers, with Ray 2.60.0",
        "ok token: that of RAY_AUTH_TOKEN is accepted",
        "ok nodes: 3 nodes alive: 10.77.0.1 (head, 0 CPUs), 10.77.0.2 (2 CPUs), 10.77.0.3 (2 CPUs)",
        "ok applications: other at /other is somebody else's, declarative: RUNNING",
        "ok ingress: URL is reached from here; Serve listens on the head and each node with a replica (EveryNode)",
        "ok nodes: Python 3.12.1",
        "ok nodes: 10.77.0.1 takes no replica, which needs 1 CPU: 0 of 0 CPUs free",
        "ok nodes: 10.77.0.2 has what replicas need; 2 of 2 CPUs free",
        "ok nodes: 10.77.0.3 has what replicas need; 2 of 2 CPUs free",
        "ok nodes: there is room for 4 more replicas, with 1 CPU each",
        "ok ingress: HAProxy takes the requests; it waits 30 s for a replica that leaves, 5 s for one of detectctl's",
        "ok clocks: those of all nodes agree with this machine's, ",
        "ok service: instance default is not running",
    ]
    changing = [question for question in dashboard.asked if not question.startswith("GET ")]
    assert changing == ["PUT /api/packages/gcs/X", "POST /api/jobs/"]


class Broken(NamedTuple):
    """What is done to a cluster, and what is said then, of what."""

    change: Callable[[Dashboard], None]
    check: str
    level: str
    says: tuple[str, ...]
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


def _answer(question: str, status: int, body: Any) -> Callable[[Dashboard], None]:
    def change(dashboard: Dashboard) -> None:
        dashboard.answers[question] = (status, body)

    return change


def _nothing(_: Dashboard) -> None:
    pass


_RUNS = {
    "detectctl-default": {
        "status": "RUNNING",
        "deployments": {
            "Detector": {
                "target_num_replicas": 1,
                "deployment_config": {"user_config": {"detectctl": STATE.to_json()}},
            }
        },
    }
}
_LACK = "ModuleNotFoundError: No module named 'openvino'"

BROKEN = {
    "something else than Ray": Broken(
        _answer("GET /api/version", 404, "not here"), "cluster", "failure", ("not answer as a Ray dashboard", "8265")
    ),
    "a page for people": Broken(
        _answer("GET /api/version", 200, "<html>"), "cluster", "failure", ("not answer as a Ray dashboard",)
    ),
    "a gateway without a cluster": Broken(
        _answer("GET /api/version", 502, "Bad Gateway"), "cluster", "failure", ("HTTP 502: Bad Gateway",)
    ),
    "an old Ray": Broken(
        _answer("GET /api/version", 200, {"ray_version": "2.54.1"}),
        "cluster",
        "failure",
        ("Ray 2.54.1", "max_surge_percent", "deployment_actors", "upgrade it to Ray 2.60"),
    ),
    "a newer Ray": Broken(
        _answer("GET /api/version", 200, {"ray_version": "2.99.0"}), "cluster", "warning", ("2.99.0", "tested ones")
    ),
    "a Ray without what its version promises": Broken(
        _answer(f"GET {_JOB}/logs", 200, {"logs": _found(lacks=["deployment_actors"])}),
        "nodes",
        "failure",
        ("does not know deployment_actors",),
    ),
    "a dashboard without Serve": Broken(
        _answer("GET /api/serve/applications/", 404, "404: Not Found"),
        "cluster",
        "failure",
        ("a part of the dashboard", "HTTP 404", "ray[default,serve]"),
    ),
    "nodes too small": Broken(
        _nothing, "nodes", "failure", ("3 nodes alive, and none has 4 CPUs", "--cpus"), {"cpus": 4}
    ),
    "nodes without GPUs": Broken(_nothing, "nodes", "failure", ("none has 1 CPU and 1 GPU", "--gpus"), {"gpus": 1.0}),
    "somebody's application of our name": Broken(
        lambda there: there.change_serve(applications={"detectctl-default": {"deployments": {"A": {}}}}),
        "service",
        "failure",
        ("detectctl-default on http", "not detectctl's", "`--name`"),
    ),
    "a path that is taken": Broken(
        lambda there: there.change_serve(applications={"other": {"route_prefix": "/", "status": "RUNNING"}}),
        "applications",
        "warning",
        ("other at /", "`--route-prefix /yolo`"),
    ),
    "an ingress for the nodes alone": Broken(
        lambda there: there.change_serve(http_options={"port": 1}),
        "ingress",
        "failure",
        ("127.0.0.1:1 is not reached", "refused", "listens on 127.0.0.1 alone", "http_options"),
    ),
    "no packages": Broken(
        _answer("PUT /api/packages/gcs/X", 405, "405: Method Not Allowed"),
        "nodes",
        "failure",
        ("cannot be sent", "HTTP 405", "/api/packages/"),
    ),
    "no jobs": Broken(
        _answer("POST /api/jobs/", 404, "404: Not Found"), "nodes", "failure", ("takes no jobs", "/api/jobs/")
    ),
    "a job that fails": Broken(
        lambda there: there.answers.update(
            {
                f"GET {_JOB}": (200, {"status": "FAILED"}),
                f"GET {_JOB}/logs": (200, {"logs": f"{LACKING}: the cluster runs\n"}),
            }
        ),
        "nodes",
        "failure",
        ("only looks failed: the cluster runs", "ray status"),
    ),
    "a job without a word": Broken(
        _answer(f"GET {_JOB}/logs", 200, {"logs": ""}), "nodes", "failure", ("only looks failed: it said nothing",)
    ),
    "an old Python": Broken(
        _answer(f"GET {_JOB}/logs", 200, {"logs": _found(python="3.10.19")}),
        "nodes",
        "failure",
        ("Python 3.10.19", "needs 3.11", "-py311"),
    ),
    "a missing package": Broken(
        lambda there: there.change_node(3, seen=asdict(Seen({"openvino": _LACK}))),
        "nodes",
        "failure",
        (f"10.77.0.3 lacks what replicas need: openvino ({_LACK})", "`pip install 'openvino"),
    ),
    "a GPU that is only counted": Broken(
        lambda there: there.change_node(
            3, seen=asdict(Seen({GPU: "no driver"})), whole={"CPU": 2.0, "GPU": 1.0}, free={"CPU": 2.0, "GPU": 1.0}
        ),
        "nodes",
        "failure",
        ("10.77.0.3 lacks what replicas need: a GPU that computes (no driver)", "nvidia-smi", "leave out --gpus"),
        {"gpus": 1.0},
    ),
    "a node that does not answer": Broken(
        lambda there: there.change_node(3, seen=asdict(Seen(trouble="GetTimeoutError: late"))),
        "nodes",
        "failure",
        ("10.77.0.3 could not be looked at: GetTimeoutError: late",),
    ),
    "no room": Broken(
        _nothing,
        "nodes",
        "failure",
        ("room for 4 more replicas", "`up` starts 5", "--replicas"),
        {"replicas": replicas("5")},
    ),
    "room on a node alone that cannot take a replica": Broken(
        lambda there: there.change_node(3, seen=asdict(Seen(trouble="GetTimeoutError: late"))),
        "nodes",
        "failure",
        ("room for 2 more replicas", "`up` starts 3"),
        {"replicas": replicas("3")},
    ),
    "no room for an update": Broken(
        lambda there: there.change_serve(applications=_RUNS),
        "nodes",
        "failure",
        ("room for 0 more replicas, with 3 CPUs each, and `up` starts 1 beside the 1 that run", "lower --cpus"),
        {"cpus": 3},
    ),
    "a service that does not answer": Broken(
        lambda there: there.change_serve(applications=_RUNS), "service", "failure", ("answered 404",)
    ),
    "a clock ahead": Broken(
        lambda there: there.change_node(2, seen=asdict(Seen(clock=time.time() + 3600))),
        "clocks",
        "warning",
        ("that of 10.77.0.2 is 3", " s ahead of", "timedatectl"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_cause_is_named(dashboard: Dashboard, name: str) -> None:
    """At its level, with its fix."""
    broken = BROKEN[name]
    broken.change(dashboard)
    findings = _examined(dashboard, **broken.settings)
    [found] = [each for each in findings if all(said in f"{each.message} {each.fix}" for said in broken.says)]
    assert (found.check, found.level) == (broken.check, broken.level)
    assert found.fix
    assert "the check itself failed" not in str(findings)


def test_a_package_that_is_there_in_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that an uninstallation left behind can be imported; a version may be too old, or its files broken."""
    (tmp_path / "left_behind").mkdir()
    (tmp_path / "broken.py").write_text("raise OSError('libtbb.so.12: no such file\\n')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        probe, "_MODULES", {"left": "left_behind", "broken": "broken", "pillow": "PIL", "psutil": "psutil"}
    )
    seen = probe.look({"left": ">=1", "broken": "", "pillow": ">=99", "psutil": ""})
    assert seen.lacks["left"] == "only a folder is left of it"
    assert seen.lacks["broken"] == "OSError: libtbb.so.12: no such file"
    assert re.fullmatch(r"[\d.]+ instead of >=99", seen.lacks["pillow"])
    assert len(seen.lacks) == 3
    needed, lacking = {"left": ">=1", "broken": ""}, seen.lacks.keys() - {"pillow"}
    assert probe.mend(needed, lacking, {}) == "pip install 'broken' 'left>=1'"
    assert probe.mend(needed, ["left"], {"py_executable": "/opt/python"}) == "/opt/python -m pip install 'left>=1'"


def test_a_python_that_is_too_old_can_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's images have 3.10 unless their tag says otherwise: what the job loads first has to start there."""
    script = "import sys, detectctl.hosts.cluster.deploy_child\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    ours = [module for module in loaded if module.split(".")[0] == "detectctl"]
    assert len(ours) <= 5
    for module in ours:
        ast.parse(Path(str(importlib.import_module(module).__file__)).read_text(), feature_version=(3, 10))
    monkeypatch.setattr(probe, "OLDEST_PYTHON", (99, 1))
    with pytest.raises(Lacking, match=r"the cluster runs Python 3\.\S+, and detectctl needs 99\.1 or later"):
        probe.require_python()


def test_a_token_that_is_missing_or_wrong(dashboard: Dashboard, tmp_path: Path) -> None:
    """Where it was looked for, and what was used, but never the token; nothing else is tried."""
    order = "looked for, in this order: --ray-token-file, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token"
    file = tmp_path / "token"
    file.write_text("another\n")
    for secret, settings, said in (
        ("wrong", {}, "does not accept the token of RAY_AUTH_TOKEN: HTTP 403"),
        (TOKEN, {"ray_token_file": file}, f"does not accept the token of the file {file}: HTTP 403"),
    ):
        [found] = _examined(dashboard, secret=secret, **settings)
        assert (found.check, found.level) == ("token", "failure")
        assert said in found.message
        assert order in found.message
        assert "`ray get-auth-token`" in str(found.fix)
        assert "another" not in found.message
    [missing] = examine(Subject(UpSettings(address=dashboard.url), {}), OF_CLUSTER[:2])
    assert "wants a token, and none was found: HTTP 401" in missing.message
    dashboard.token = None
    missing, token, *_ = examine(Subject(UpSettings(address=dashboard.url), {}), OF_CLUSTER[:1])
    assert (token.level, token.message) == ("ok", "none is needed")


def test_a_cluster_that_does_not_answer_explains_itself_once(dashboard: Dashboard) -> None:
    """`up` says that by itself; a cluster that answers may explain another failure."""
    subject = Subject(UpSettings(address="http://127.0.0.1:1"), {})
    [found] = examine(subject, OF_CLUSTER[:2])
    assert "the cluster at http://127.0.0.1:1 does not answer: Connection refused" in found.message
    error = NotReady("the cluster at http://127.0.0.1:1 does not answer", why="it", hint="look")
    assert explain(error, subject) is None
    dashboard.answers["GET /-/healthz"] = (200, "")
    dashboard.change_serve(http_options={"port": 1})
    late = NotReady("the service did not answer in time", why="it", hint="wait")
    begun = len(dashboard.asked)
    found_too = explain(late, Subject(UpSettings(address=dashboard.url), {"RAY_AUTH_TOKEN": TOKEN}))
    assert found_too is not None
    assert found_too.check == "ingress"
    assert "POST /api/jobs/" not in dashboard.asked[begun:]


def test_a_dashboard_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is its own."""
    monkeypatch.setattr(cluster, "_ASK_S", 0.2)
    with contextlib.closing(http.server.HTTPServer(("127.0.0.1", 0), _Handler).socket) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        [found] = examine(Subject(UpSettings(address=url), {}), OF_CLUSTER[:1])
    assert found.level == "failure"
    assert "does not answer" in found.message


def test_the_command_says_it_too(dashboard: Dashboard, tmp_path: Path) -> None:
    """Beside what matters on this machine; what does not is left out. No traceback, and exit code 4."""
    home = Home(tmp_path)
    dashboard.answers["GET /api/version"] = (200, {"ray_version": "2.9.3"})
    (tmp_path / "token").write_text(TOKEN)
    env = {"HTTPS_PROXY": "http://127.0.0.1:1", "DETECTCTL_ASSETS_URL": "http://127.0.0.1:1"}
    done = home.run("doctor", "--address", dashboard.url, "--ray-token-file", "token", "--json", **env)
    assert (done.returncode, done.stderr) == (4, "")
    findings = json.loads(done.stdout)["findings"]
    checks = list(dict.fromkeys(finding["check"] for finding in findings))
    local = ["settings", "state folder", "cache folder", "Python", "packages", "OpenVINO", "names", "proxies"]
    assert checks == ["cluster", "token", *local, "W&B", "base model", "service"]
    assert [finding["level"] for finding in findings if finding["check"] == "settings"] == ["ok"]
