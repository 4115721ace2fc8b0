"""Write `constraints.txt` anew: what pip would install today of all that pyproject.toml asks for; `make lock`.

Names and versions only: no address, so that whoever installs uses their own index. Run it on the oldest Python that is
supported; newer ones install the same versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
FILE = ROOT / "constraints.txt"
_HEAD = "# Every version that the tests ran with: pip install -c constraints.txt ."
_OURS = "detectctl"


def resolve() -> dict[str, Any]:
    """Pip's installation report; nothing is installed."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--report", "-", f"{ROOT}[dev,docs]"],
        stdout=subprocess.PIPE,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The file's, in order; without what an index adds to a version, such as `+cpu`."""
    yield _HEAD
    found = {canonicalize_name(each["metadata"]["name"]): each["metadata"]["version"] for each in report["install"]}
    for name, version in sorted(found.items()):
        if name != _OURS:
            yield f"{name}=={Version(version).public}"


if __name__ == "__main__":
    FILE.write_text("\n".join(lines(resolve())) + "\n")
