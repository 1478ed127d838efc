"""The scale of cosines that a loss learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolbox_losses.pairs import PairLoss, check_positive


class ScaledPairLoss(PairLoss):
    """The base of pair losses that multiply cosines by a learned scale, kept in bounds.

    - `log_scale`: where the logarithm of the scale starts.
    - `max_scale`: the scale is kept at this or below after every update; None for no limit.
    - `min_scale`: and at this or above; None for no limit.

    Raises ValueError for a start that is not finite or outside the limits.
    """

    def __init__(self, log_scale: float, max_scale: float | None, min_scale: float | None = None):
        super().__init__()
        if not math.isfinite(log_scale):
            raise ValueError(f"log_scale must be a finite number, not {log_scale}")
        self.max_scale, self.min_scale = max_scale, min_scale
        if max_scale is not None and log_scale > math.log(check_positive("max_scale", max_scale, "try 100")):
            raise ValueError(
                f"log_scale={log_scale} is the logarithm of a scale above max_scale={max_scale}: start at most at "
                f"{math.log(max_scale):.4f}, or raise max_scale"
            )
        if min_scale is not None and log_scale < math.log(min_scale):
            raise ValueError(
                f"log_scale={log_scale} is the logarithm of a scale below {min_scale}: start at least at "
                f"{math.log(min_scale):.4f}"
            )
        self.log_scale = nn.Parameter(torch.tensor(float(log_scale)))

    def scale(self, cosines: Tensor) -> Tensor:
        """The cosines times the scale, in their type."""
        return self.log_scale.to(cosines.dtype).exp() * cosines

    @torch.no_grad()
    def after_step(self) -> None:
        low, high = (None if bound is None else math.log(bound) for bound in (self.min_scale, self.max_scale))
        if low is not None or high is not None:
            self.log_scale.clamp_(low, high)
