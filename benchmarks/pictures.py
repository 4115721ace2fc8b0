"""The photographs that contestants get, and nginx to serve them by URL."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIG = """\
daemon off;
master_process off;
pid {scratch}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  types {{ image/jpeg jpg; }}
  {temporary}
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def photograph(name: str) -> Path:
    """`bus.jpg` (810x1080) or `zidane.jpg` (1280x720), which Ultralytics' package brings; it is not imported."""
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "assets" / name


def resized(source: Path, megapixels: float, folder: Path) -> Path:
    """The photograph with so many pixels, as a JPEG of quality 90."""
    import cv2

    pixels = cv2.imread(str(source))
    assert pixels is not None
    factor = (megapixels * 1e6 / (pixels.shape[0] * pixels.shape[1])) ** 0.5
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    target = folder / f"{megapixels:g}MP.jpg"
    cv2.imwrite(str(target), cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=method),
                [cv2.IMWRITE_JPEG_QUALITY, 90])  # fmt: skip
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder over HTTP on loopback; gives its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nginx-") as scratch:
        temporary = " ".join(f"{name}_temp_path {scratch}/{name};" for name in _TEMPORARY)
        config = Path(scratch) / "nginx.conf"
        config.write_text(_CONFIG.format(scratch=scratch, temporary=temporary, port=port, folder=folder))
        process = subprocess.Popen(["nginx", "-p", scratch, "-e", "stderr", "-c", str(config)])
        try:
            wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    """Return when somebody listens there; RuntimeError if the process ended, or nobody does in time."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")
