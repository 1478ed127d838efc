"""One optimizer update: forward, backward, accumulate, clip. Numbers stay on the device until they are read."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Batch, Schedule
from toolbox.engine.distributed.parallel import Parallel
from toolbox.engine.distributed.tensors import local, placed_like, whole
from toolbox.engine.precision import Precision
from toolbox.engine.profiling import phase
from toolbox.engine.updating.grad_cache import GradCache
from toolbox.engine.updating.groups import Group, torch_groups
from toolbox.engine.updating.nonfinite import Skipping
from toolbox.errors import ToolboxError


class Step:
    """Updates a model, once a call.

    - `parallel`: how the model is called and its gradients are averaged; its parameters are those of `groups`.
    - `build_optimizer`: torch groups -> torch optimizer.
    - `schedules`: factors on the groups' learning rates.
    - `max_norm`: clip the L2 norm of all gradients together; None for no clipping.
    - `grad_cache`: takes batches larger than its chunks; None computes every batch in one piece.
    - `max_skipped`: leave out up to so many updates whose loss or gradient is not finite; None allows none.
    """

    def __init__(
        self, parallel: Parallel, groups: list[Group], build_optimizer: Any, schedules: list[Schedule],
        precision: Precision, max_norm: float | None = None, grad_cache: GradCache | None = None,
        max_skipped: int | None = None,
    ) -> None:  # fmt: skip
        self.grad_cache = grad_cache
        self.parallel, self.schedules, self.precision, self.max_norm = parallel, schedules, precision, max_norm
        self.names = [list(group.params) for group in groups]
        self.optimizer: torch.optim.Optimizer = build_optimizer(torch_groups(groups))
        self.parameters = [parameter for group in groups for parameter in group.params.values()]
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._first_bad: Tensor | None = None
        self.skipping = None if max_skipped is None else Skipping(parallel.module, self.optimizer, max_skipped)

    def __call__(self, batches: list[Batch], step: int, steps: int) -> None:
        """Update from the mean gradient of `batches`; `step` counts from 0."""
        self._schedule(step, steps)
        if self.skipping:
            self.skipping.begin()
        values: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            # chunks of a batch have no last one that reaches every parameter, so they are averaged at the end
            alone = self.grad_cache is not None or number < len(batches)
            try:
                with self.parallel.held_back() if alone else nullcontext():
                    found = self._gradients(batch, 1 / len(batches))
            except ValueError as error:  # a batch that does not fit the model's settings
                raise ToolboxError(f"{error} (at step {step + 1}).", where="model") from error
            except RuntimeError as error:
                if "find_unused_parameters" not in str(error):
                    raise
                raise ToolboxError(
                    f"Up to step {step + 1}, some trained parameters got no gradient on one of the processes.",
                    where="env_cfg.parallel", hint="--cfg-options env_cfg.parallel.find_unused_parameters=True",
                ) from error  # fmt: skip
            for name, value in found.items():
                values[name] = values.get(name, 0) + value.detach().float() / len(batches)
        self.parallel.finish(held_back=self.grad_cache is not None)
        with phase("optimizer"):
            self._update(values, step)

    def _update(self, values: dict[str, Tensor], step: int) -> None:
        """Clip the gradients and take the step; `values` are remembered, the norm of the gradients among them."""
        scaler = self.precision.scaler
        if self.skipping and scaler:
            self.skipping.overflow(values["loss"])
        if self.max_norm is not None:
            if scaler:
                scaler.unscale_(self.optimizer)
            values["grad_norm"] = whole(nn.utils.clip_grad_norm_(self.parameters, self.max_norm))
        bad = self.skipping.judge(values, scaled=scaler is not None) if self.skipping else None
        self._remember(values, step)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        elif self.skipping:
            self.skipping.step(bad)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Add `share` of a batch's gradients to the parameters."""

        def backward(loss: Tensor) -> None:
            loss = loss * share
            with phase("backward"):
                (self.precision.scaler.scale(loss) if self.precision.scaler else loss).backward()

        passes = self.parallel.passes(self.grad_cache.count(batch)) if self.grad_cache is not None else 1
        if passes > 1:
            with phase("forward and backward in chunks"):
                return self.grad_cache(batch, backward, passes)
        with phase("forward"), self.precision.autocast():
            found = self.parallel.module(batch, "loss")
        backward(found["loss"])
        return found

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
        finite = values["loss"].isfinite()
        if "grad_norm" in values and self.precision.scaler is None:  # the scaler deals with gradients that overflow
            finite = finite & values["grad_norm"].isfinite()
        here = torch.where(finite, torch.inf, float(step + 1))
        self._first_bad = here if self._first_bad is None else torch.minimum(self._first_bad, here)
        if values["loss"].device.type == "cpu":
            self.check_finite()

    def check_finite(self, weights: bool = False) -> None:
        """Raise ToolboxError if a step's loss or gradient was not finite, naming the first such step.

        - `weights`: look at every trained parameter too, as before a checkpoint is written.

        Where such steps are left out: if they are more than allowed.
        """
        if self.skipping:
            self.skipping.check()
        hint = (
            "Checkpoints of the run are from before. Try a lower learning rate, more warm-up, clip_grad, or "
            "precision='fp32'; a temperature near 0 or a broken image can cause it too."
        )
        if self._first_bad is not None and (first := float(self._first_bad)) != float("inf"):
            raise ToolboxError(f"The loss or its gradient is not finite at step {int(first)}.", hint=hint)
        if weights and not all(bool(local(parameter).isfinite().all()) for parameter in self.parameters):
            raise ToolboxError("Trained weights are not finite: no checkpoint is written.", hint=hint)

    def read(self) -> dict[str, float]:
        """Means since the last call. Waits for the device; raises ToolboxError if the loss was not finite."""
        self.check_finite()
        count, told = self._count, {}
        if self.skipping:  # a step that was left out is in no mean
            count, told = count - self.skipping.lately(), {"skipped_steps": self.skipping.count}
        means = {name: float(value) / count for name, value in self._sums.items()} if count else {}
        self._sums, self._count = {}, 0
        return {**means, **told, "lr": max(group["lr"] for group in self.optimizer.param_groups)}

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state by parameter name, the scaler's, and the means in progress."""
        state = self.optimizer.state
        by_name = {
            name: state[parameter]
            for names, group in zip(self.names, self.optimizer.param_groups, strict=True)
            for name, parameter in zip(names, group["params"], strict=True)
            if parameter in state  # one that never had a gradient has none
        }
        return {
            "names": [name for names in self.names for name in names], "optimizer": by_name,
            "kind": type(self.optimizer).__name__,
            "groups": [_own(group, self.optimizer.defaults) for group in self.optimizer.param_groups],
            "scaler": self.precision.scaler.state_dict() if self.precision.scaler else None,
            "sums": self._sums, "count": self._count,
            "skipping": self.skipping.state_dict() if self.skipping else None,
        }  # fmt: skip

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back `state_dict`. Raises ToolboxError where the optimizer or what it trains is another, naming it."""
        kind = type(self.optimizer).__name__
        if saved.get("kind", kind) != kind:
            raise ToolboxError(
                f"The checkpoint's state is of the optimizer {saved['kind']}, which {kind} cannot continue.",
                where="optim_wrapper.optimizer",
                hint="Resume with the optimizer of that run, or start a new one with load_from.",
            )
        names = [name for names in self.names for name in names]
        other = sorted(set(names) ^ set(saved["names"]))
        if other:
            raise ToolboxError(
                f"The checkpoint's optimizer trained other parameters: {', '.join(other[:3])} ({len(other)} differ).",
                hint="Resume with the recipe of that run, or start a new one with load_from.",
            )
        known = saved["optimizer"]
        state = {
            position: _laid_out_as(parameter, known[name])
            for position, (name, parameter) in enumerate(zip(names, self.parameters, strict=True))
            if name in known
        }
        groups = self.optimizer.state_dict()["param_groups"]
        if len(groups) == len(saved["groups"]):
            groups = [group | then for group, then in zip(groups, saved["groups"], strict=True)]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if self.precision.scaler and saved["scaler"]:
            self.precision.scaler.load_state_dict(saved["scaler"])
        if self.skipping:
            self.skipping.load_state_dict(saved.get("skipping"))
        device = self.parameters[0].device
        self._sums, self._count = {name: value.to(device) for name, value in saved["sums"].items()}, saved["count"]


def _laid_out_as(parameter: Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state in the parameter's own memory format: fused optimizers go through memory, not by index."""
    return {
        key: torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(placed_like(value, parameter))
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for key, value in state.items()
    }


_FROM_RECIPE = ("params", "lr", "weight_decay", "base_lr", "base_weight_decay")


def _own(group: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer itself keeps in a group, beyond the settings that the recipe and its schedules give.

    - `settings`: what the optimizer was made with; a resumed run takes them from its recipe, as it says.
    """
    own = {key: value for key, value in group.items() if key not in _FROM_RECIPE}
    return {
        key: value
        for key, value in own.items()
        if isinstance(value, Tensor)
        or (isinstance(value, bool | int | float | str | None) and (key not in settings or value != settings[key]))
    }
