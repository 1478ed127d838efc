"""Multinomial logistic regression with an L2 penalty, solved to the optimum on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SCORES = 2**24
"""How many scores, rows x classes, are held at a time."""


@dataclass
class LogisticFit:
    """A logistic regression that was fitted.

    - `weights`: (classes, D); `biases`: (classes,); `converged`: whether the gradient came below the tolerance.
    """

    weights: Tensor
    biases: Tensor
    converged: bool

    def compute_scores(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, classes)."""
        return torch.addmm(self.biases, x.to(self.weights.dtype), self.weights.T)


def fit_logistic(
    x: Tensor,
    y: Tensor,
    classes: int,
    c: float,
    *,
    start: LogisticFit | None = None,
    max_iter: int = 1000,
    tolerance: float = 1e-6,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    memory_mb: int = 4096,
) -> LogisticFit:
    """Minimise c * (sum of cross-entropies) + 0.5 * (squared weights), biases free: the objective of scikit-learn.

    For two classes the penalty is 0.5 * (squared difference of their weights), as in scikit-learn.

    - `x`: (N, D); `y`: (N,) from 0 to `classes` - 1, each of which occurs.
    - `device`, `dtype`: where and in what to compute, default: as `x` is. `x` is kept there if it takes no more than
      `memory_mb` MiB; otherwise it is copied there in parts, in every iteration.
    - `start`: a fit to begin with; the optimum is the same from anywhere.
    - `max_iter`: L-BFGS iterations (history 10, strong Wolfe line search).
    - `tolerance`: it has converged when no entry of the gradient of the objective / (c * N) is larger.
    """
    count, width = x.shape
    # of two classes scikit-learn has one vector, the difference of ours: half of its square is that of both of ours
    penalty, rows = (2 if classes == 2 else 1) / (c * count), max(1, _SCORES // classes)
    scale = (1 + classes * penalty) ** -0.5  # of the weights, so that they curve as the biases do under any penalty
    dtype, device = dtype or x.dtype, device or x.device
    pairs = list(zip(x.split(rows), y.split(rows), strict=True))
    if count * width * dtype.itemsize <= memory_mb * 2**20:
        pairs = [(part.to(device, dtype), labels.to(device)) for part, labels in pairs]
    solution = torch.zeros(classes, width + 1, dtype=dtype, device=device)
    if start is not None:
        solution[:, :width], solution[:, width] = start.weights / scale, start.biases
    solution.requires_grad_(True)
    solution.grad = gradient = torch.zeros_like(solution)  # of all iterations, computed here and not by autograd

    def closure() -> Tensor:
        return _compute_loss(solution, gradient, pairs, penalty, scale)

    optimizer = torch.optim.LBFGS(
        [solution],
        lr=1.0,
        max_iter=max_iter,
        max_eval=2 * max_iter,
        tolerance_grad=tolerance * scale,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    with torch.no_grad():
        optimizer.step(closure)
        closure()
        gradient[:, :width] /= scale
        converged = bool(gradient.abs().max() <= tolerance)
        biases = solution[:, width] - solution[:, width].mean()  # what all have in common changes nothing
        return LogisticFit(solution[:, :width].detach() * scale, biases.detach(), converged)


@torch.no_grad()  # the optimizer turns gradients on, and a graph of all iterations would be kept
def _compute_loss(
    solution: Tensor, gradient: Tensor, pairs: list[tuple[Tensor, Tensor]], penalty: float, scale: float
) -> Tensor:
    """The objective / (c * N) at `solution`; what `gradient` holds becomes its gradient.

    - `solution`: (classes, D + 1), the weights / `scale`, then the biases; `pairs`: parts of (x, y).
    """
    gradient.zero_()
    loss = solution.new_zeros(())
    weights, biases = solution[:, :-1] * scale, solution[:, -1]
    for part, labels in pairs:
        part, labels = part.to(solution), labels.to(solution.device)
        log_shares = torch.addmm(biases, part, weights.T).log_softmax(dim=1)
        loss -= log_shares.gather(1, labels[:, None]).sum()
        error = log_shares.exp_()
        error.scatter_add_(1, labels[:, None], error.new_full((len(labels), 1), -1.0))
        gradient[:, :-1].addmm_(error.T, part)
        gradient[:, -1] += error.sum(dim=0)
    count = sum(len(labels) for _, labels in pairs)
    gradient.div_(count)
    gradient[:, :-1] += penalty * weights
    gradient[:, :-1] *= scale
    return loss / count + 0.5 * penalty * weights.square().sum()
