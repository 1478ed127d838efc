"""Which towers take part in a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STREAM = 0x746F776572  # apart from what else is drawn by (seed, step)


def choose_kept(sides: Sequence[Sequence[str]], probability: float, *, seed: int, step: int) -> frozenset[str]:
    """The towers that take part in a step, at least one of each side; a pure function of (seed, step).

    - `sides`: the names of the towers of each side; `probability`: that one is left out.
    """
    random = np.random.default_rng((seed, step, _STREAM))
    kept: set[str] = set()
    for names in sides:
        stays = random.random(len(names)) >= probability
        spared = random.integers(len(names))  # drawn always, so that one side does not move the other's numbers
        if not stays.any():
            stays[spared] = True
        kept.update(name for name, here in zip(names, stays, strict=True) if here)
    return frozenset(kept)
