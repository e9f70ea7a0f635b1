"""Counts of outcomes and billed tokens, kept while requests come in so that nothing is counted at the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from unhurried.simulator import prices
from unhurried.simulator.outcomes import Item, Outcome, ResultType


class Tally:
    """How the requests of a batch end, and what upstream bills for those that succeed."""

    def __init__(self) -> None:
        """Nothing counted yet."""
        self.counts: dict[ResultType, int] = dict.fromkeys(ResultType, 0)
        self._tokens: dict[tuple[str, bool], list[int]] = {}
        """(model, long prompt) → [input tokens, output tokens]: the long band has a price of its own."""

    def add(self, item: Item, outcome: Outcome) -> None:
        """Count one request."""
        self.counts[outcome.type] += 1
        if outcome.type is ResultType.SUCCEEDED:
            self.bill(item)

    def bill(self, item: Item) -> None:
        """Count the tokens of one answer."""
        key = (item.model, item.input_tokens > prices.LONG_PROMPT_TOKENS)
        tokens = self._tokens.get(key)
        if tokens is None:
            tokens = self._tokens[key] = [0, 0]
        tokens[0] += item.input_tokens
        tokens[1] += item.output_tokens

    def join(self, other: Tally) -> None:
        """Count what ``other`` has counted."""
        for type_, count in other.counts.items():
            self.counts[type_] += count
        for key, (input_tokens, output_tokens) in other._tokens.items():
            tokens = self._tokens.setdefault(key, [0, 0])
            tokens[0] += input_tokens
            tokens[1] += output_tokens

    def billed(self, *, discount: float) -> dict[str, Any]:
        """``{"input_tokens", "output_tokens", "cost_usd", "by_model", "models_without_price"}``.

        ``discount`` is the factor on list prices: 0.5 for batches, 1 for calls in real time.
        """
        by_model: dict[str, Counter[str]] = {}
        costs: Counter[str] = Counter()
        unpriced: set[str] = set()
        for (model, long), (input_tokens, output_tokens) in self._tokens.items():
            by_model.setdefault(model, Counter()).update(input_tokens=input_tokens, output_tokens=output_tokens)
            cost = prices.cost_usd(model, long=long, input_tokens=input_tokens, output_tokens=output_tokens)
            if cost is None:
                unpriced.add(model)
            else:
                costs[model] += cost * discount  # type: ignore[assignment]  # a Counter of floats is just a sum
        return {
            "input_tokens": sum(tokens["input_tokens"] for tokens in by_model.values()),
            "output_tokens": sum(tokens["output_tokens"] for tokens in by_model.values()),
            "cost_usd": round(sum(costs.values()), 9),
            "by_model": {model: {**tokens, "cost_usd": round(costs[model], 9)} for model, tokens in by_model.items()},
            "models_without_price": sorted(unpriced),
        }
