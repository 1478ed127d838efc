"""One optimizer update: forward, backward, accumulate, clip. Numbers stay on the device until they are read."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Batch, Model, Schedule
from toolbox.base.scalars import as_number
from toolbox.engine.distributed.parallel import Parallel, problems
from toolbox.engine.distributed.tensors import local, placed_like, whole
from toolbox.engine.grad_cache import GradCache
from toolbox.engine.hooks.profiler import phase
from toolbox.engine.nonfinite import NonFiniteGuard, SkipCounter, overflow
from toolbox.engine.param_groups import ParamGroup, groups_of_recipe, torch_groups
from toolbox.engine.precision import Precision
from toolbox.engine.settings import Settings
from toolbox.engine.step_metrics import StepMetrics
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.registry import build


class TrainStep:
    """Updates a model, once a call.

    - `parallel`: how the model is called and its gradients are averaged; its parameters are those of `groups`.
    - `build_optimizer`: torch groups -> torch optimizer.
    - `schedules`: factors on the groups' learning rates.
    - `max_norm`: clip the L2 norm of all gradients together; None for no clipping.
    - `grad_cache`: takes batches larger than its chunks; None computes every batch in one piece.
    - `max_skipped`: leave out up to so many updates whose loss or gradient is not finite; None allows none.
    - `max_in_a_row`: how many updates in a row may be left out, by that or by fp16's scaler.
    """

    def __init__(
        self,
        parallel: Parallel,
        groups: list[ParamGroup],
        build_optimizer: Any,
        schedules: list[Schedule],
        precision: Precision,
        max_norm: float | None = None,
        grad_cache: GradCache | None = None,
        max_skipped: int | None = None,
        max_in_a_row: int = 30,
    ) -> None:
        self.grad_cache = grad_cache
        self.parallel, self.schedules, self.precision, self.max_norm = parallel, schedules, precision, max_norm
        self.names = [list(group.params) for group in groups]
        self.optimizer: torch.optim.Optimizer = build_optimizer(torch_groups(groups))
        self.parameters = [parameter for group in groups for parameter in group.params.values()]
        self.numbers = StepMetrics()
        self._parts: list[tuple[int, dict[str, Tensor]]] = []  # of the step that is made: each batch's items, scalars
        self._first_bad: Tensor | None = None
        self.guard = None if max_skipped is None else NonFiniteGuard(parallel.module, self.optimizer, max_skipped)
        counts = self.guard is not None or precision.scaler is not None
        self.skip_counter = SkipCounter(self.parameters[0].device, max_in_a_row) if counts else None

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by its names in the model."""
        names = [name for group in self.names for name in group]
        return dict(zip(names, self.parameters, strict=True))

    def __call__(self, batches: list[Batch], step: int, steps: int) -> None:
        """Update from the mean gradient of `batches`; `step` counts from 0."""
        self._schedule(step, steps)
        if self.guard:
            self.guard.begin()
        values: dict[str, Tensor] = {}
        self._parts = []
        for number, batch in enumerate(batches, start=1):
            # chunks of a batch have no last one that reaches every parameter, so they are averaged at the end
            alone = self.grad_cache is not None or number < len(batches)
            try:
                with self.parallel.held_back() if alone else nullcontext():
                    outputs = self._add_gradients(batch, 1 / len(batches))
            except ValueError as error:  # a batch that does not fit the model's settings
                raise ToolboxError(f"{error} (at step {step + 1}).", where="model") from error
            except RuntimeError as error:
                if "find_unused_parameters" not in str(error):
                    raise
                raise ToolboxError(
                    f"Up to step {step + 1}, some trained parameters got no gradient on one of the processes.",
                    where="env_cfg.parallel",
                    hint="the override env_cfg.parallel.find_unused_parameters=True",
                ) from error
            self._parts.append((len(batch), _scalars(outputs)))
            values["loss"] = values.get("loss", 0) + outputs["loss"].detach().float() / len(batches)
        self.parallel.finish(held_back=self.grad_cache is not None)
        with phase("optimizer"):
            self._update(values, step)

    def _update(self, values: dict[str, Tensor], step: int) -> None:
        """Clip the gradients and take the step; `values` are remembered, the norm of the gradients among them."""
        scaler, extra = self.precision.scaler, {}
        if scaler:
            scaler.unscale_(self.optimizer)
        if self.max_norm is not None:
            extra["grad_norm"] = whole(nn.utils.clip_grad_norm_(self.parameters, self.max_norm))
            values |= extra
        bad = self.guard.judge(values, scaled=scaler is not None) if self.guard else None
        left_out = overflow(scaler, self.optimizer, bad) if scaler else bad
        if self.skip_counter is not None and left_out is not None:
            self.skip_counter.add(left_out)
        self.numbers.add(self._parts, extra, bad)
        self._remember(values, step)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        elif self.guard and bad is not None:
            self.guard.step(bad)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _add_gradients(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Add `share` of a batch's gradients to the parameters."""

        def backward(loss: Tensor) -> None:
            loss = loss * share
            with phase("backward"):
                (self.precision.scaler.scale(loss) if self.precision.scaler else loss).backward()

        if self.grad_cache is not None:
            passes = self.parallel.passes(self.grad_cache.count(batch))
            if passes > 1:
                with phase("forward and backward in chunks"):
                    return self.grad_cache(batch, backward, passes)
        with phase("forward"), self.precision.autocast():
            outputs = self.parallel.module(batch, "loss")
        backward(outputs["loss"])
        return outputs

    def _schedule(self, step: int, steps: int) -> None:
        for key in {schedule.key for schedule in self.schedules}:
            factor = 1.0
            for schedule in self.schedules:
                if schedule.key == key:
                    factor *= as_number(schedule.factor(step, steps))
            for group in self.optimizer.param_groups:
                group[key] = group[f"base_{key}"] * factor

    def _remember(self, values: dict[str, Tensor], step: int) -> None:
        """Note on the device which step was the first that is not finite."""
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
        if self.guard:
            self.guard.check()
        if self.skip_counter is not None:
            self.skip_counter.check()
        hint = (
            "Checkpoints of the run are from before. Try a lower learning rate, more warm-up, clip_grad, or "
            "precision='fp32'; a temperature near 0 or a broken image can cause it too."
        )
        if self._first_bad is not None and (first := float(self._first_bad)) != float("inf"):
            raise ToolboxError(f"The loss or its gradient is not finite at step {int(first)}.", hint=hint)
        if weights and not all(bool(local(parameter).isfinite().all()) for parameter in self.parameters):
            raise ToolboxError("Trained weights are not finite: no checkpoint is written.", hint=hint)

    def read(self) -> dict[str, float]:
        """Means since the last call, over all processes, which must all ask. Waits for the device.

        Raises ToolboxError if the loss was not finite, or too many updates were left out.
        """
        self.check_finite()
        skipped = {"skipped_steps": self.skip_counter.count} if self.skip_counter is not None else {}
        return {**self.numbers.read(), **skipped, "lr": max(group["lr"] for group in self.optimizer.param_groups)}

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state by parameter name, the scaler's, and the means in progress. All processes must ask."""
        state = self.optimizer.state
        by_name = {
            name: state[parameter]
            for names, group in zip(self.names, self.optimizer.param_groups, strict=True)
            for name, parameter in zip(names, group["params"], strict=True)
            if parameter in state  # one that never had a gradient has none
        }
        return {
            "names": [name for names in self.names for name in names],
            "optimizer": by_name,
            "kind": type(self.optimizer).__name__,
            "groups": [_optimizer_entries(group, self.optimizer.defaults) for group in self.optimizer.param_groups],
            "scaler": self.precision.scaler.state_dict() if self.precision.scaler else None,
            "numbers": self.numbers.state_dict(),
            "skipping": self.guard.state_dict() if self.guard else None,
            "left_out": self.skip_counter.state_dict() if self.skip_counter is not None else None,
        }

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
        other = sorted(
            name for name in set(names) ^ set(saved["names"]) if not _is_empty(saved["optimizer"].get(name, {}))
        )
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
        if self.guard:
            self.guard.load_state_dict(saved.get("skipping"))
        if self.skip_counter is not None:
            self.skip_counter.load_state_dict(saved.get("left_out"))
        self.numbers.load_state_dict(saved.get("numbers", []))


def _scalars(outputs: dict[str, Any]) -> dict[str, Tensor]:
    """What a model gave with its loss, as scalars on the loss's device. Raises ToolboxError, naming what is none."""
    scalars = {}
    device = outputs["loss"].device
    for name, value in outputs.items():
        if not isinstance(value, Tensor) or value.device != device:
            try:
                value = torch.tensor(as_number(value), device=device)
            except ValueError as error:
                raise ToolboxError(
                    f"The model's loss comes with '{name}', where {error}.", where="model", hint="Give a number."
                ) from error
        if value.numel() != 1:
            raise ToolboxError(
                f"The model's loss comes with '{name}' of shape {tuple(value.shape)}, and one number is logged.",
                where="model",
                hint="Give its mean.",
            )
        scalars[name] = value.detach()
    return scalars


def _is_empty(state: dict[str, Any]) -> bool:
    """Whether a state is that of a parameter without values, which older versions held."""
    return any(isinstance(value, Tensor) and not value.numel() for value in state.values())


def _laid_out_as(parameter: Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state in the parameter's own memory format: fused optimizers go through memory, not by index."""
    return {
        key: torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(placed_like(value, parameter))
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for key, value in state.items()
    }


_FROM_RECIPE = ("params", "lr", "weight_decay", "base_lr", "base_weight_decay")


def _optimizer_entries(group: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer itself keeps in a group, beyond the settings that the recipe and its schedules give.

    - `settings`: what the optimizer was made with; a resumed run takes them from its recipe, as it says.
    """
    return {
        key: value
        for key, value in group.items()
        if key not in _FROM_RECIPE
        and (
            isinstance(value, Tensor)
            or (isinstance(value, bool | int | float | str | None) and (key not in settings or value != settings[key]))
        )
    }


def build_train_step(
    settings: Settings, model: Model, parallel: Parallel, precision: Precision, device: Device
) -> TrainStep:
    """What updates the model, as the recipe's `optim_wrapper` and `param_scheduler` say."""
    optimizer = build(settings("optim_wrapper.optimizer"), "optimizer", where="optim_wrapper.optimizer")
    if wrong := problems(settings("env_cfg.parallel"), optimizer):
        raise ToolboxError.from_problems(wrong)
    groups = groups_of_recipe(settings, model, optimizer)
    clip, cache = settings("optim_wrapper.clip_grad"), settings("optim_wrapper.grad_cache")
    skips = settings("optim_wrapper.on_nonfinite") == "skip"
    return TrainStep(
        parallel,
        groups,
        lambda torch_groups: optimizer.build(torch_groups, fused=device.fused_optimizer),
        [build(item, "schedule", where="param_scheduler") for item in settings.schedules()],
        precision,
        max_norm=clip["max_norm"] if clip else None,
        grad_cache=GradCache(parallel.module, cache["chunk_size"], precision, device) if cache else None,
        max_skipped=settings("optim_wrapper.max_skipped") if skips else None,
        max_in_a_row=settings("optim_wrapper.max_skipped_in_a_row"),
    )
