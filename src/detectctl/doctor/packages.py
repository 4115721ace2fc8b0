"""Python and its packages, against those that detectctl was tested with."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from detectctl.doctor.finding import Finding, Subject, failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLASSIFIER = "Programming Language :: Python :: 3."
_FIX = "install it again, with what it needs: `pip install --upgrade detectctl`"


def python(_subject: Subject) -> Iterator[Finding]:
    """Its minor version."""
    classifiers = metadata.metadata("detectctl").get_all("Classifier") or []
    tested = [int(each.removeprefix(_CLASSIFIER)) for each in classifiers if each.startswith(_CLASSIFIER)]
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[1] in tested:
        yield ok(version)
    else:
        yield warning(
            f"{version} is not among the tested ones, 3.{min(tested)} to 3.{max(tested)}",
            f"make an environment with one of these: `python3.{max(tested)} -m venv`",
        )


def packages(_subject: Subject) -> Iterator[Finding]:
    """What detectctl requires, extras aside."""
    wrong = []
    for requirement in map(Requirement, metadata.requires("detectctl") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(failure(f"{requirement.name} is not installed", _FIX))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            tested = str(requirement.specifier)
            wrong.append(warning(f"{requirement.name} {version} is not among the tested ones, {tested}", _FIX))
    yield from wrong
    if not wrong:
        yield ok(f"as tested, with ray {metadata.version('ray')} and openvino {metadata.version('openvino')}")
