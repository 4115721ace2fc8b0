"""A rollout on a host whose Serve is bent, and nothing of Ray's."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from detectctl.hosts.local.local_host import LocalHost
from detectctl.hosts.serve_rest import ServeStatus
from detectctl.lifecycle.deployment import Deployment, plan
from detectctl.lifecycle.rollout import Rollout
from detectctl.processes import Process
from detectctl.progress import silent
from detectctl.settings import UpSettings
from detectctl.thresholds import Thresholds
from detectctl.waiting import Deadline
from lifecycle_values import COMPILED, MODEL, PLACE, STATE, with_head

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from detectctl.hosts.local.ray_head import HeadRecord
    from detectctl.lifecycle.state import InstanceFolder, InstanceState


def planned(**settings: Any) -> Deployment:
    return plan(UpSettings(**settings), MODEL, COMPILED, "cpu", None)


GOOD, BAD = planned(), planned(conf=Thresholds(0.5))


class BentHost(LocalHost):
    """Its Serve takes what it is told, and cannot load `BAD`."""

    def __init__(
        self,
        running: Deployment,
        *,
        target: int = 1,
        on_deploy: Callable[[], None] = lambda: None,
        deployed: Sequence[str] = (),
        place: HeadRecord = PLACE,
    ) -> None:
        super().__init__(place)
        self.running = running
        self.target = target
        self.on_deploy = on_deploy
        self.deployed = list(deployed)

    def deploy(
        self, application: Mapping[str, Any], record: Mapping[str, Any], deadline: Deadline | None = None
    ) -> None:
        fingerprint = application["deployments"][0]["user_config"]["fingerprint"]
        self.running = next(one for one in (GOOD, BAD) if one.fingerprint == fingerprint)
        if self.deployed:
            self.on_deploy()
        self.deployed.append(fingerprint)

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        word = "DEPLOY_FAILED" if self.running == BAD else "RUNNING"
        return ServeStatus(word, "", "no such file", self.target, (), self.running.fingerprint)


def state_of(good: Deployment) -> InstanceState:
    return with_head(replace(STATE, deployed=good, last_good=good), Process.of(os.getpid()))


def rollout_on(host: LocalHost, folder: InstanceFolder) -> Rollout:
    return Rollout(host, folder, Deadline.after(20), silent)
