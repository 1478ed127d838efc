"""What `gather` passes back, where its result is used in the ways that a loss may use it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolbox.base import gather, world
from toolbox.engine.distributed.team import Team

ROWS, WIDTH = 13, 6


def _own(x: Tensor) -> Tensor:
    """This process's share of the rows: uneven, and in the last case none at all on the first process."""
    rank, size = world()
    return x[len(x) * rank // size : len(x) * (rank + 1) // size]


def _first_has_none(x: Tensor) -> Tensor:
    rank, size = world()
    return x if size == 1 else x[:0] if rank == 0 else x[len(x) * (rank - 1) // (size - 1) :][: _count(len(x))]


def _count(rows: int) -> int:
    rank, size = world()
    return rows * rank // (size - 1) - rows * (rank - 1) // (size - 1)


def _twice(a: Tensor, b: Tensor) -> Tensor:
    rows = gather(a)
    return (rows @ rows.T).tanh().sum() + (rows * gather(b)).sum()


def _views(a: Tensor, b: Tensor) -> Tensor:
    both = gather(torch.stack([a, b], dim=1))
    return (gather(a)[:, 1:4] * both[:, 1, 2:5]).sum() + both.flatten(1)[::2].square().sum()


def _no_gradient(a: Tensor, b: Tensor) -> Tensor:
    constant = gather(b.detach())
    assert not constant.requires_grad
    return (gather(a) + constant).square().sum()


# name -> (how rows are shared, the loss of two towers' own rows)
CASES: dict[str, tuple[Callable, Callable[[Tensor, Tensor], Tensor]]] = {
    "sum": (_own, lambda a, b: (gather(a) + gather(b)).square().sum()),
    "sum alone": (_own, lambda a, b: (gather(a) + gather(b)).sum()),
    "difference": (_own, lambda a, b: (gather(a) - gather(b)).abs().sum()),
    "product": (_own, lambda a, b: (gather(a) * gather(b)).sum()),
    "sum of three": (_own, lambda a, b: (gather(a) + gather(b) + gather(a * b)).exp().sum()),
    "the same rows added": (_own, lambda a, b: (gather(a) + gather(a)).square().sum() + gather(b).sum()),
    "used twice": (_own, _twice),
    "views": (_own, _views),
    "of what was gathered": (_own, lambda a, b: (gather(_own(gather(a) + gather(b))) ** 3).sum()),
    "not contiguous": (_own, lambda a, b: (gather(a.T.contiguous().T) + gather(b[:, ::2].repeat(1, 2))).exp().sum()),
    "transposed gradient": (_own, lambda a, b: ((gather(a) + gather(b)).T @ torch.ones(ROWS, 4).double()).exp().sum()),
    "expanded gradient": (_own, lambda a, b: (gather(a).sum(0) + gather(b).sum(0)).sum()),
    "without gradient": (_own, _no_gradient),
    "a process without rows": (_first_has_none, lambda a, b: (gather(a) + gather(b)).square().sum()),
}


def everything(team: Team) -> dict[str, dict[str, Tensor]]:
    """{case: the loss and the averaged gradients of two towers}, in double precision."""
    found = {}
    for name, (share, loss) in CASES.items():
        torch.manual_seed(3)
        towers = {key: torch.randn(4, WIDTH, dtype=torch.float64).requires_grad_() for key in "ab"}
        rows = torch.randn(ROWS, 4, dtype=torch.float64)
        value = loss(*(share(rows) @ tower for tower in towers.values()))
        value.backward()
        found[name] = {"loss": value.detach()}
        for key, tower in towers.items():
            grad = torch.zeros_like(tower) if tower.grad is None else tower.grad
            if team.size > 1:
                torch.distributed.all_reduce(grad)
            found[name][key] = grad / team.size
    return found
