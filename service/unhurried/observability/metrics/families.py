"""How a number becomes a metric. Names get their prefix here; labels are few, and each has a bounded set of values."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from unhurried.counting import Histogram

PREFIX: Final = "unhurried_"
NAMES_MAX: Final = 200
OTHERS: Final = "(others)"
"""Callers make queues by naming them: from here on they are told together, so that no mistake of theirs floods the
monitoring."""

Samples = Iterable[tuple[Sequence[str], float | None]]
"""Values of the labels, and the number; None: there is nothing to tell."""


def gauge(
    name: str, says: str, labels: Sequence[str], samples: Samples, fold: Callable[[float, float], float] = float.__add__
) -> Metric:
    """``fold`` joins numbers that have the same labels, once names were folded into ``OTHERS``."""
    family = GaugeMetricFamily(PREFIX + name, says, labels=labels)
    for values, number in _joined(samples, fold).items():
        family.add_metric(values, number)
    return family


def counter(name: str, says: str, labels: Sequence[str], samples: Samples) -> Metric:
    """``name`` ends in ``_total``."""
    family = CounterMetricFamily(PREFIX + name, says, labels=labels)
    for values, number in _joined(samples, float.__add__).items():
        family.add_metric(values, number)
    return family


def histogram(
    name: str, says: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], Histogram]], per: float = 1.0
) -> Metric:
    """``per``: how many of the histogram's units are one of the metric's."""
    family = HistogramMetricFamily(PREFIX + name, says, labels=labels)
    for values, spread in samples:
        bounds = [f"{bound / per:g}" for bound in spread.bounds]
        buckets = list(zip((*bounds, "+Inf"), accumulate(spread.counts), strict=True))
        family.add_metric(values, buckets, sum_value=spread.total / per)
    return family


def info(name: str, says: str, facts: Mapping[str, str]) -> Metric:
    return InfoMetricFamily(PREFIX + name, says, value=dict(facts))


def folded(names: Iterable[str]) -> Mapping[str, str]:
    """Under which name each is told: its own, or ``OTHERS`` beyond the first ``NAMES_MAX`` in order."""
    return {name: name if place < NAMES_MAX else OTHERS for place, name in enumerate(sorted(set(names)))}


def _joined(samples: Samples, fold: Callable[[float, float], float]) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for values, number in samples:
        if number is not None:
            key = tuple(values)
            found[key] = fold(found[key], float(number)) if key in found else float(number)
    return found
