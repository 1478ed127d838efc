"""The inputs of a probe's heads: ways to pool, as parts of one vector."""

from __future__ import annotations

from typing import NamedTuple

from toolbox.utils.pool import PoolMode, TokenPool

_MODES: dict[str, PoolMode] = {"cls": "cls", "mean": "mean", "cls+mean": "cls+mean"}


class ProbeInput(NamedTuple):
    """A way to pool, as a part of the vector that holds all: CLS tokens, the last block's at `end`, then the mean.

    - `mode`, `blocks`: as of `core.Pool`.
    - `start`, `end`: where the part is, in widths of a token.
    """

    mode: PoolMode
    blocks: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """The input in a recipe's words, such as "cls+mean:4"."""
        return self.mode if self.blocks == 1 else f"{self.mode}:{self.blocks}"

    def slice(self, dim: int) -> slice:
        """The part of a vector that is made of tokens of width `dim`."""
        return slice(self.start * dim, self.end * dim)

    def in_plain_torch(self) -> list[str]:
        """Lines of Python that pool this input, as `TokenPool.in_plain_torch` gives them."""
        return TokenPool(self.mode, blocks=self.blocks).in_plain_torch("pool")


def plan_pool(inputs: list[str]) -> tuple[list[ProbeInput], TokenPool]:
    """The part of each input in the vector that the pool gives. Raises ValueError for inputs that cannot be pooled."""
    modes_and_blocks = []
    for name in inputs:
        mode, _, blocks = name.partition(":")
        if mode not in _MODES or (blocks and not blocks.isdecimal()):
            raise ValueError(f"inputs has {name!r}: try 'cls', 'mean', 'cls+mean', or 'cls:4' for several blocks")
        modes_and_blocks.append((_MODES[mode], TokenPool(_MODES[mode], blocks=int(blocks or 1)).layers))
    deepest = max((blocks for mode, blocks in modes_and_blocks if mode != "mean"), default=0)
    parts = [
        ProbeInput(mode, blocks, deepest - blocks * ("cls" in mode), deepest + ("mean" in mode))
        for mode, blocks in modes_and_blocks
    ]
    tokens = "+".join(token for token in ("cls", "mean") if any(token in part.mode for part in parts))
    return parts, TokenPool(_MODES[tokens or "cls"], blocks=max(deepest, 1))
