"""Every interface that is private to another package and that we lean on: a test fails when it changes.

docs/adr/private-interfaces.md says of each where it is used, why, and what a change of it would do. The nightly run
installs the newest Ray, Ultralytics and W&B SDK and runs this file first.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import mmap
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.hosts import serve_rest
from detectctl.hosts.local import haproxy, ports, ray_head
from detectctl.registry import wandb_source
from detectctl.serving import ingress

if TYPE_CHECKING:
    from collections.abc import Iterable


def _package(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _source(package: str, *parts: str) -> str:
    return _package(package).joinpath(*parts).read_text(encoding="utf-8")


def _function(source: str, name: str) -> ast.FunctionDef:
    (found,) = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == name]
    return found


def _calls(function: ast.FunctionDef, name: str) -> list[ast.Call]:
    """The calls of a bare name, which is looked up in the module when it runs."""
    nodes = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    return [node for node in nodes if isinstance(node.func, ast.Name) and node.func.id == name]


def _run(script: str) -> None:
    """In a process of its own: Ultralytics replaces functions of Pillow, and None in `sys.modules` stays."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr


# What other packages warn of while they are imported is for them to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

# --- Ray --------------------------------------------------------------------------------------------------------------


def test_ray_starts_its_dashboard_through_a_function_that_can_be_replaced() -> None:
    """`ray_head_child` replaces it to add `--modules-to-load`; Ray looks the name up in its module at each call."""
    services = _source("ray", "_private", "services.py")
    parameters = [argument.arg for argument in _function(services, "start_ray_process").args.args]
    assert parameters[:2] == ["command", "process_type"]
    (call,) = _calls(_function(services, "start_api_server"), "start_ray_process")
    assert ast.unparse(call.args[1]) == "ray_constants.PROCESS_TYPE_DASHBOARD"
    assert 'PROCESS_TYPE_DASHBOARD = "dashboard"' in _source("ray", "_private", "ray_constants.py")


def test_the_dashboard_can_load_serves_rest_interface_alone() -> None:
    """By the name of its class."""
    assert '"--modules-to-load"' in _source("ray", "dashboard", "dashboard.py")
    assert "class ServeHead(" in _source("ray", "dashboard", "modules", "serve", "serve_head.py")


def test_ray_waits_for_its_dashboard_by_a_function_that_can_be_replaced() -> None:
    """`ray_head_child` replaces it to know the address at once; Ray makes no other use of what it is given."""
    waits = ast.unparse(_function(_source("ray", "_private", "services.py"), "start_api_server"))
    assert (
        "dashboard_url = ray.experimental.internal_kv._internal_kv_get(ray_constants.DASHBOARD_ADDRESS, namespace="
        in waits
    )
    assert 'DASHBOARD_ADDRESS = "dashboard"' in _source("ray", "_private", "ray_constants.py")


def test_the_raylet_is_told_how_many_workers_may_start_side_by_side() -> None:
    """The option that `ray_head_child` gives it once more; of two, the last one counts."""
    services = _function(_source("ray", "_private", "services.py"), "start_raylet")
    assert "--maximum_startup_concurrency=" in ast.unparse(services)
    (call,) = _calls(services, "start_ray_process")
    assert ast.unparse(call.args[1]) == "ray_constants.PROCESS_TYPE_RAYLET"
    assert 'PROCESS_TYPE_RAYLET = "raylet"' in _source("ray", "_private", "ray_constants.py")
    assert (
        b"Starting worker with preload_python_modules " in (_package("ray") / "core/src/ray/raylet/raylet").read_bytes()
    )


def test_ray_start_asks_a_replaceable_function_whether_it_has_the_client_server() -> None:
    """`ray_head_child` answers that it has not."""
    scripts = _source("ray", "scripts", "scripts.py")
    assert _calls(_function(scripts, "start"), "get_ray_client_dependency_error")


