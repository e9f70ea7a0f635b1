"""The text of a scrape: Prometheus' format, or OpenMetrics."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import ProcessCollector, exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from unhurried.observability.metrics import counted, stored
from unhurried.observability.metrics.scrape import Seen

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_process: Final = ProcessCollector(registry=None)
"""The names that every program with a Prometheus client has: ``process_cpu_seconds_total`` and so on."""


class _Families(Collector):
    """Stands for a registry: nothing is registered anywhere, each scrape is made anew."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        yield from stored.families(self._seen)
        yield from counted.families(self._seen)
        yield from _process.collect()


def expose(seen: Seen, accept: str) -> tuple[bytes, str]:
    if "application/openmetrics-text" in accept:  # the one version that the parsers of today all read
        return openmetrics.generate_latest(_Families(seen), version="1.0.0"), OPENMETRICS  # type: ignore[no-untyped-call]  # the one module of it without types
    return exposition.generate_latest(_Families(seen)), exposition.CONTENT_TYPE_PLAIN_0_0_4
