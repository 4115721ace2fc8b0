"""`doctor`, and what a failed `up` asks it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from detectctl.cli.options import Json, Session, command
from detectctl.errors import NotReady, UsageError
from detectctl.settings import DoctorSettings, UpSettings

if TYPE_CHECKING:
    from detectctl.doctor.finding import Subject
    from detectctl.errors import DetectctlError


@command
def doctor(session: Session, settings: DoctorSettings, as_json: Json = False) -> int:
    """Check the machine or cluster and the service; suggest fixes."""
    from detectctl.doctor.checkup import examine

    findings = []
    for finding in examine(subject(session, settings)):
        findings.append(finding)
        if not as_json:
            session.console.finding(finding)
    if as_json:
        session.console.json({"findings": [asdict(finding) for finding in findings]})
    return NotReady.exit_code if any(finding.level == "failure" for finding in findings) else 0


def subject(session: Session, settings: DoctorSettings) -> Subject:
    """What `up` would find."""
    from detectctl.doctor.finding import Subject

    said = {name: value if value is None else str(value) for name, value in asdict(settings).items()}
    try:
        wanted, _ = session.sources.load(UpSettings, said)
    except UsageError as error:
        return Subject(UpSettings(**asdict(settings)), os.environ, error)
    return Subject(wanted, os.environ)


def note_finding(error: DetectctlError, settings: UpSettings) -> None:
    """Add to the error of `up` what is wrong with this machine or the cluster, if that may be why."""
    from detectctl.doctor.checkup import explain
    from detectctl.doctor.finding import Subject

    found = explain(error, Subject(settings, os.environ))
    if found is not None:
        error.finding = f"{found.check}: {found.message}; {found.fix}"
