"""What a scrape of `/metrics` gave, read by Prometheus's own parser for Python."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""By name and labels."""


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, /, **labels: str) -> float:
    """Of one sample, by its name without `detectctl_`; KeyError if it is not there."""
    return found[f"detectctl_{name}", frozenset(labels.items())]
