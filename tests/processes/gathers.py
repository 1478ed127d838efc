"""What `gather` passes back, in the ways that a loss may use it, and losses that need no gathering."""

from __future__ import annotations

from collections.abc import Callable

import torch
from toolbox_losses.arcface import ArcFace, SubCenterArcFace
from toolbox_losses.cross_entropy import CrossEntropy
from toolbox_losses.distillation import Distillation
from toolbox_losses.sum import Sum
from toolbox_losses.supcon import SupCon
from torch import Tensor, nn

from toolbox.base import Loss, gather, get_dist_info
from toolbox.engine.distributed.context import DistributedContext

ROWS, WIDTH = 13, 6


def _own(x: Tensor) -> Tensor:
    """This process's share of the rows: uneven, and in the last case none at all on the first process."""
    rank, size = get_dist_info()
    return x[len(x) * rank // size : len(x) * (rank + 1) // size]


def _first_has_none(x: Tensor) -> Tensor:
    rank, size = get_dist_info()
    return x if size == 1 else x[:0] if rank == 0 else x[len(x) * (rank - 1) // (size - 1) :][: _count(len(x))]


def _count(rows: int) -> int:
    rank, size = get_dist_info()
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


class Weighted(Loss):
    """Cross-entropy with weights of classes, which leaves label 0 out, as `ignore_index` does."""

    gathers = False

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        weights = self.weights(labels).to(embeddings.dtype)
        losses = nn.functional.cross_entropy(embeddings, labels, reduction="none")
        return (weights * losses).sum() / weights.sum().clamp(min=1e-9)

    def weigh(self, embeddings, labels, ref_embeddings, ref_labels):
        return self.weights(labels).sum()

    @staticmethod
    def weights(labels):
        return torch.tensor([0.0, 1.0, 2.5, 0.5, 1.0, 3.0])[labels]


class Unweighed(Weighted):
    """A mistake: it divides by a sum of weights, and says that it divides by the number of rows."""

    def weigh(self, *arguments):
        return Loss.weigh(self, *arguments)


LABELS = [0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 2, 2, 1]
# losses that gather nothing: of two processes the first has few rows that count, of four the first has none
ROW_BY_ROW: dict[str, Callable[[], Loss]] = {
    "cross-entropy": lambda: CrossEntropy(),
    "label smoothing": lambda: CrossEntropy(label_smoothing=0.2),
    "soft labels": lambda: CrossEntropy(),
    "class weights and ignored labels": Weighted,
    "a mistake": Unweighed,
    "arcface": lambda: ArcFace(scale=8.0),
    "sub-centers": lambda: SubCenterArcFace(scale=8.0),
    "two of them": lambda: Sum([ArcFace(scale=8.0), SubCenterArcFace()], [1, 0.5]),
    "sum with one that gathers": lambda: Sum([ArcFace(scale=8.0), SupCon()], [1, 0.5]),
    "sum with weights": lambda: Sum([ArcFace(scale=8.0), Weighted()], [1, 0.5]),
    "distilled embeddings": lambda: Distillation(kind="embedding"),
}


def row_by_row(name: str) -> dict[str, Tensor]:
    """The value of a loss, and its averaged gradients by parameter, that of a tower included."""
    torch.manual_seed(4)
    tower = torch.randn(4, WIDTH, dtype=torch.float64).requires_grad_()
    first, second, taught = (_own(torch.randn(ROWS, 4, dtype=torch.float64)) for _ in range(3))
    labels = _own(torch.tensor(LABELS))
    loss = ROW_BY_ROW[name]()
    if loss.reads_logits and not isinstance(loss, Weighted):
        labels = _own(torch.rand(ROWS, WIDTH, dtype=torch.float64).softmax(1)) if name == "soft labels" else labels
    loss.connect(WIDTH, WIDTH)
    loss.double()
    gathers = name in ("sum with one that gathers", "sum with weights")
    assert loss.gathers == gathers
    more = {"ref_embeddings": second @ tower, "ref_labels": labels.clone()} if name != "soft labels" else {}
    if isinstance(loss, Weighted):
        more = {}
    if loss.needs_teacher:
        more |= {"teacher": taught.repeat(1, 2)[:, :WIDTH], "ref_teacher": taught.flip(1).repeat(1, 2)[:, :WIDTH]}
    value = loss(first @ tower, labels, **more)
    value.backward()
    found = {"loss": value.detach(), "tower": tower.grad}
    found |= {key: parameter.grad for key, parameter in loss.named_parameters()}
    for key, grad in found.items():
        if get_dist_info()[1] > 1 and key != "loss":
            torch.distributed.all_reduce(grad)
            found[key] = grad / get_dist_info()[1]
    return found


def everything(distributed: DistributedContext) -> dict[str, dict[str, Tensor]]:
    """{case: the loss and the averaged gradients of two towers}, in double precision."""
    found = {name: row_by_row(name) for name in ROW_BY_ROW}
    for name, (share, loss) in CASES.items():
        torch.manual_seed(3)
        towers = {key: torch.randn(4, WIDTH, dtype=torch.float64).requires_grad_() for key in "ab"}
        rows = torch.randn(ROWS, 4, dtype=torch.float64)
        value = loss(*(share(rows) @ tower for tower in towers.values()))
        value.backward()
        found[name] = {"loss": value.detach()}
        for key, tower in towers.items():
            grad = torch.zeros_like(tower) if tower.grad is None else tower.grad
            if distributed.world_size > 1:
                torch.distributed.all_reduce(grad)
            found[name][key] = grad / distributed.world_size
    return found