def test_ray_asks_a_replaceable_function_for_its_node_and_goes_on_while_it_raises() -> None:
    """`ray_head_child` has it raise later than Ray gives up."""
    services, node = _source("ray", "_private", "services.py"), _source("ray", "_private", "node.py")
    assert [argument.arg for argument in _function(services, "get_node").args.args] == ["gcs_address", "node_id"]
    assert "ray._private.services.get_node(" in node
    assert 'except RuntimeError as e:\n                    logger.info(f"Failed to get node info' in node


def test_ray_start_has_the_options_that_we_give() -> None:
    ours = inspect.getsource(ray_head)
    options = {word.split("=")[0].strip('f"') for word in ours.replace('"', " ").split() if word.startswith("--")}
    assert "--include-log-monitor" in options
    scripts = _source("ray", "scripts", "scripts.py")
    assert [option for option in sorted(options) if f'"{option}"' not in scripts] == []


def test_ray_reads_every_variable_that_we_set(tmp_path: Path) -> None:
    """A variable that is renamed is ignored without a word."""
    chosen = ports.choose(8000)
    environment = ray_head._environment({}, ray_head.HeadRecord("0", tmp_path, "127.0.0.1", 8000), chosen)
    environment |= haproxy.prepare(tmp_path / "in", chosen, "127.0.0.1", 8000)
    ours = {name for name in environment if name.startswith(("RAY_", "SERVE_", "DASHBOARD_"))}
    assert len(ours) > 20
    root = _package("ray")
    files = [
        *(root / "serve" / "_private").glob("*.py"),
        *(root / "_private").glob("*.py"),
        *(root / "dashboard").glob("*.py"),
        *(root / "_common" / "usage").glob("*.py"),
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    unread = sorted(name for name in ours if name not in text)
    # The rest is C++: options of its own table, there without their prefix.
    with (
        (root / "core" / "src" / "ray" / "gcs" / "gcs_server").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary,
    ):
        assert [name for name in unread if binary.find(name.removeprefix("RAY_").encode()) < 0] == []
    assert set(unread) <= {
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_enable_metrics_collection",
        "RAY_preload_python_modules",
        "RAY_task_events_report_interval_ms",
    }


def test_serve_gives_each_request_an_id() -> None:
    """`serving.app` logs it and answers with it; there is no public way to it in an ASGI application."""
    from ray.serve.context import _get_serve_request_context

    assert isinstance(_get_serve_request_context().request_id, str)


def test_serves_controller_tells_of_its_replicas() -> None:
    """`serving.app` asks it for `/metrics`, as Serve's dashboard does; `serve.status()` blocks, and knows no target."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
    from ray.serve.schema import DeploymentDetails, ReplicaDetails

    assert SERVE_CONTROLLER_NAME
    assert SERVE_NAMESPACE
    assert "target_num_replicas" in DeploymentDetails.model_fields
    assert "state" in ReplicaDetails.model_fields
    controller = _source("ray", "serve", "_private", "controller.py")
    assert not _function(controller, "get_serve_instance_details").args.args[1:][1:]
    dashboard = _source("ray", "dashboard", "modules", "serve", "serve_head.py")
    assert "get_serve_instance_details.remote(" in dashboard


def test_serve_says_where_its_logs_are() -> None:
    """`serving.collected` puts the counters of a cluster there, for `status` to read through the dashboard."""
    from ray.serve._private.logging_utils import get_serve_logs_dir

    assert get_serve_logs_dir().endswith("/serve")
    assert "get_logs_dir_path" in ast.unparse(
        _function(_source("ray", "serve", "_private", "logging_utils.py"), "get_serve_logs_dir")
    )


def test_serve_logs_each_request_at_info() -> None:
    """`serving.app` raises the level of that logger, so that no record is made which the setting would then drop."""
    from ray.serve._private.constants import SERVE_LOGGER_NAME

    assert SERVE_LOGGER_NAME == "ray.serve"
    replica = ast.unparse(_function(_source("ray", "serve", "_private", "replica.py"), "_record_errors_and_metrics"))
    assert "logger.info(access_log_msg(" in replica


def test_each_node_has_one_of_what_is_named_so() -> None:
    """`hosts.cluster.deploy_child` limits the replicas of a version on a node as Serve limits those of a deployment."""
    from ray._raylet import IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined]  # compiled, without a description

    assert IMPLICIT_RESOURCE_PREFIX.startswith("node:")
    scheduler = _source("ray", "serve", "_private", "deployment_scheduler.py")
    assert 'f"{IMPLICIT_RESOURCE_PREFIX}"' in scheduler
    assert "(1.0 / scheduling_request.max_replicas_per_node)" in scheduler


def test_packages_are_kept_by_their_uris() -> None:
    """`serving.carried` takes a model from there that was changed on its node."""
    from ray.experimental.internal_kv import _internal_kv_get

    assert next(iter(inspect.signature(_internal_kv_get).parameters)) == "key"
    assert "_internal_kv_put(pkg_uri, data)" in _source("ray", "_private", "runtime_env", "packaging.py")


def test_haproxys_template_is_known(tmp_path: Path) -> None:
    """Otherwise services run behind Serve's own proxy; test_hosts_local_haproxy.py has the details."""
    assert haproxy.obstacle(tmp_path, tmp_path / "cache", ports.choose(), "127.0.0.1", 8000) is None


def test_serve_asks_for_middleware_by_an_import_path() -> None:
    """`serving.ingress` gives it; each of Serve's HTTP servers is told where by a variable."""
    source = _source("ray", "serve", "_private", "http_util.py")
    assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" in source
    assert all(middleware.cls is ingress.JsonErrors for middleware in ingress.middlewares())


def test_serve_accepts_what_we_put() -> None:
    """Its own schema forbids unknown fields of a deployment's autoscaling and ignores those of the rest."""
    from ray.serve import schema

    known: dict[str, Any] = {
        "ServeDeploySchema": ("proxy_location", "http_options", "logging_config", "applications"),
        "HTTPOptionsSchema": ("host", "port"),
        "LoggingConfig": ("encoding", "enable_access_log"),
        "ServeApplicationSchema": ("name", "route_prefix", "import_path", "args", "deployments"),
        "DeploymentSchema": (
            "name", "user_config", "max_ongoing_requests", "max_queued_requests", "max_surge_percent", "num_replicas",
            "autoscaling_config", "graceful_shutdown_wait_loop_s", "graceful_shutdown_timeout_s", "ray_actor_options",
            "health_check_period_s", "health_check_timeout_s",
        ),
    }  # fmt: skip
    for name, fields in known.items():
        assert _missing(getattr(schema, name), fields) == []


def test_serve_tells_what_we_read() -> None:
    """`hosts.serve_rest` reads loosely, so a renamed field would look like a service without replicas."""
    from ray.serve import schema

    assert _missing(schema.ServeInstanceDetails, ["applications"]) == []
    assert _missing(schema.ApplicationDetails, ["status", "message", "deployments", "deployed_app_config"]) == []
    assert _missing(schema.DeploymentDetails, ["status", "message", "target_num_replicas", "replicas"]) == []
    assert _missing(schema.ReplicaDetails, ["replica_id", "state", "pid", "node_ip"]) == []
    assert {"RUNNING", "STARTING", "STOPPING"} <= {state.value for state in schema.ReplicaState}
    states = {state.value for state in schema.ApplicationStatus}
    assert {"DEPLOYING", "RUNNING", "DEPLOY_FAILED", "UNHEALTHY", "DELETING"} <= states
    assert f'"{serve_rest._PATH}"' in _source("ray", "dashboard", "modules", "serve", "serve_head.py")


def _missing(model: Any, fields: Iterable[str]) -> list[str]:
    known = getattr(model, "model_fields", None) or model.__fields__
    return [field for field in fields if field not in known]


# --- aiohttp ----------------------------------------------------------------------------------------------------------


def test_aiohttp_makes_its_protocol_by_an_attribute_of_the_connector() -> None:
    """`serving.fetch` replaces it; test_serving_fetch.py floods for real."""
    from aiohttp import connector
    from aiohttp.client_proto import ResponseHandler

    source = inspect.getsource(connector)
    assert "self._factory = functools.partial(ResponseHandler, loop=loop)" in source
    assert source.count("self._factory") > 1
    assert {"data_received", "feed_data"} <= set(dir(ResponseHandler))


# --- W&B --------------------------------------------------------------------------------------------------------------


def test_wandb_names_the_host_of_its_pages() -> None:
    """The child refuses a page of another server than the configured one."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.wandb_settings import Settings

    assert callable(wandb_setup.singleton)
    assert isinstance(inspect.getattr_static(wandb_setup._WandbSetup, "settings"), property)
    assert isinstance(inspect.getattr_static(Settings, "app_url"), property)


def test_wandb_raises_one_error_outside_its_own_tree() -> None:
    """For what its service process reports; without it a failure would be a crash of the child."""
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    assert issubclass(WandbApiFailedError, Exception)
    assert not issubclass(WandbApiFailedError, wandb.errors.Error)


def test_wandb_reads_every_variable_that_we_set() -> None:
    """`WANDB__X` is the private setting `x_x`."""
    settings = _source("wandb", "sdk", "wandb_settings.py")
    everything = "\n".join([settings, _source("wandb", "env.py"), _source("wandb", "errors", "term.py")])
    for variable in wandb_source._SETTINGS:
        name = variable.removeprefix("WANDB_")
        private = name.startswith("_")
        # HTTP_TIMEOUT is read by the SDK's own process, which is not Python.
        if variable != "WANDB_HTTP_TIMEOUT":
            assert (f"x{name.lower()}" if private else name) in everything or name.lower() in settings, variable


# --- Ultralytics, OpenVINO, NNCF --------------------------------------------------------------------------------------


_HEAD = """
import torch
from ultralytics.nn.modules.head import Detect
head = Detect(nc=3, ch=(8, 8, 8)).eval()
head.stride = torch.tensor([8.0, 16.0, 32.0])
head._inference = lambda raw: (raw["boxes"], raw["scores"])
with torch.inference_mode():
    (distances, logits), _ = head([torch.zeros(1, 8, side, side) for side in (8, 4, 2)])
anchors = 64 + 16 + 4
assert tuple(distances.shape) == (1, 4 * head.reg_max, anchors)
assert tuple(logits.shape) == (1, 3, anchors)
assert all(isinstance(branch[-1], torch.nn.Conv2d) for branch in (*head.cv2, *head.cv3))
"""


def test_ultralytics_head_hands_its_logits_to_a_method_that_can_be_replaced() -> None:
    """Both engines take the logits there, and compute boxes themselves."""
    _run(_HEAD)


def test_ultralytics_loads_without_running_foreign_code_on_request() -> None:
    """`torch_safe_load` in a replica on a GPU; the variable in the child that converts."""
    tasks = _source("ultralytics", "nn", "tasks.py")
    assert "safe_only" in [argument.arg for argument in _function(tasks, "torch_safe_load").args.args]
    assert _function(tasks, "guess_model_task")
    read = tasks + _source("ultralytics", "utils", "__init__.py") + _source("ultralytics", "utils", "checks.py")
    for variable in ("ULTRALYTICS_SAFE_LOAD", "YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_VERBOSE", "YOLO_CONFIG_DIR"):
        assert variable in read, variable


def test_openvinos_converter_works_without_its_telemetry() -> None:
    """A module that is None in `sys.modules` cannot be imported: nothing is sent to its maker."""
    _run("import sys; sys.modules['openvino_telemetry'] = None; import openvino.tools.ovc")
    sources = (_package("openvino") / "tools" / "ovc").rglob("*.py")
    assert any("openvino_telemetry" in file.read_text(encoding="utf-8") for file in sources)


def test_nncf_works_without_torch() -> None:
    """It would take 200 MB and two seconds, to do nothing with it."""
    pytest.importorskip("nncf")
    _run("import sys; sys.modules['openvino_telemetry'] = None; sys.modules['torch'] = None; import nncf, openvino")
