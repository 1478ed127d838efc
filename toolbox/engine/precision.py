"""Autocast on any device, and the gradient scaler that fp16 alone needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from toolbox.errors import ToolboxError
from toolbox.plugin import Device

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How the forward pass computes.

    - `name`: "fp32", "bf16" or "fp16".
    - `device`: where; raises ToolboxError if it cannot do that.
    """

    def __init__(self, name: str, device: Device) -> None:
        if name not in device.precisions:
            raise ToolboxError(
                f"The device {device} cannot compute in {name}.", where="optim_wrapper.precision",
                hint=f"It can do {', '.join(device.precisions)}: --cfg-options optim_wrapper.precision=fp32",
            )  # fmt: skip
        self.name, self.type = name, device.type
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.type, DTYPES[self.name])
