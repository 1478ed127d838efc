"""How the learning rate goes over a run."""

from __future__ import annotations

import math

from toolbox.base import Schedule


class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down (Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts).

    With `w` warm-up steps, update `step` of `steps` (0 is the first) has the factor

        (step + 1) / (w + 1)                                                              for step < w
        final + (1 - final) * (1 + cos(pi * (step - w) / (steps - w))) / 2                from there on

    so the first update is never lost, the peak 1 is reached at step w, and the last update is a step short of `final`.

    - `warmup`: a number below 1 is a share of the run, 1 or more is a number of steps.
    - `final`: the factor that the run ends at.

    Raises ValueError for negative values, for a number of steps that is not whole, and, once the length of the run
    is known, for a warm-up that is longer.
    """

    def __init__(self, warmup: float | int = 0.05, final: float = 0.0):
        if warmup < 0 or (warmup >= 1 and warmup != int(warmup)):
            raise ValueError(f"warmup={warmup} must be a share of the run below 1 or a whole number of steps.")
        if final < 0:
            raise ValueError(f"final={final} must be 0 or a positive factor.")
        self.warmup, self.final = warmup, final

    def factor(self, step: int, steps: int) -> float:
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        if warmup > steps:
            raise ValueError(f"warmup={warmup} steps is longer than the run of {steps}. Try a share such as 0.05.")
        if step < warmup:
            return (step + 1) / (warmup + 1)
        # The length is at least 1, so that a step past the end of the run has a factor too.
        share = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


class Constant(Schedule):
    """The same learning rate throughout."""

    def factor(self, step: int, steps: int) -> float:
        return 1.0
