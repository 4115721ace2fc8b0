"""`ray start`, without the parts that a detection service does not need, and without waits that nobody needs.

Run as `python -m detectctl.hosts.local.ray_head_child ALIVE_FILE start --head --block …` in the instance's folder, and
keeps both; see `keeper`. Ray's command line has no option for two things that cost a third of the start-up time and 200
MB: the dashboard's modules beside Serve's REST interface, and the Ray Client server, which would also be one more
listener. Nor has it one for how long it waits for its own node, which on a busy machine is not enough, for not waiting
for the dashboard, which `up` does itself, or for how many workers may start side by side. All replacements go by Ray
2.60's source; a Ray that no longer uses these names starts as usual, just later, with a larger footprint and less
patience. docs/adr/lean-head.md has the reasons.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl.files import plain_path
from detectctl.hosts.local.keeper import keep
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

_NODE_S = 300.0
"""The deadline of `up` comes before it, unless `up` was killed."""
_DASHBOARD = "dashboard"
"""The key under which the dashboard tells its address, once it answers."""


def main() -> None:
    """Start Ray with its own command line."""
    keep(Path.cwd(), Path(sys.argv.pop(1)))  # before what takes long
    _shorten_paths(Path.cwd())
    from ray._private import services
    from ray.scripts import scripts

    options = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
    dashboard = f"{options['--dashboard-host']}:{options['--dashboard-port']}"
    start_ray_process: Any = getattr(services, "start_ray_process", None)

    def start_lean(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:
        if process_type == "dashboard":
            command = [*command, "--modules-to-load=ServeHead"]
        elif process_type == "raylet":
            # Otherwise there are no more of them than cores, and Ray forgets those that it wanted to start beside them.
            command = [*command, f"--maximum_startup_concurrency={options['--num-cpus']}"]
        return start_ray_process(command, process_type, *args, **kwargs)

    if start_ray_process is not None:
        services.start_ray_process = start_lean
    if (get_node := getattr(services, "get_node", None)) is not None:
        services.get_node = _patient(get_node, _NODE_S)
    with contextlib.suppress(ImportError, AttributeError):
        from ray.experimental import internal_kv

        internal_kv._internal_kv_get = _not_awaited(internal_kv._internal_kv_get, dashboard)
    scripts.get_ray_client_dependency_error = lambda: "the Ray Client server is not needed"
    sys.argv[0] = "ray"
    scripts.main()


def _patient(get_node: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """The function, tried for so long while it raises RuntimeError, as it does until the node is there."""

    def get_node_in_time(*args: Any, **kwargs: Any) -> Any:
        deadline = Deadline.after(seconds)
        while True:
            try:
                return get_node(*args, **kwargs)
            except RuntimeError:
                if deadline.passed:
                    raise
                time.sleep(0.1)

    return get_node_in_time


def _not_awaited(get: Callable[..., Any], address: str) -> Callable[..., Any]:
    """The function, which knows the dashboard's address before the dashboard tells it.

    Ray waits for it before it starts the node, and the node needs as long again to start.
    """

    def get_at_once(key: Any, *args: Any, **kwargs: Any) -> Any:
        return address.encode() if key == _DASHBOARD else get(key, *args, **kwargs)

    return get_at_once


def _shorten_paths(folder: Path) -> None:
    """In arguments and environment: of a socket's path HAProxy takes 97 bytes, and Serve adds 73 to the folder's."""
    given, plain = f"{folder}/", f"{plain_path(folder)}/"
    sys.argv = [argument.replace(given, plain) for argument in sys.argv]
    os.environ.update({name: value.replace(given, plain) for name, value in os.environ.items()})


if __name__ == "__main__":
    main()
