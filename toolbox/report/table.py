"""The before/after table of metrics and the one sentence above it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolbox.base.intervals import split_intervals
from toolbox.base.metric import is_better
from toolbox.report.numbers import format_fixed, is_finite, is_number


@dataclass(frozen=True)
class MetricRow:
    """One metric, ready to print.

    - `before`, `after`, `difference`: texts; the difference is that of the numbers as printed, so the row adds up.
    - `pixels`: the same of raw pixels, empty where they were not evaluated.
    - `features`: the same of the trained features before the head, empty where they were not evaluated.
    - `interval`: of `after`, "0.48 to 0.52"; empty where there is none.
    - `span`: where the metric began and ended on a track from 0 to 100, None when it has no place there.
    - `worse`: whether the number after is worse than the one before.
    """

    name: str
    before: str
    after: str
    difference: str
    span: tuple[float, float] | None
    pixels: str = ""
    interval: str = ""
    worse: bool = False
    features: str = ""


@dataclass(frozen=True)
class Headline:
    """The result in one sentence.

    - `metric`: its name, capitalised; empty when nothing was evaluated.
    - `values`: "0.12 → 0.61", or one number; `where`: "on 4,200 test items"; `difference`: "+0.49" or empty.
    - `note`: what is missing, empty when nothing is; `worse`: whether the number fell behind the one before.
    """

    metric: str = ""
    values: str = ""
    where: str = ""
    difference: str = ""
    note: str = ""
    worse: bool = False

    def __str__(self) -> str:
        sentence = " ".join(part for part in (self.metric, self.values, self.where) if part)
        sentence = ", ".join(part for part in (sentence, self.difference) if part)
        return ". ".join(part for part in (sentence, self.note) if part)


def separate_settings(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results whose numbers are measurements alone; the settings that metrics chose stand in "chosen", by name."""
    names = set(results.get("settings") or [])
    measured = ("before", "after", "pixels", "before_head")
    changed = {
        key: {name: value for name, value in results[key].items() if name not in names}
        for key in measured
        if isinstance(results.get(key), Mapping)
    }
    numbers = results.get("after") or results.get("before") or {}
    return {**results, **changed, "chosen": {name: numbers[name] for name in numbers if name in names}}


def make_rows(
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    pixels: dict[str, Any] | None = None,
    better: Mapping[str, str] | None = None,
    features: dict[str, Any] | None = None,
) -> list[MetricRow]:
    """The table's rows, in the order of `after`; integers are counts, and counts that stay have no difference.

    - `better`: "greater" or "less" for each metric; default: greater.
    - `features`: the numbers of the trained features before the head.
    """
    before, after, better = before or {}, after or {}, better or {}
    (after, bounds), (before, _) = split_intervals(after), split_intervals(before)
    rows = []
    for name in dict.fromkeys([*after, *before]):
        old, new = before.get(name), after.get(name)
        numbers = [value for value in (old, new) if value is not None]
        places = choose_decimals(*numbers)
        counts = all(isinstance(value, int) for value in numbers)
        inside = not counts and all(is_finite(value) and 0 <= value <= 1 for value in numbers)
        rows.append(
            MetricRow(
                name,
                format_fixed(old, places),
                format_fixed(new, places),
                "" if counts and old == new else format_difference(old, new, places),
                (round(100 * numbers[0], 2), round(100 * numbers[-1], 2)) if inside else None,
                pixels=format_fixed(pixels.get(name), places) if pixels else "",
                interval=" to ".join(format_fixed(bound, places) for bound in bounds.get(name, ())),
                worse=is_worse(old, new, better.get(name, "greater")),
                features=format_fixed(features.get(name), places) if features else "",
            )
        )
    return rows


def is_worse(before: Any, after: Any, better: str = "greater") -> bool:
    """Whether a metric got worse; counts and numbers that are not finite do not.

    - `better`: "greater" or "less".
    """
    if isinstance(after, int) or not (is_finite(before) and is_finite(after)):
        return False
    return is_better(before, after, better)


def is_unchanged(before: dict[str, Any] | None, after: dict[str, Any] | None) -> bool:
    """Whether all that was measured before and after is the same, as where only a probe beside it was trained."""
    before, after = before or {}, after or {}
    shared = [(value, after.get(name)) for name, value in before.items() if is_finite(value)]
    shared = [(old, new) for old, new in shared if is_finite(new)]
    return any(isinstance(old, float) for old, _ in shared) and all(old == new for old, new in shared)


def choose_decimals(*values: Any) -> int:
    """0 for counts; else about four digits, and more for numbers that would come out as zeros."""
    if all(isinstance(value, int) for value in values if value is not None):
        return 0
    largest = max((abs(value) for value in values if is_finite(value)), default=1.0)
    if largest >= 10:
        return 2 if largest < 1000 else 1
    return 4 if largest >= 0.01 or largest == 0 else min(12, 2 - math.floor(math.log10(largest)))


def format_difference(before: Any, after: Any, places: int) -> str:
    """That of the numbers as printed, so that a row adds up; empty where there is none."""
    if not (is_finite(before) and is_finite(after)):
        return ""
    return format_fixed(round(after, places) - round(before, places), places, sign=True)


def make_headline(results: dict[str, Any], *, items: int | None, split: str) -> Headline:
    """What the run achieved.

    - `results`: with "before", "after" and "best", each possibly missing.
    - `items`: of the evaluation, when the metrics do not count their "queries"; None for unknown.
    - `split`: "test", "validation", or empty for unknown.
    """
    before, after = results.get("before") or {}, results.get("after") or {}
    name = _choose_leading_metric(results, after) or _choose_leading_metric(results, before)
    if name is None:
        return Headline(note="This run holds no evaluation")
    old, new = before.get(name), after.get(name)
    count = (after or before).get("queries", items)
    where = f"on {count:,} {split} items".replace("  ", " ") if isinstance(count, int) else ""
    places = _choose_headline_decimals(old, new)
    metric = name[:1].upper() + name[1:]
    if not is_number(new):
        return Headline(
            metric, format_fixed(old, places), where, note="That is before training; there is no number after it"
        )
    if not is_number(old):
        why = "It is not defined for the backbone alone" if before else "It was not evaluated before training"
        return Headline(metric, format_fixed(new, places), where, note=why)
    values = f"{format_fixed(old, places)} → {format_fixed(new, places)}"
    worse = is_worse(old, new, (results.get("better") or {}).get(name, "greater"))
    return Headline(metric, values, where, format_difference(old, new, places), worse=worse)


def _choose_leading_metric(results: dict[str, Any], metrics: dict[str, Any]) -> str | None:
    """The metric that chose the best checkpoint, or the first that is no count."""
    chosen = (results.get("best") or {}).get("metric")
    if chosen in metrics:
        return chosen
    return next((name for name, value in metrics.items() if isinstance(value, float)), None)


def _choose_headline_decimals(before: Any, after: Any) -> int:
    """Two, and up to four for a change too small to be seen in two."""
    if not (is_finite(before) and is_finite(after)) or before == after:
        return 2
    return min(4, max(2, 1 - math.floor(math.log10(abs(after - before)))))
