"""How long a run is, in steps and in epochs, and which steps complete an interval."""

from __future__ import annotations

from fractions import Fraction

from toolbox.engine.settings import Settings


class RunLength:
    """The steps of a run, each an update of `accumulative_counts` batches.

    With `max_epochs` the run reads exactly as many epochs: what accumulation leaves over at the end belongs to the
    last step. Epochs may end within a step; they are complete with it.

    - `settings`: of a complete recipe; `batches`: in an epoch.
    """

    def __init__(self, settings: Settings, batches: int) -> None:
        self._settings, self._per_epoch = settings, batches
        self._accumulate = settings("optim_wrapper.accumulative_counts")
        self.steps = settings.steps(batches)
        steps = settings.steps_per_epoch(batches)
        self.steps_per_epoch: int | float = int(steps) if steps.denominator == 1 else float(steps)
        self._validate, self._save = settings.validate_every(steps), settings.save_every(steps)
        epochs = settings("train_cfg.max_epochs")
        by_epoch = settings("train_cfg.max_steps") is None
        self._total = epochs * batches if by_epoch else self.steps * self._accumulate

    def batches(self, step: int) -> int:
        """How many batches the first `step` steps take."""
        return self._total if step >= self.steps else step * self._accumulate

    def epoch(self, step: int) -> float:
        """How many epochs the first `step` steps take."""
        return self.batches(step) / self._per_epoch

    def validates(self, step: int) -> bool:
        """Whether step number `step` (1 is the first) completes `val_interval`."""
        return self._completes(step, self._validate)

    def saves(self, step: int) -> bool:
        """Whether step number `step` completes the interval of checkpoints."""
        return self._completes(step, self._save)

    def _completes(self, step: int, every: Fraction | int) -> bool:
        """- `every`: an interval in steps of `accumulative_counts` batches, maybe a part of one more."""
        now, before = (Fraction(self.batches(number), self._accumulate) // every for number in (step, step - 1))
        return step > 0 and now > before
