"""Schemathesis against the service's own description."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from served import served

if TYPE_CHECKING:
    from detectctl.engine.compiled import CompiledModel
    from edge_service import Edge

pytestmark = pytest.mark.cluster

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")

# A schema cannot describe which bytes are an image, or which URL leads to one: these answer valid requests correctly.
# The key comes from the environment, for the tests' own processes are held to the rules too.
AUTH = """
[auth.openapi.bearer]
bearer = "${SERVICE_KEY}"
"""
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 403, 413, 415, 502, 504]
"""


def test_all_answers_conform_to_the_description(edge: Edge, tmp_path: Path) -> None:
    """Hundreds of generated requests, valid and not: no server error, and every answer as `/openapi.json` says."""
    with edge.client() as client:
        description = client.get("/openapi.json").content
    done = _schemathesis(tmp_path, description, edge.url, AUTH + CONFIG, 60, SERVICE_KEY=edge.key)
    generated = re.search(r"(\d+) generated", done)
    assert generated is not None
    assert int(generated[1]) > 400
    assert "Authentication failed" not in done  # it says so if the key opened nothing


@pytest.mark.long  # the same routes
def test_so_do_the_answers_of_a_service_without_keys(yolov8n_compiled: CompiledModel, tmp_path: Path) -> None:
    """Its description has no 401, and its guard checks something else."""
    with served(yolov8n_compiled, own_host="127.0.0.1") as port:
        url = f"http://127.0.0.1:{port}"
        description = httpx.get(f"{url}/openapi.json", trust_env=False).content
        _schemathesis(tmp_path, description, url, CONFIG, 20)


def _schemathesis(folder: Path, description: bytes, url: str, config: str, examples: int, **env: str) -> str:
    """What it printed, having found nothing."""
    (folder / "schemathesis.toml").write_text(config)
    (folder / "openapi.json").write_bytes(description)
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", "schemathesis.toml", "run", "openapi.json", "--url", url),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)),
            *("--seed", "7", "--continue-on-failure", "--no-color", "--workers", "2"),
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-30000:] + done.stderr[-2000:]
    selected = re.search(r"(\d+) selected / (\d+) total", done.stdout)
    assert selected is not None
    assert selected[1] == selected[2] == "10"
    return done.stdout


def test_methods_and_parameters_are_described(edge: Edge) -> None:
    """405 lists all methods of the path; an unknown parameter is refused without being repeated."""
    with edge.client() as client:
        refused = client.delete("/detect")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
        strange = client.get("/detect?image_url=http://127.0.0.1/&<script>alert(1)</script>=1")
        assert strange.status_code == 422
        assert "script" not in strange.text
        classes = client.get("/openapi.json").json()["paths"]["/detect"]["post"]["parameters"]
        (described,) = (one["schema"] for one in classes if one["name"] == "class")
        assert "bus" in described["items"]["enum"]


def test_no_page_reflects_or_loads_anything(edge: Edge) -> None:
    """The page at /docs needs no other resource, is the same for every request, and may run nothing."""
    with edge.client() as client:
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "script" not in page.text
        assert not re.search(r"(src|href)=.?(https?:)?//", page.text)
        assert "script-src" not in page.headers["content-security-policy"]
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert client.get("/docs?<script>alert(1)</script>").text == page.text
        for path in ("/<script>alert(1)</script>", "/detect?image_url=<script>alert(1)</script>"):
            answer = client.get(path)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "Traceback" not in answer.text


def test_oversized_headers_are_refused(edge: Edge) -> None:
    """Over 16 KiB of headers are refused before the service sees them, and it goes on."""
    with edge.client() as client:
        assert client.get("/readyz", headers={"X-Long": "a" * 8000}).status_code == 200
        with contextlib.suppress(httpx.TransportError):  # HAProxy may hang up while the header is still being sent
            assert client.get("/readyz", headers={"X-Long": "a" * 20_000}).status_code in {400, 431}
        assert client.get("/readyz").status_code == 200
