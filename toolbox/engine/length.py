"""How long a run is, in steps and in epochs, and which steps complete an interval."""

from __future__ import annotations

from fractions import Fraction

from toolbox.engine.settings import Settings


class RunLength:
    """The steps of a run, each an update of `accumulative_counts` batches.

    With `max_epochs` the run reads exactly as many epochs: what accumulation leaves over at the end belongs to the
    last step. Epochs may end within a step; they are complete with it.

    - `settings`: of a complete recipe; `batches`: in an epoch.

    `validate_every` and `save_every` are in steps.
    """

    def __init__(self, settings: Settings, batches: int) -> None:
        self._batches_per_epoch, self._accumulate = batches, settings("optim_wrapper.accumulative_counts")
        epochs, max_steps = settings("train_cfg.max_epochs"), settings("train_cfg.max_steps")
        by_epoch = max_steps is None
        self.steps: int = max(1, epochs * batches // self._accumulate) if by_epoch else max_steps
        self._total_batches = epochs * batches if by_epoch else self.steps * self._accumulate
        epoch = Fraction(batches, self._accumulate)  # it may end within a step
        self.steps_per_epoch: int | float = int(epoch) if epoch.denominator == 1 else float(epoch)
        interval = settings("train_cfg.val_interval")
        self.validate_every = (interval or 1) * (epoch if by_epoch or interval is None else 1)
        checkpoint = settings("default_hooks.checkpoint")
        interval, save_by_epoch = checkpoint["interval"], checkpoint["by_epoch"]
        if save_by_epoch is None:
            save_by_epoch = by_epoch or interval is None
        self.save_every = (interval or 1) * (epoch if save_by_epoch else 1)

    def batches(self, step: int) -> int:
        """How many batches the first `step` steps take."""
        return self._total_batches if step >= self.steps else step * self._accumulate

    def epoch(self, step: int) -> float:
        """How many epochs the first `step` steps take."""
        return self.batches(step) / self._batches_per_epoch

    def validates(self, step: int) -> bool:
        """Whether step number `step` (1 is the first) completes `val_interval`."""
        return self._completes(step, self.validate_every)

    def saves(self, step: int) -> bool:
        """Whether step number `step` completes the interval of checkpoints."""
        return self._completes(step, self.save_every)

    def _completes(self, step: int, every: Fraction | int) -> bool:
        """- `every`: an interval in steps of `accumulative_counts` batches, maybe a part of one more."""
        now, before = (Fraction(self.batches(number), self._accumulate) // every for number in (step, step - 1))
        return step > 0 and now > before
