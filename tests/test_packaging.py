"""What `pip install .` gives: every module, and the command."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def test_the_wheel_has_every_module_and_the_command(tmp_path: Path) -> None:
    """The tests run from the source tree, where a module that the wheel lacks would not be missed."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("detectctl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        (entry_points,) = (name for name in packed if name.endswith("entry_points.txt"))
        assert "detectctl = detectctl.cli:main" in archive.read(entry_points).decode()
    modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    modules |= {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/detectctl/serving/page").iterdir()}
    assert modules <= packed
    assert any(name.endswith("licenses/LICENSE") for name in packed)
