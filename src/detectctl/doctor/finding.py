"""What one check found."""

from __future__ import annotations

import configparser
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detectctl.paths import Paths, with_home
from detectctl.registry.assets import ASSETS_URL
from detectctl.registry.reference import Artifact, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.errors import DetectctlError, UsageError
    from detectctl.settings import UpSettings

_WANDB_URL = "https://api.wandb.ai"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        level: of a `failure`, `up` or the service as it is configured cannot work; with a `warning` it does, but less
            well than it could.
        message: what was seen, with its value.
        fix: what to do; None if there is nothing to do.
        check: what was looked at; empty for the check's own name.
    """

    level: Literal["ok", "warning", "failure"]
    message: str
    fix: str | None = None
    check: str = ""

    @classmethod
    def of(cls, error: DetectctlError) -> Finding:
        """The failure that `up` would end with."""
        return cls("failure", error.what_and_why, error.hint)

    @property
    def mild(self) -> Finding:
        """The same as a warning."""
        return replace(self, level="warning")


def ok(message: str, check: str = "") -> Finding:
    """Nothing to do."""
    return Finding("ok", message, check=check)


def warning(message: str, fix: str, check: str = "") -> Finding:
    """It works, but less well than it could."""
    return Finding("warning", message, fix, check)


def failure(message: str, fix: str, check: str = "") -> Finding:
    """It cannot work."""
    return Finding("failure", message, fix, check)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at: this machine, or the settings' cluster, as `up` would find it.

    Attributes:
        settings: of `up`, as file and environment say; its defaults if they are wrong.
        variables: the environment as it is.
        problem: what is wrong with the settings.
    """

    settings: UpSettings
    variables: Mapping[str, str]
    problem: UsageError | None = None

    @property
    def environ(self) -> dict[str, str]:
        """For child processes."""
        return with_home(self.variables)

    @property
    def paths(self) -> Paths:
        """Where files are kept; UsageError if there is nowhere."""
        return Paths.from_environ(self.variables)

    @property
    def wants_wandb(self) -> bool:
        """Whether the configured model comes from W&B; UsageError if it is no reference."""
        return isinstance(parse(self.settings.model), Artifact)

    @property
    def wandb_url(self) -> str:
        """Of W&B's API, as its SDK finds it: `wandb login --host` writes it into a file."""
        folder = self.variables.get("WANDB_CONFIG_DIR") or Path(self.environ["HOME"]) / ".config" / "wandb"
        written = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(OSError, ValueError, configparser.Error):
            written.read(Path(folder) / "settings", "utf-8")
        in_file = written.get("default", "base_url", fallback=None)
        return self.variables.get("WANDB_BASE_URL") or in_file or _WANDB_URL

    @property
    def assets_url(self) -> str:
        """Where base models are downloaded from."""
        return self.settings.assets_url or ASSETS_URL
