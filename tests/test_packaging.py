"""What `pip install .` gives: every module, and the command, with the versions that constraints.txt names."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import constraints

ROOT = Path(__file__).parent.parent


def test_a_lock_has_names_and_versions_only() -> None:
    """No address of an index, no label that only one index gives, and not the package itself."""
    report = {
        "install": [
            {"metadata": {"name": name, "version": version}, "download_info": {"url": f"https://index.example/{name}"}}
            for name, version in (("Torch", "2.13.0+cpu"), ("detectctl", "0.1.0"), ("PyYAML", "6.0.3"))
        ]
    }
    assert list(constraints.lines(report))[1:] == ["pyyaml==6.0.3", "torch==2.13.0"]


def test_the_constraints_are_a_lock_of_what_the_project_asks_for() -> None:
    """Each direct dependency is pinned, at a version that pyproject.toml admits; and no address stands there."""
    pinned = {}
    for line in constraints.FILE.read_text().splitlines()[1:]:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
        assert match, line
        pinned[canonicalize_name(match[1])] = match[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in sum(project["optional-dependencies"].values(), project["dependencies"])]
    direct = {canonicalize_name(each.name): each for each in asked if each.name != "detectctl"}
    assert [name for name in direct if name not in pinned] == []
    assert [name for name, each in direct.items() if not each.specifier.contains(pinned[name])] == []


@pytest.mark.slow
def test_the_wheel_has_every_module_and_the_command(tmp_path: Path) -> None:
    """The tests run from the source tree, where a module that the wheel lacks would not be missed."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("detectctl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        launcher = archive.getinfo("detectctl/hosts/local/haproxy_launcher.sh")
        assert launcher.external_attr >> 16 & 0o111 == 0o111
        (entry_points,) = (name for name in packed if name.endswith("entry_points.txt"))
        assert "detectctl = detectctl.cli:main" in archive.read(entry_points).decode()
    modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    modules |= {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/detectctl/serving/page").iterdir()}
    assert modules <= packed
    assert any(name.endswith("licenses/LICENSE") for name in packed)
