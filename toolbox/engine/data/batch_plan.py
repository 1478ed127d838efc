"""Which draws of a sampler a process reads: its share of a batch in training, whole batches in turn in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from toolbox.base import Sampler, get_dist_info
from toolbox.errors import ToolboxError


class BatchPlan(Protocol):
    """The draws (draw, index) of every batch from number `start` on."""

    start: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]: ...
    def __len__(self) -> int: ...


class TrainBatches:
    """The draws of batches `start` to `stop` of a sampler, this process's share of each; `together` as in `share`."""

    def __init__(self, sampler: Sampler, start: int, stop: int, together: int = 1) -> None:
        self.sampler, self.start, self.stop, self.together = sampler, start, stop, together

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, size = get_dist_info()
        for number in range(self.start, self.stop):
            yield share(self.sampler.draws(number), rank, size, self.sampler.blocks, self.together)

    def __len__(self) -> int:
        return self.stop - self.start


class EvalBatches(TrainBatches):
    """All draws of a sampler, whole batches that processes take in turn, as many each: the last ones repeat a batch.

    So each batch is computed as it would be by one process, and all processes call the model equally often.
    """

    def __init__(self, sampler: Sampler) -> None:
        rank, size = get_dist_info()
        self.numbers = range(rank, -(-len(sampler) // size) * size, size)
        super().__init__(sampler, 0, len(self.numbers))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in self.numbers:
            yield self.sampler.draws(number % len(self.sampler))

    def own(self) -> list[bool]:
        """Which of the batches are this process's, and not repeated."""
        return [number < len(self.sampler) for number in self.numbers]


def share(draws: list[tuple[int, int]], rank: int, size: int, blocks: int, together: int = 1) -> list[tuple[int, int]]:
    """A process's contiguous part of every block of a batch. Raises ToolboxError for one too small to share.

    - `together`: so many consecutive items, from the first one on, are never parted.
    """
    rows = len(draws) // blocks
    units = -(-rows // together)
    if units < size:
        what = "rows" if blocks > 1 else "items" if together == 1 else f"items, of which {together} stay together,"
        raise ToolboxError(
            f"A batch of {rows} {what} cannot be shared by {size} processes.",
            where="train_dataloader",
            hint="Use a larger batch, drop_last=True in the sampler, or fewer processes.",
        )
    first, last = units * rank // size * together, min(units * (rank + 1) // size * together, rows)
    return [draw for block in range(blocks) for draw in draws[block * rows + first : block * rows + last]]
