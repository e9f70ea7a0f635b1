"""A scrape over the socket, read with the parsers of the metrics library."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.ingest.daemon import Daemon

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@dataclass(frozen=True)
class Scrape:
    media_type: str
    families: Mapping[str, Metric]

    def value(self, sample: str, **labels: str) -> float:
        """The one number of that name and with these labels among its own."""
        [number] = [
            found.value
            for family in self.families.values()
            for found in family.samples
            if found.name == sample and labels.items() <= found.labels.items()
        ]
        return float(number)

    def sizes(self) -> Mapping[str, float]:
        """Every number by its name and labels."""
        return {
            f"{found.name}{sorted(found.labels.items())}": found.value
            for family in self.families.values()
            for found in family.samples
        }


async def scrape(daemon: Daemon, accept: str = "") -> Scrape:
    async with daemon.client() as client:
        answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    kind = answer.headers["content-type"]
    parse = openmetrics.text_string_to_metric_families if "openmetrics" in kind else text_string_to_metric_families
    return Scrape(kind, {family.name: family for family in parse(answer.text)})
