"""Updates that are left out because their loss or gradient is not finite.

fp16's scaler leaves out those whose scaled gradients overflow, to find its scale; `optim_wrapper.on_nonfinite = 'skip'`
leaves out any other.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from toolbox.base import get_dist_info
from toolbox.engine.distributed.tensors import are_sharded, whole
from toolbox.errors import ToolboxError


class NonFiniteGuard:
    """Decides update by update, on the device, and counts there: nothing waits for it where the optimizer is fused
    and every process holds all parameters.

    Weights, the optimizer's state and the model's buffers are afterwards as if the step had had no batch. Under fp16
    those without a finite loss count; gradients that overflow are the scaler's own business.

    - `most`: how many updates a run may leave out in all.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, most: int) -> None:
        self.model, self.optimizer, self.most = model, optimizer, most
        device = optimizer.param_groups[0]["params"][0].device
        self._count = torch.zeros((), device=device)
        self._buffers: dict[str, Tensor] = {}
        # torch's own name for "step heeds found_inf", which GradScaler asks too
        heeds = getattr(optimizer, "_step_supports_amp_scaling", False)
        parameters = {str(id(item)): item for group in optimizer.param_groups for item in group["params"]}
        self._may_fuse = heeds and not are_sharded(parameters)  # found_inf would have to be sharded too
        # fused SGD does not set up its momentum in a first step that is left out, so that one is decided on the host
        self._fused = False

    def begin(self) -> None:
        """Keep what a forward pass may change: running statistics, memories of a loss."""
        self._buffers = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}

    def judge(self, values: dict[str, Tensor], *, scaled: bool) -> Tensor:
        """1.0 where the step must be left out, else 0.0; then `values` are zeros and buffers are as `begin` found them.

        - `values`: the step's numbers, with "loss", and "grad_norm" where gradients were clipped.
        - `scaled`: fp16's scaler judges the gradients.
        """
        finite = values["loss"].isfinite()
        if not scaled:
            norm = values.get("grad_norm")
            finite = finite & (self._norm() if norm is None else norm).isfinite()
        bad = (~finite).float()
        if get_dist_info()[1] > 1:  # a model may have computed its loss of its own rows: all leave a step out, or none
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
            finite = bad == 0
        self._count += bad
        for name, value in values.items():
            values[name] = torch.where(finite, value, torch.zeros_like(value))
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if name in self._buffers and self._buffers[name].shape == buffer.shape:
                    buffer.copy_(torch.where(finite, buffer, self._buffers[name]))
        self._buffers = {}
        return bad

    def _norm(self) -> Tensor:
        parameters = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        return whole(nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None))

    def step(self, bad: Tensor) -> None:
        """Update unless `bad` is 1."""
        if self._fused:
            attributes = vars(self.optimizer)  # GradScaler hands them over in the same way
            attributes.update(grad_scale=None, found_inf=bad)
            try:
                self.optimizer.step()
            finally:
                del attributes["grad_scale"], attributes["found_inf"]
        elif not bad.item():
            self.optimizer.step()
            self._fused = self._may_fuse

    @property
    def count(self) -> int:
        """How many updates were left out since the run began. Waits for the device."""
        return int(self._count)

    def check(self) -> None:
        """Raise ToolboxError when more were left out than allowed. Waits for the device."""
        if self.count > self.most:
            raise ToolboxError(
                f"{self.count} updates were left out because their loss or gradient was not finite, more than the "
                f"{self.most} allowed.",
                where="optim_wrapper.max_skipped",
                hint="Try a lower learning rate, more warm-up, clip_grad, or precision='fp32'; or resume=True with a "
                "larger max_skipped.",
            )

    def state_dict(self) -> dict[str, int]:
        """The count."""
        return {"count": self.count}

    def load_state_dict(self, saved: dict[str, int] | None) -> None:
        """Take back `state_dict`; None from a run that left nothing out."""
        self._count.fill_(saved["count"] if saved else 0)


class SkipCounter:
    """Counts updates that were left out, for whatever reason; on the device, so that nothing waits for it.

    - `most`: how many may follow each other.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        self.most = most
        self._counts = torch.zeros(3, device=device)  # in all, in the row that goes on, in the longest row

    def add(self, bad: Tensor) -> None:
        """Take in an update; `bad` is 1.0 where it was left out, else 0.0."""
        count, row, longest = self._counts.unbind()
        row = (row + 1) * bad
        self._counts = torch.stack([count + bad, row, torch.maximum(longest, row)])

    @property
    def count(self) -> int:
        """How many updates were left out since the run began. Waits for the device."""
        return int(self._counts[0])

    def check(self) -> None:
        """Raise ToolboxError when too many followed each other. Waits for the device."""
        if (longest := int(self._counts[2])) > self.most:
            raise ToolboxError(
                f"{longest} updates in a row were left out because their loss or gradient was not finite, more than "
                f"the {self.most} allowed.",
                where="optim_wrapper.max_skipped_in_a_row",
                hint=_HINT,
            )

    def check_end(self, steps: int) -> None:
        """Raise ToolboxError when none of a run's `steps` updates was made."""
        if steps and self.count >= steps:
            raise ToolboxError(
                f"None of the {steps} updates was made, as their loss or gradient was not finite: the weights are as "
                "at the start.",
                where="optim_wrapper",
                hint=_HINT,
            )

    def state_dict(self) -> list[int]:
        """The counts."""
        return [int(count) for count in self._counts.tolist()]

    def load_state_dict(self, saved: list[int] | None) -> None:
        """Take back `state_dict`; None from a run that left nothing out."""
        self._counts = torch.tensor(saved or [0, 0, 0], device=self._counts.device, dtype=self._counts.dtype)


_HINT = (
    "Try precision='bf16' or 'fp32', a lower learning rate, more warm-up or clip_grad. A model with numbers beyond "
    "65504 overflows in fp16 at every step."
)


def overflow(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, bad: Tensor | None) -> Tensor:
    """1.0 where fp16's scaler will leave this update out, else 0.0; its gradients are unscaled already.

    - `bad`: 1.0 where it shall do so for another reason; gradients need not show a loss that is not finite.
    """
    by_device = scaler._found_inf_per_device(optimizer)  # torch has no public name for it that would not wait
    for device, infinite in by_device.items():
        if bad is not None:
            infinite.copy_(torch.maximum(infinite, bad.to(device)))
    return torch.stack(list(by_device.values())).max()
