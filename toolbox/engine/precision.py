"""Autocast on any device, and the gradient scaler that fp16 alone needs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from toolbox.errors import ToolboxError
from toolbox.plugin import Device

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How the forward pass computes.

    - `name`: "fp32", "bf16" or "fp16".
    - `device`: where; raises ToolboxError if it cannot do that.
    - `where`: the key or argument that says so, for the message.
    """

    def __init__(self, name: str, device: Device, *, where: str = "optim_wrapper.precision") -> None:
        if name not in device.precisions:
            hint = f"It can do {', '.join(device.precisions)}: "
            raise ToolboxError(
                f"The device {device} cannot compute in {name}.",
                where=where,
                hint=hint + ("precision='fp32'" if where == "precision" else f"the override {where}=fp32"),
            )
        self.name, self.type = name, device.type
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.type, DTYPES[self.name])


def eval_precision(recipe: Mapping[str, Any], device: Device, requested: str | None = None) -> Precision:
    """How a recipe's model computes wherever it is evaluated or encodes: in the run, by commands, and by the API.

    - `requested`: what the caller asks for; default: the recipe's `env_cfg.eval_precision`, else the precision that it
      trains in, "fp32" where it says nothing.

    Raises ToolboxError if the device cannot do that.
    """
    if requested is not None:
        return Precision(requested, device, where="precision")
    setting = (recipe.get("env_cfg") or {}).get("eval_precision")
    if setting is not None:
        return Precision(setting, device, where="env_cfg.eval_precision")
    return Precision((recipe.get("optim_wrapper") or {}).get("precision") or "fp32", device)
