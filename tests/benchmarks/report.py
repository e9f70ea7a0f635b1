"""What a benchmark answers, and the table of all answers."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One figure beside its goal. ``value`` None: it could not be measured here, and ``ours`` says why."""

    what: str
    value: float | None
    goal: float
    at_least: bool = True
    """Whether the value shall be at least the goal, or at most."""
    unit: str = ""
    ours: str
    beside: str = ""
    """The limit or peer of the same run."""
    foreign: float = 0.0

    @property
    def holds(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @property
    def cells(self) -> tuple[str, ...]:
        sign = "≥" if self.at_least else "≤"
        verdict = {True: "holds", False: "**missed**", None: ""}[self.holds]
        return (
            self.what,
            f"{sign} {short(self.goal)}{self.unit}",
            "not measured" if self.value is None else f"{short(self.value)}{self.unit}",
            verdict,
            self.ours,
            self.beside,
            f"{self.foreign:.2f}",
        )


HEADER = ("what", "goal", "measured", "", "ours", "beside", "foreign")


def short(value: float) -> str:
    """Three digits that mean something."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def median_ratio(ours: Sequence[float], limit: Sequence[float]) -> float:
    """The median of the rounds' ratios: a round's two sides ran beside each other."""
    return statistics.median(a / b for a, b in zip(ours, limit, strict=True))


def spread(values: Sequence[float]) -> str:
    """``median [min..max]``."""
    return f"{short(statistics.median(values))} [{short(min(values))}..{short(max(values))}]"


def table(findings: Iterable[Finding]) -> str:
    """As Markdown."""
    rows = [HEADER, tuple("---" for _ in HEADER), *(finding.cells for finding in findings)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def as_json(findings: Iterable[Finding], facts: Mapping[str, str]) -> dict[str, object]:
    return {
        "machine": dict(facts),
        "findings": [
            {
                "what": one.what, "goal": one.goal, "at_least": one.at_least, "value": one.value, "unit": one.unit,
                "holds": one.holds, "ours": one.ours, "beside": one.beside, "foreign": round(one.foreign, 3),
            }
            for one in findings
        ],
    }  # fmt: skip
