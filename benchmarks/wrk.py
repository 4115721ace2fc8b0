"""wrk, driven from Python: what a service answers to so many clients that never pause."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TOOLS = {"wrk": "wrk", "nginx": "nginx-light"}  # program → Debian package

# One thread is enough for thousands of answers a second, and its globals are then all there is.
_SCRIPT = """\
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args)
  statuses = {}
  refused = false
  if args[1] then
    local file = assert(io.open(args[1], "rb"))
    wrk.method, wrk.body = "POST", file:read("*a")
    wrk.headers["Content-Type"] = "image/jpeg"
    file:close()
  end
end
function response(status)
  statuses[status] = (statuses[status] or 0) + 1
  refused = status == 503
end
-- As Retry-After asks for: else the refused would take the processor from the others by asking again at once.
%s
function done(summary, latency)
  local counts = {}
  for status, count in pairs(threads[1]:get("statuses")) do
    table.insert(counts, string.format('"%%d": %%d', status, count))
  end
  local lost = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  print(string.format('{"seconds": %%f, "p50_ms": %%f, "p99_ms": %%f, "lost": %%d, "statuses": {%%s}}',
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, lost,
    table.concat(counts, ", ")))
end
"""
_PATIENCE = "function delay() if refused then refused = false return 1000 end return 0 end"


@dataclass(frozen=True)
class Load:
    """One measurement.

    Attributes:
        requests_per_s: answers of status 200.
        p50_ms: latency of all answers, whatever their status.
        p99_ms: likewise.
        statuses: HTTP status → answers; `lost` counts connections that failed or got nothing in time.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]


def require_tools(names: Sequence[str] = tuple(_TOOLS)) -> None:
    """Exit with what is missing and how to install it."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(_TOOLS[name] for name in missing)
        sys.exit(f"{' and '.join(missing)} not found; on Debian: apt-get install --no-install-recommends {packages}")


def load(url: str, *, clients: int, seconds: float, post: Path | None = None, patient: bool = False) -> Load:
    """Ask for `url` over as many kept connections as there are clients, each with one request at a time.

    Args:
        url: asked for by GET, or by POST with the bytes of a file.
        clients: connections.
        seconds: wrk knows whole ones only; rounded up.
        post: the file.
        patient: a client that got 503 waits for a second.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % (_PATIENCE if patient else ""))
        script.flush()
        command = ["wrk", "-t1", f"-c{clients}", f"-d{-int(-seconds // 1)}s", "--timeout", "60s", "--latency"]
        done = subprocess.run(
            [*command, "-s", script.name, url, *(["--", str(post)] if post else [])],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return parse(done.stdout)


def parse(output: str) -> Load:
    """What wrk printed, whose last line is the script's."""
    said = json.loads(output.strip().splitlines()[-1])
    statuses = said["statuses"] | ({"lost": said["lost"]} if said["lost"] else {})
    return Load(statuses.get("200", 0) / said["seconds"], said["p50_ms"], said["p99_ms"], statuses)
