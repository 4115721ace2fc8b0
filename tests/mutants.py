"""Break src in ten places, one at a time, and print which of the fast tests notices: `make mutants`.

Each mutant is a small edit that a person might make by mistake. It is made in a copy of src, which lies first on the
path of the tests; exit 1 if one survives, 2 if the place to break is not there any more.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
AT_ONCE = 2


@dataclass(frozen=True)
class Mutant:
    """One edit, and the tests that should notice it."""

    mistake: str
    file: str
    old: str
    new: str
    tests: str

    def made(self) -> str:
        """The file with the mistake in it; LookupError if what it would change is not there exactly once."""
        file = ROOT / "src" / "detectctl" / self.file
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if text.count(self.old) != 1:
            raise LookupError(f"{self.file} has {self.old!r} {text.count(self.old)} times")
        return text.replace(self.old, self.new)


MUTANTS = (
    Mutant(
        "one good address among several is enough",
        "serving/url_policy.py",
        "return bool(unwrapped) and all(",
        "return bool(unwrapped) and any(",
        "test_serving_url_policy.py",
    ),
    Mutant(
        "of two different keys either one counts",
        "serving/guard.py",
        "return found.pop() if len(found) == 1 else None",
        "return found.pop() if found else None",
        "test_serving_guard.py",
    ),
    Mutant(
        "a full queue takes one more",
        "serving/admission.py",
        "if self._admitted >= self.config.max_queue:",
        "if self._admitted > self.config.max_queue:",
        "test_serving_admission.py test_serving_routes.py test_serving_body.py",
    ),
    Mutant(
        "the union of two boxes counts what they share twice",
        "engine/nms.py",
        "(areas[best] + areas[alive] - shared)",
        "(areas[best] + areas[alive])",
        "test_engine_nms.py",
    ),
    Mutant(
        "the odd pixel of padding goes to the left",
        "engine/letterbox.py",
        "left, top = round(pad_x - 0.1), round(pad_y - 0.1)",
        "left, top = round(pad_x + 0.1), round(pad_y - 0.1)",
        "test_engine_letterbox.py",
    ),
    Mutant(
        "a checkpoint of another digest is stored",
        "registry/store.py",
        "if expected is not None and sha256 != expected:",
        "if expected is not None and len(sha256) != len(expected):",
        "test_registry_store.py test_registry_base_weights.py",
    ),
    Mutant(
        "a base model may change under its name",
        "registry/base_weights.py",
        "if recorded not in {None, asset.sha256}:",
        "if recorded not in {None, recorded}:",
        "test_registry_base_weights.py",
    ),
    Mutant(
        "a service that is overloaded is not asked again",
        "client/failures.py",
        "MAY_PASS = frozenset({429, 500, 502, 503, 504})",
        "MAY_PASS = frozenset({429, 500, 502, 504})",
        "test_client_failures.py test_client_service_client.py",
    ),
    Mutant(
        "after a failed update the bad deployment stays declared",
        "lifecycle/rollout.py",
        "self.host.deploy(good.application(",
        "str(good.application(",
        "test_lifecycle_rollout.py",
    ),
    Mutant(
        "the file goes before the environment",
        "precedence.py",
        "if setting.variable in self.environ and not self._is_kubernetes(setting.variable):",
        "if setting.variable in self.environ and setting.key not in self.tables.get('', {}):",
        "test_precedence.py",
    ),
    Mutant(
        "a COCO box has its corner where its size should be",
        "client/formats.py",
        "(x1, y1, x2 - x1, y2 - y1)",
        "(x1, y1, x2, y2)",
        "test_client_formats.py",
    ),
)


def noticed_by(mutant: Mutant | None, tests: str) -> str | None:
    """The first of the tests that fails; None if all pass.

    Raises:
        LookupError: what the mutant would change is not there exactly once.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(shutil.copytree(ROOT / "src", Path(folder) / "src", ignore=shutil.ignore_patterns("__pycache__")))
        if mutant is not None:
            (copy / "detectctl" / mutant.file).write_text(mutant.made(), encoding="utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "120"),
                *("-m", "not cluster and not slow", "--basetemp", str(Path(folder) / "tmp")),
                *(f"tests/{name}" for name in tests.split()),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    return failed[1] if failed else done.stdout[-200:]


def judge(mutant: Mutant) -> tuple[str, int]:
    """A cell of the table, and the exit code that goes with it."""
    try:
        noticed = noticed_by(mutant, mutant.tests)
    except LookupError as error:
        return f"GONE: {error}", 2
    return (noticed, 0) if noticed else ("NOBODY", 1)


def main() -> int:
    """Print the table."""
    everything = " ".join(sorted({name for mutant in MUTANTS for name in mutant.tests.split()}))
    if broken := noticed_by(None, everything):
        print(f"fails without any mutant: {broken}")
        return 2
    with ThreadPoolExecutor(AT_ONCE) as threads:
        verdicts = list(threads.map(judge, MUTANTS))
    print("| mistake | in | noticed by |\n|---|---|---|")
    for mutant, (verdict, _) in zip(MUTANTS, verdicts, strict=True):
        print(f"| {mutant.mistake} | `{mutant.file}` | {verdict} |")
    return max(code for _, code in verdicts)


if __name__ == "__main__":
    sys.exit(main())
