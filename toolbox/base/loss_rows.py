"""The rows that a loss computes from, with several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base.functional import gather, gather_integers, get_dist_info, without_autocast

if TYPE_CHECKING:
    from toolbox.base.loss import Loss


def average_local_rows(loss: Loss, embeddings: Tensor, *others: Tensor | None) -> Tensor:
    """The mean over the rows of all processes, each of which computes its own part of the gradient.

    - `loss`: one that does not gather.
    - `embeddings`, `others`: the arguments of its `compute`, teacher's included.
    """
    labels, ref_embeddings, ref_labels, *teachers = (None if x is None else promote(x) for x in others)
    rows = (promote(embeddings), labels, ref_embeddings, ref_labels)
    with without_autocast(embeddings.device):
        local = loss.compute(*rows, *(teachers if loss.needs_teacher else ()))
        _, processes = get_dist_info()
        if processes == 1:
            return local
        divisor = loss.weigh(*rows)
        # a number is filled in on the device: a copy would wait for it
        weight = divisor.detach().to(local.dtype) if isinstance(divisor, Tensor) else local.new_full((), divisor)
        sums = torch.stack([weight, torch.where(weight > 0, weight * local.detach(), 0)])
        dist.all_reduce(sums)
        total = sums[0].clamp(min=torch.finfo(sums.dtype).tiny)
        share = local * (weight * processes / total)
        return share + (sums[1] / total - share).detach()  # the value of the whole, the gradient of the share


def promote(x: Tensor) -> Tensor:
    """`x` in at least float32 where it holds floats, as it is otherwise."""
    return x.float() if x.is_floating_point() and x.dtype != torch.float64 else x


@overload
def gather_all(x: Tensor) -> Tensor: ...
@overload
def gather_all(x: Tensor | None) -> Tensor | None: ...
def gather_all(x: Tensor | None) -> Tensor | None:
    """The rows of all processes, in at least float32."""
    return None if x is None else gather(promote(x))


def gather_refs(x: Tensor | None, rows: int) -> Tensor | None:
    """The same, second views before explicit negatives, so that row i stays the view of embedding i."""
    everything = gather_all(x)
    if x is None or everything is None or get_dist_info()[1] == 1:
        return everything
    # every process takes part in the same collective calls, also one that has no explicit negative
    sizes = gather_integers(rows, len(x), device=x.device)
    parts = everything.split([length for _, length in sizes])
    cut = [(part[:items], part[items:]) for part, (items, _) in zip(parts, sizes, strict=True)]
    return torch.cat([views for views, _ in cut] + [negatives for _, negatives in cut])
