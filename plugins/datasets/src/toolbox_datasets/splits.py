"""Which classes are held out of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def held_out(count: int, share: float | Fraction) -> list[int]:
    """Indices of `share` of `count` classes, evenly spaced: with 0.1 every tenth (9, 19, ...).

    Evenly spaced over classes that are sorted by super-class, they hold the same share of every super-class, to within
    one class. The same classes are held out in every run and on every machine. Exact: 0.1 means 1/10.
    """
    exact = Fraction(str(share))
    return [index for index in range(count) if math.floor((index + 1) * exact) > math.floor(index * exact)]


def without(items: Sequence[int], removed: Sequence[int]) -> list[int]:
    """`items` that are not in `removed`, in their order."""
    gone = set(removed)
    return [item for item in items if item not in gone]


def require_share(name: str, share: float) -> None:
    """Raises ValueError unless 0 < `share` < 1."""
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1 (0.1 holds out every tenth class), not {share}")
