"""The page of the metrics and what the daemon exposes are the same list, and the alerts speak of nothing else."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest

from tests.ingest.daemon import Daemon, envelope, running
from tests.observability.scraping import Scrape, scrape
from unhurried.counting import Histogram
from unhurried.store.records import StoredResults

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
DOCUMENTED = {
    name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
    for name, kind, labels in ROW.findall((DOCS / "metrics.md").read_text())
}
RULES = msgspec.yaml.decode((DOCS / "deploy/alerts.yaml").read_bytes())["groups"][0]["rules"]
OF_THE_FORMAT = {"le"}


@pytest.fixture
async def everything(tmp_path: Path) -> AsyncIterator[Scrape]:
    """A scrape of a daemon to which each thing that is counted has happened once."""
    async with running(tmp_path) as daemon:
        await fill(daemon)
        yield await scrape(daemon)


async def fill(daemon: Daemon) -> None:
    now, meters = daemon.clock.now(), daemon.meters
    async with daemon.client() as client:
        taken = await client.post("/queue/requests", content=envelope(), headers={"content-type": "application/json"})
    await daemon.finish([taken.json()["id"]])
    await daemon.store.put_webhook("hook", "https://example.com/", (), None, "test", now)
    meters.refused("busy")
    meters.upstream_answered("list", 200, 0.1)
    meters.results_stored("m", StoredResults(tokens=(1, 1, 1, 1, 1)))
    meters.attempts["hook", "delivered"] += 1
    meters.attempt_seconds["hook"] = Histogram((1.0,))
    daemon.deps.health.watch.watch("keeper", now)  # type: ignore[attr-defined]  # the room sees less of it


def exposed(seen: Scrape) -> Mapping[str, tuple[str, frozenset[str]]]:
    """As ``DOCUMENTED``: name, type and labels of each metric."""
    told = {}
    for family in seen.families.values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels}
        told[name] = (family.type, frozenset(labels - OF_THE_FORMAT))
    return told


async def test_every_metric_is_on_the_page_with_its_type_and_labels_and_no_other(everything: Scrape) -> None:
    assert exposed(everything) == DOCUMENTED


async def test_every_metric_has_a_number_here(everything: Scrape) -> None:
    """Else the labels on the page would be compared with none."""
    assert [family.name for family in everything.families.values() if not family.samples] == []


def test_the_alerts_are_about_metrics_that_exist_and_labels_that_these_have() -> None:
    for rule in RULES:
        for name, selector in re.findall(r"\b((?:unhurried|process)_\w+)(\{[^}]*\})?", rule["expr"]):
            metric = re.sub(r"_(bucket|count|sum)$", "", name)
            assert metric in DOCUMENTED, rule["alert"]
            assert set(re.findall(r"(\w+)=", selector)) <= DOCUMENTED[metric][1], rule["alert"]


def test_each_alert_says_what_is_wrong_what_to_do_and_how_urgent_it_is() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
