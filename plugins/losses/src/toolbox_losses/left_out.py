"""Pairs that are neither positive nor negative for a reason that labels do not tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass
class ExcludedPairs:
    """Pairs that are neither positive nor negative.

    - `pairs`: (B, R), True for pairs that no loss may look at; `uses`: how often a loss has left them out.
    """

    pairs: Tensor
    uses: int = 0


_current: ContextVar[ExcludedPairs | None] = ContextVar("left_out", default=None)


@contextmanager
def leaving_out(pairs: Tensor) -> Iterator[ExcludedPairs]:
    """Inside, `pair_masks` of labels with a second view leaves out `pairs`, (B, R) bool."""
    excluded = ExcludedPairs(pairs)
    token = _current.set(excluded)
    try:
        yield excluded
    finally:
        _current.reset(token)


def without_left_out(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """The two (B, R) masks without the pairs that are left out here."""
    excluded = _current.get()
    if excluded is None:
        return positive, negative
    excluded.uses += 1
    return positive & ~excluded.pairs, negative & ~excluded.pairs
