"""What the processor that runs the tests computes in: expectations that depend on it follow from here."""

from __future__ import annotations

import functools


@functools.cache
def capabilities() -> frozenset[str]:
    """OpenVINO's names of the precisions and features that this processor has, such as `BF16`."""
    import openvino

    return frozenset(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def has_bf16() -> bool:
    """Whether this processor computes in bf16."""
    return "BF16" in capabilities()


def default_precision() -> str:
    """What `--precision auto` means on this processor."""
    return "bf16" if has_bf16() else "fp32"
