"""Ridge regression in closed form from sums over batches, exact in float64."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import get_dist_info

_ROWS = 4096
"""Rows whose products are added at a time."""


class RidgeSums:
    """What ridge regression needs of pairs of rows, x (D,) and y (E,): sums that add up over batches and processes.

    In float64 on the CPU, since not every accelerator has it; D * D + D * E numbers, whatever the number of rows.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in some rows, (N, D) and (N, E)."""
        self._waiting.append((x.to("cpu", torch.float64), y.to("cpu", torch.float64)))
        if sum(len(rows) for rows, _ in self._waiting) >= _ROWS:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        x, y = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        self.count += len(x)
        new = {"x": x.sum(dim=0), "y": y.sum(dim=0), "xx": x.T @ x, "xy": x.T @ y, "yy": y.square().sum()}
        self._sums = {name: self._sums[name] + value for name, value in new.items()} if self._sums else new

    def gather(self) -> RidgeSums:
        """The sums of all processes in one."""
        self._add_waiting()
        if get_dist_info()[1] == 1:
            return self
        parts: list = [None] * get_dist_info()[1]
        dist.all_gather_object(parts, (self.count, self._sums))
        total = RidgeSums()
        for count, sums in parts:
            total = total.join(count, sums)
        return total

    def join(self, count: int, sums: dict[str, Tensor]) -> RidgeSums:
        """These sums with others."""
        total = RidgeSums()
        total.count = self.count + count
        filled = [part for part in (self._sums, sums) if part]
        total._sums = {name: torch.stack([part[name] for part in filled]).sum(dim=0) for name in (filled or [{}])[0]}
        return total

    def __add__(self, other: RidgeSums) -> RidgeSums:
        other._add_waiting()
        self._add_waiting()
        return self.join(other.count, other._sums)

    def solve(self, alpha: float) -> tuple[Tensor, Tensor]:
        """The weight (D, E) and bias (E,) that minimise the sum of |y - x @ weight - bias|^2 + alpha |weight|^2.

        Raises ValueError without rows, and where they hold NaN or infinity.
        """
        self._add_waiting()
        if not self.count:
            raise ValueError("there are no rows to learn from")
        if not all(bool(value.isfinite().all()) for value in self._sums.values()):
            raise ValueError("rows to learn from hold NaN or infinity")
        x, y = self._sums["x"] / self.count, self._sums["y"] / self.count
        covariance = self._sums["xx"] - self.count * x[:, None] * x
        covariance.diagonal().add_(alpha)
        factor = torch.linalg.cholesky(covariance)
        weight = torch.cholesky_solve(self._sums["xy"] - self.count * x[:, None] * y, factor)
        return weight, y - x @ weight

    def compute_error(self, weight: Tensor, bias: Tensor) -> float:
        """The mean of |y - x @ weight - bias|^2 over these rows."""
        self._add_waiting()
        x, y, xx, xy = (self._sums[name] for name in ("x", "y", "xx", "xy"))
        fitted = (weight * (xx @ weight)).sum() + 2 * (x @ weight) @ bias + self.count * bias.square().sum()
        return float((self._sums["yy"] - 2 * (weight * xy).sum() - 2 * y @ bias + fitted) / self.count)
