"""Two runs compared item by item: which items flipped, and whether that may be chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from toolbox.base.report_items import Outcomes
from toolbox.utils.resampling import bootstrap_counts

RESAMPLES = 20_000


@dataclass(frozen=True)
class Flip:
    """An item that one run has right (at rank 1) and the other has not.

    - `position`: its place among the first run's items; `first`, `second`: its rank in either run, NaN for none; or 1
      and 0.
    """

    id: str
    position: int
    group: str
    first: float
    second: float

    @property
    def depth(self) -> float:
        """The rank in the run that missed it, infinite where it found nothing."""
        worse = self.second if self.first == 1 else self.first
        return math.inf if math.isnan(worse) else worse


@dataclass(frozen=True)
class GroupChange:
    """A super-class: its items, those that each run has right, and the flips either way."""

    name: str
    items: int
    first: int
    second: int
    lost: int
    gained: int


@dataclass(frozen=True)
class PairedOutcomes:
    """What two runs did with the same items.

    - `number`: what the share of right items is called: "Recall@1" where the outcomes are ranks, else e.g. "top1".
    - `ranked`: whether the outcomes are ranks, an item being right at rank 1.
    - `items`; `first_hits`, `second_hits`: those that are right.
    - `lost`: right in the first run alone; `gained`: in the second alone; the deepest rank of the other run first.
    - `p_value`: of the exact McNemar test, which is the sign test of the flips.
    - `difference`: of `number`, second minus first; `interval`: its paired bootstrap interval.
    - `unfound`: items for which neither run has a rank: they count as missed in both.
    """

    title: str
    number: str
    ranked: bool
    items: int
    first_hits: int
    second_hits: int
    lost: list[Flip]
    gained: list[Flip]
    p_value: float
    difference: float
    interval: tuple[float, float]
    unfound: int
    groups: list[GroupChange]


def find_hits(values: list[float]) -> list[bool]:
    """Which items are right: their number is 1, a rank or a yes."""
    return [value == 1 for value in values]


def name_share(outcomes: Outcomes) -> str:
    """What the share of right items is called."""
    return outcomes.mean or "Recall@1"


def describe_misfit(outcomes: Outcomes) -> str:
    """Why these numbers do not tell which items are right, empty when they do."""
    if not outcomes.ids:
        return "it holds no item"
    if len(set(outcomes.ids)) < len(outcomes.ids):
        return f"{len(outcomes.ids) - len(set(outcomes.ids)):,} of its ids stand there more than once"
    if outcomes.mean and any(value not in (0, 1) for value in outcomes.values):
        return "its numbers are not all 1 for right and 0 for wrong"
    if any(value < 0 or value % 1 for value in outcomes.values if math.isfinite(value)):
        return "its numbers are no ranks"
    return ""


def pair_outcomes(first: Outcomes, second: Outcomes, *, seed: int = 0) -> PairedOutcomes:
    """Compare two runs item by item. Raises ValueError unless both evaluated the same items, by the same number.

    - `seed`: of the bootstrap; the same runs give the same interval.
    """
    for outcomes in (first, second):
        if reason := describe_misfit(outcomes):
            raise ValueError(reason)
    if first.mean != second.mean:
        raise ValueError(f"one run's outcomes are of {name_share(first)} and the other's of {name_share(second)}")
    if set(first.ids) != set(second.ids):
        raise ValueError("the two runs were evaluated on different items")
    other = dict(zip(second.ids, second.values, strict=True))
    values = [other[name] for name in first.ids]
    groups = first.groups or [""] * len(first.ids)
    flips = [
        Flip(name, position, group, a, b)
        for position, (name, group, a, b) in enumerate(zip(first.ids, groups, first.values, values, strict=True))
        if (a == 1) != (b == 1)
    ]
    flips.sort(key=lambda flip: -flip.depth)
    lost, gained = [flip for flip in flips if flip.first == 1], [flip for flip in flips if flip.second == 1]
    count, a, b = len(first.ids), find_hits(first.values), find_hits(values)
    unfound = sum(not math.isfinite(x) and not math.isfinite(y) for x, y in zip(first.values, values, strict=True))
    return PairedOutcomes(
        first.title,
        name_share(first),
        not first.mean,
        count,
        sum(a),
        sum(b),
        lost,
        gained,
        sign_test(len(lost), len(gained)),
        (len(gained) - len(lost)) / count,
        bootstrap_difference(len(lost), len(gained), count, seed=seed),
        unfound,
        _count_changes(first.groups, a, b),
    )


def sign_test(lost: int, gained: int) -> float:
    """Two-sided p-value of the exact McNemar test: as many flips one way, or more, if either way were a fair coin.

    min(1, 2 * sum over i <= min(lost, gained) of C(n, i) / 2^n), n = lost + gained, in whole numbers. McNemar, "Note
    on the sampling error of the difference between correlated proportions or percentages", 1947.
    """
    n, fewer = lost + gained, min(lost, gained)
    ways = total = 1
    for i in range(fewer):
        ways = ways * (n - i) // (i + 1)
        total += ways
    return min(1.0, 2 * total / 2**n)


def bootstrap_difference(lost: int, gained: int, items: int, *, seed: int = 0) -> tuple[float, float]:
    """Paired percentile bootstrap interval (95 %) of the difference of the shares of right items, over items.

    An item's difference is -1, 0 or 1: its kinds are lost, gained and neither.
    """
    counts = torch.tensor([lost, gained, items - lost - gained])
    intervals = bootstrap_counts(
        counts, lambda drawn: {"difference": (drawn[:, 1] - drawn[:, 0]) / items}, RESAMPLES, seed=seed
    )
    return intervals["difference"]


def _count_changes(groups: list[str], first: list[bool], second: list[bool]) -> list[GroupChange]:
    """Of each super-class, the one that changed most first; nothing where all items are of one."""
    counts: dict[str, list[int]] = {}
    for group, a, b in zip(groups, first, second, strict=bool(groups)):
        group_counts = counts.setdefault(group, [0] * 5)
        for place, counted in enumerate((True, a, b, a and not b, b and not a)):
            group_counts[place] += counted
    changes = [GroupChange(name, *group_counts) for name, group_counts in counts.items()]
    changes.sort(key=lambda change: (-abs(change.second - change.first) / change.items, change.name))
    return changes if len(changes) > 1 else []
