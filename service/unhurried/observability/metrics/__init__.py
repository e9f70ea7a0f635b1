"""``/metrics``: what the store knows, which survives a restart, and what this process did since its start.

``stored`` and ``counted`` say what there is (``docs/metrics.md`` has the same list), ``exposing`` puts it into the
format that is asked for. Whoever never asks pays nothing: the metrics library is imported with the first scrape.
"""

from unhurried.observability.metrics.scrape import Metrics

__all__ = ["Metrics"]
