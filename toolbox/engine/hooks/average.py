"""An average of the trained weights over the steps, which is what is evaluated and saved while training goes on.

An equal one (Izmailov et al. 2018) or one with exponential decay. `WeightAveraging.evaluation_weights` puts it into the
model for an evaluation or a checkpoint; the state of a checkpoint has the weights that training continues from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from toolbox.base import Hook, Run
from toolbox.engine.distributed.tensors import local, placed_like, rejoined
from toolbox.engine.norm_statistics import estimate_norm_statistics
from toolbox.errors import Problem

if TYPE_CHECKING:
    from toolbox.engine.setup import RunSetup


Tensors = tuple[Tensor, ...] | list[Tensor]
AverageFunction = Callable[[Tensors, Tensors, Any], None]
"""Takes weights into their averages, in place; its last argument is how many steps these hold."""


class WeightAverage:
    """Averages of a model's trained parameters, kept beside them; frozen ones and buffers have none.

    - `parameters`: what is trained, by name.
    - `statistics`: what batch norms keep, by name: the averages have their own, which somebody must estimate.
    - `decay`: the share of the old average that a step keeps; None weighs all steps equally.
    - `start`: from where on they count, a share of the run's `steps` or a step.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        decay: float | None,
        start: float,
        steps: int,
        statistics: dict[str, Tensor] | None = None,
    ) -> None:
        self._statistics = statistics or {}
        self._other = {name: buffer.clone() for name, buffer in self._statistics.items()}
        self.start, self._parameters, self._swapped = start_step(start, steps), parameters, False
        parts = nn.ParameterList(nn.Parameter(part, requires_grad=False) for part in self._weights)
        self._average: AverageFunction = self._equally if decay is None else get_ema_multi_avg_fn(decay)
        self._averages = AveragedModel(parts, multi_avg_fn=self._average)

    @property
    def _weights(self) -> list[Tensor]:
        """The weights; of a tensor that is spread over processes, this one's part."""
        # looked up each time: torch may move a part to other memory at the first call of the model
        return [local(parameter.detach()) for parameter in self._parameters.values()]

    @torch.no_grad()
    def _equally(self, averages: Tensors, weights: Tensors, count: Any) -> None:
        # the share is a number: torch's own function would wait for the device to tell it
        torch._foreach_lerp_(averages, weights, 1 / (self.count + 1))

    @property
    def count(self) -> int:
        """How many steps the average holds."""
        return int(self._averages.n_averaged)  # on the CPU: nothing waits for the device

    def update(self, step: int) -> None:
        """Take in the weights that step number `step` (the first one is 1) has left."""
        if step >= self.start or self.count:  # once begun it goes on, also where a longer run would start later
            self._take_in()

    @torch.no_grad()
    def _take_in(self) -> None:
        """`AveragedModel.update_parameters`, which would copy the count to the device and wait for that."""
        averages: list[Tensor] = list(self._averages.module.parameters())
        if self.count:
            self._average(averages, self._weights, self.count)
        else:
            torch._foreach_copy_(averages, self._weights)
        self._averages.n_averaged += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages, once there are any: in place, as others hold the weights' storage too."""
        if self.count == 0:
            return
        self._swapped = not self._swapped
        for own, average in zip(self._weights, self._averages.module.parameters(), strict=True):
            weight = own.clone()
            own.copy_(average)
            average.copy_(weight)
        for name, buffer in self._statistics.items():
            held = buffer.clone()
            buffer.copy_(self._other[name])
            self._other[name].copy_(held)

    def state_dict(self) -> dict[str, Any]:
        """The count, and the weights that training goes on from: the averages are a checkpoint's model."""
        held = [*self._averages.module.parameters()] if self._swapped else self._weights
        pairs = zip(self._parameters.items(), held, strict=True)
        weights = {name: rejoined(part.detach(), own) for (name, own), part in pairs} if self.count else {}
        statistics = self._other if self._swapped else self._statistics
        return {"count": self.count, "weights": weights, "statistics": statistics if self.count else {}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back `state_dict`, where the model holds what the checkpoint's model held."""
        self._averages.n_averaged.fill_(saved["count"])
        if saved["count"]:
            with torch.no_grad():
                for own, average in zip(self._weights, self._averages.module.parameters(), strict=True):
                    average.copy_(own)
                for name, buffer in self._statistics.items():
                    self._other[name].copy_(buffer)
            restore_weights(self._parameters | self._statistics, saved)


class WeightAveraging(Hook):
    """Averages the trained weights of a run, as `optim_wrapper.average` says; the averages are evaluated and saved.

    - `setup`: of the run.
    """

    def __init__(self, setup: RunSetup) -> None:
        self._setup, trained = setup, setup.train_step.named_parameters()
        options = setup.settings("optim_wrapper.average")
        statistics = setup.norm_statistics.tensors()
        self.average = WeightAverage(trained, **options, steps=setup.length.steps, statistics=statistics)
        self._estimated: int | None = None  # the step whose averages have statistics of their own
        self._ended = False

    def after_step(self, run: Run) -> None:
        self.average.update(run.step)

    @contextmanager
    def evaluation_weights(self, run: Run) -> Iterator[None]:
        if self._ended:
            yield
            return
        with applied(self.average):
            if self.average.count and self._estimated != run.step:
                estimate_norm_statistics(self._setup)
                self._estimated = run.step
            yield

    def after_train(self, run: Run) -> None:
        self.average.swap()  # for good: from here on the model is what checkpoints hold
        self._ended = True

    def state_dict(self) -> dict[str, Any]:
        return self.average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average.load_state_dict(state)


@contextmanager
def applied(average: WeightAverage) -> Iterator[None]:
    """Within, the model holds the averages, once there are any."""
    average.swap()
    try:
        yield
    finally:
        average.swap()


def restore_weights(tensors: dict[str, Tensor], saved: dict[str, Any]) -> None:
    """Put what training goes on from into the model's `tensors`; `saved` is a `state_dict` of an Average."""
    with torch.no_grad():
        for name, weight in (saved["weights"] | saved.get("statistics", {})).items():
            if weight.numel():  # others were held by older versions
                tensors[name].copy_(placed_like(weight, tensors[name]))


def start_step(start: float, steps: int) -> int:
    """The first step that counts: a share of the run below 1, or a step."""
    return max(1, math.ceil(start * steps) if start < 1 else int(start))


def problems(setting: dict[str, Any] | None, steps: int | None) -> list[Problem]:
    """What is wrong with `optim_wrapper.average`; `steps`: the length of the run, None if it is not known."""
    if setting is None:
        return []
    where, decay, start = "optim_wrapper.average", setting["decay"], setting["start"]
    found = []
    if decay is not None and not 0 < decay < 1:
        hint = "Try 0.999, or None for an equal average of all steps."
        found.append(Problem(f"decay lies between 0 and 1, and it is {decay:g}.", f"{where}.decay", hint))
    if start < 0 or (start >= 1 and start != int(start)):
        hint = "Give a share of the run from 0 to below 1, or a whole step."
        found.append(Problem(f"start={start:g} is neither a share nor a step.", f"{where}.start", hint))
    elif steps is not None and start_step(start, steps) > steps:
        message = f"Averaging would start at step {start_step(start, steps)}, and the run has {steps}."
        found.append(Problem(message, f"{where}.start", "Give a smaller step, or a share of the run such as 0.5."))
    return found


def notes(setting: dict[str, Any] | None, steps: int | None) -> list[str]:
    """What a user should know: whether the run is long enough for its decay."""
    if setting is None or setting["decay"] is None or steps is None:
        return []
    counted, decay = steps - start_step(setting["start"], steps) + 1, setting["decay"]
    left = decay ** (counted - 1)  # the weight of the first step that counts
    if left < 0.05:
        return []
    return [
        f"The average of {counted} steps with decay {decay:g} is {left:.0%} the weights of its first step: a lower "
        "decay forgets them, and decay=None weighs all steps equally."
    ]
