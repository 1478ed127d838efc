"""Leaving out updates whose loss or gradient is not finite: `optim_wrapper.on_nonfinite = 'skip'`."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from toolbox.base import world
from toolbox.engine.distributed.tensors import are_sharded, local, whole
from toolbox.errors import ToolboxError


class Skipping:
    """Decides update by update, on the device, and counts there: nothing waits for it where the optimizer is fused
    and every process holds all parameters.

    Weights, the optimizer's state and the model's buffers are afterwards as if the step had had no batch. fp16's scaler
    leaves out steps that overflow by itself, to find its scale: these are not counted, steps without a finite loss are.

    - `most`: how many updates a run may leave out in all.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, most: int) -> None:
        self.model, self.optimizer, self.most = model, optimizer, most
        device = optimizer.param_groups[0]["params"][0].device
        self._count, self._lately = torch.zeros((), device=device), torch.zeros((), device=device)
        self._buffers: dict[str, Tensor] = {}
        # torch's own name for "step heeds found_inf", which GradScaler asks too
        heeds = getattr(optimizer, "_step_supports_amp_scaling", False)
        groups = [dict(enumerate(group["params"])) for group in optimizer.param_groups]
        self._may_fuse = heeds and not any(map(are_sharded, groups))  # found_inf would have to be sharded too
        # fused SGD does not set up its momentum in a first step that is left out, so that one is decided on the host
        self._fused = False

    def begin(self) -> None:
        """Keep what a forward pass may change: running statistics, memories of a loss."""
        self._buffers = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}

    def overflow(self, loss: Tensor) -> None:
        """Make the scaler of fp16 see a loss that is not finite: its gradients need not show it."""
        poison = torch.where(loss.isfinite(), 0.0, torch.nan)
        parameters = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        gradient = next((parameter.grad for parameter in parameters if parameter.grad is not None), None)
        if gradient is not None:
            local(gradient).add_(poison.to(gradient.dtype))

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
        if world()[1] > 1:  # a model may have computed its loss of its own rows: all leave a step out, or none
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
            finite = bad == 0
        self._count += bad
        self._lately += bad
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
            self.optimizer.grad_scale, self.optimizer.found_inf = None, bad
            try:
                self.optimizer.step()
            finally:
                del self.optimizer.grad_scale, self.optimizer.found_inf
        elif not bad.item():
            self.optimizer.step()
            self._fused = self._may_fuse

    @property
    def count(self) -> int:
        """How many updates were left out since the run began. Waits for the device."""
        return int(self._count)

    def lately(self) -> int:
        """How many since this was last asked. Waits for the device."""
        found = int(self._lately)
        self._lately.zero_()
        return found

    def check(self) -> None:
        """Raise ToolboxError when more were left out than allowed. Waits for the device."""
        if self.count > self.most:
            raise ToolboxError(
                f"{self.count} updates were left out because their loss or gradient was not finite, more than the "
                f"{self.most} allowed.",
                where="optim_wrapper.max_skipped",
                hint="Try a lower learning rate, more warm-up, clip_grad, or precision='fp32'; or --resume with a "
                "larger max_skipped.",
            )

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"count": self.count, "lately": int(self._lately)}

    def load_state_dict(self, saved: dict[str, int] | None) -> None:
        """Take back `state_dict`; None from a run that left nothing out."""
        self._count.fill_(saved["count"] if saved else 0)
        self._lately.fill_(saved["lately"] if saved else 0)
