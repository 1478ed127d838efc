"""The parts of training that a model may define beside its loss: learning rates, a teacher, schedules, averages."""

from __future__ import annotations

from torch import nn

from toolbox.base.loss import Loss


class TrainingSteps(nn.Module):
    """A model that has a part in how it is trained.

    - `seed`: of the run, the same in all processes. What is random of a whole step is drawn from (seed, step), so that
      it is the same in all processes, accumulated batches and chunks, and after a resume.
    """

    seed: int = 0

    def lr_factors(self) -> dict[str, float]:
        """Factors on the recipe's learning rate, by module path within the model; the longest path wins.

        A learning rate that the recipe gives a part in `optim_wrapper.parts` is taken as it is.
        """
        return {}

    def weights_ready(self) -> None:
        """Called once, when all pretrained weights are in place: the moment to copy a teacher."""

    def before_step(self, step: int, steps: int) -> None:
        """Called before update `step` of `steps`: the place for schedules of temperatures or momentum."""

    def after_step(self, step: int, steps: int) -> None:
        """Called after update `step`: the place for a teacher's moving average. Overrides call `super()`."""
        for module in self.modules():
            if isinstance(module, Loss):
                module.after_step()
