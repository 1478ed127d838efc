"""One optimizer update: forward, backward, accumulate, clip. Numbers stay on the device until they are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Batch, Schedule
from toolbox.engine.groups import Group, torch_groups
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError


class Step:
    """Updates a model, once a call.

    - `model`: what is called, wrapped or not; its parameters are those of `groups`.
    - `build_optimizer`: torch groups -> torch optimizer.
    - `schedules`: factors on the groups' learning rates.
    - `max_norm`: clip the L2 norm of all gradients together; None for no clipping.
    """

    def __init__(
        self, model: nn.Module, groups: list[Group], build_optimizer: Any, schedules: list[Schedule],
        precision: Precision, max_norm: float | None = None,
    ) -> None:  # fmt: skip
        self.model, self.schedules, self.precision, self.max_norm = model, schedules, precision, max_norm
        self.names = [list(group.params) for group in groups]
        self.optimizer: torch.optim.Optimizer = build_optimizer(torch_groups(groups))
        self.parameters = [parameter for group in groups for parameter in group.params.values()]
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._first_bad: Tensor | None = None

    def __call__(self, batches: list[Batch], step: int, steps: int) -> None:
        """Update from the mean gradient of `batches`; `step` counts from 0."""
        self._schedule(step, steps)
        values: dict[str, Tensor] = {}
        for batch in batches:
            with self.precision.autocast():
                found = self.model(batch, "loss")
            loss = found["loss"] / len(batches)
            (self.precision.scaler.scale(loss) if self.precision.scaler else loss).backward()
            for name, value in found.items():
                values[name] = values.get(name, 0) + value.detach().float() / len(batches)
        scaler = self.precision.scaler
        if self.max_norm is not None:
            if scaler:
                scaler.unscale_(self.optimizer)
            values["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self._remember(values, step)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _schedule(self, step: int, steps: int) -> None:
        for key in {schedule.key for schedule in self.schedules}:
            factor = 1.0
            for schedule in self.schedules:
                if schedule.key == key:
                    factor *= schedule.factor(step, steps)
            for group in self.optimizer.param_groups:
                group[key] = group[f"base_{key}"] * factor

    def _remember(self, values: dict[str, Tensor], step: int) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        # kept on the device: reading it here would wait for the device at every step
        here = torch.where(values["loss"].isfinite(), torch.inf, float(step + 1))
        self._first_bad = here if self._first_bad is None else torch.minimum(self._first_bad, here)
        if values["loss"].device.type == "cpu":
            self.check_finite()

    def check_finite(self) -> None:
        """Raise ToolboxError if the loss of a step was not finite, naming the first such step."""
        if self._first_bad is not None and (first := float(self._first_bad)) != float("inf"):
            raise ToolboxError(
                f"The loss is not finite at step {int(first)}.",
                hint="The last checkpoint is from before. Try a lower learning rate, more warm-up, clip_grad, or "
                "precision='fp32'; a temperature near 0 or a broken image can cause it too.",
            )

    def read(self) -> dict[str, float]:
        """Means since the last call. Waits for the device; raises ToolboxError if the loss was not finite."""
        self.check_finite()
        means = {name: float(value) / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return {**means, "lr": max(group["lr"] for group in self.optimizer.param_groups)}

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state by parameter name, and the scaler's."""
        state = self.optimizer.state
        by_name = {
            name: state[parameter]
            for names, group in zip(self.names, self.optimizer.param_groups, strict=True)
            for name, parameter in zip(names, group["params"], strict=True)
            if parameter in state
        }
        return {"optimizer": by_name, "scaler": self.precision.scaler.state_dict() if self.precision.scaler else None}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back `state_dict`. Raises ToolboxError if the trained parameters are others, naming them."""
        names = [name for names in self.names for name in names]
        other = sorted(set(names) ^ set(saved["optimizer"])) if saved["optimizer"] else []
        if other:
            raise ToolboxError(
                f"The checkpoint's optimizer trained other parameters: {', '.join(other[:3])} ({len(other)} differ).",
                hint="Resume with the recipe of that run, or start a new one with load_from.",
            )
        state = {position: saved["optimizer"][name] for position, name in enumerate(names) if saved["optimizer"]}
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        if self.precision.scaler and saved["scaler"]:
            self.precision.scaler.load_state_dict(saved["scaler"])
