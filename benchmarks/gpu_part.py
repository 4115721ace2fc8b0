"""Parts of `gpu.py` in a process of their own: `python gpu_part.py PLAN HOME ROWS PART…`.

PLAN is JSON of `gpu_rows.Plan`. Each row goes to the file ROWS as soon as it is measured, a line of JSON: what is known
when the process is ended, or dies, is known.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from gpu_rows import Plan, Row, said

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpu_rows import Part


def rows(part: Part, plan: Plan, home: Path) -> Iterator[Row]:
    """What the part measures; torch is imported only where it computes in this process."""
    if part == "service":
        from server_parts import service

        return service(plan, home)
    if part == "litserve":
        from server_parts import litserve

        return litserve(plan)
    import torch_parts

    if part == "decoding":
        return torch_parts.decoding(plan)
    return torch_parts.loop(plan) if part == "loop" else torch_parts.network(plan, part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=json.loads)
    parser.add_argument("home", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("parts", nargs="+")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what it has started ends with it
    cv2.setNumThreads(1)  # as in a replica
    with arguments.rows.open("w") as target:
        for part in arguments.parts:
            try:
                for row in rows(part, Plan(**arguments.plan), arguments.home):
                    print(json.dumps(asdict(row)), file=target, flush=True)
            except Exception as error:  # noqa: BLE001 - the next part may go well
                print(json.dumps(asdict(Row(part, "", failed=said(error)))), file=target, flush=True)


if __name__ == "__main__":
    main()
