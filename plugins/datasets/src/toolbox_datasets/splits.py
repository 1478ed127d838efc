"""Which classes are held out of training."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

T = TypeVar("T")

LEAST = 2
"""Classes of a split: with one alone every neighbour is right, and there is nothing to tell apart."""


def held_out(count: int, share: float | Fraction) -> list[int]:
    """Indices of `share` of `count` classes, evenly spaced: with 0.1 every tenth (9, 19, ...).

    Evenly spaced over classes that are sorted by super-class, they hold the same share of every super-class, to within
    one class. The same classes are held out in every run and on every machine. Exact: 0.1 means 1/10.
    """
    exact = Fraction(str(share))
    part, whole = exact.as_integer_ratio()
    return [index for index in range(count) if (index + 1) * part // whole > index * part // whole]


def without(items: Sequence[int], removed: Sequence[int]) -> list[int]:
    """`items` that are not in `removed`, in their order."""
    gone = set(removed)
    return [item for item in items if item not in gone]


def require_share(name: str, share: float) -> None:
    """Raises ValueError unless 0 < `share` < 1."""
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1 (0.1 holds out every tenth class), not {share}")


def carve(classes: Sequence[T], share: float, split: str, source: object) -> list[T]:
    """The classes of "train" or "val", "val" being `share` of them, evenly spaced.

    - `classes`: in the order of super-class and name; `source`: what they were read from, for the message.

    Raises ValueError if fewer than two classes are left for either.
    """
    val = held_out(len(classes), share)
    chosen = {"train": without(range(len(classes)), val), "val": val}
    for name, members in chosen.items():
        if len(members) < LEAST:
            raise ValueError(
                f"{source}: val_share={share} of {len(classes)} classes leaves {len(members)} for '{name}', and a "
                f"split takes {LEAST}: choose another share"
            )
    return [classes[index] for index in chosen[split]]
