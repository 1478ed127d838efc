"""The few functions that most authors need: pooling, normalising, gathering."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base.features import Features


def l2_normalize(x: Tensor) -> Tensor:
    """Rows of length 1 over the last axis; a zero row stays zero. Any shape in, the same shape out."""
    return torch.nn.functional.normalize(x, dim=-1)


def take_cls_token(features: Features) -> Tensor:
    """(B, D): the first token. Raises ValueError where there is no prefix token."""
    if features.prefix < 1:
        raise ValueError("this backbone has no CLS token: pool with 'mean'")
    return features.tokens[:, 0]


def average_patches(features: Features) -> Tensor:
    """(B, D): the mean over valid tokens that are no prefix tokens."""
    tokens = features.tokens[:, features.prefix :]
    if features.valid is None:
        return tokens.mean(dim=1)
    weight = features.valid[:, features.prefix :].to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def take_last_token(features: Features) -> Tensor:
    """(B, D): the last valid token, whichever side the padding is on."""
    if features.valid is None:
        return features.tokens[:, -1]
    positions = torch.arange(features.tokens.shape[1], device=features.tokens.device)
    last = (features.valid * positions).argmax(dim=1)
    return features.tokens[torch.arange(len(last), device=last.device), last]


def get_dist_info() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _Gather(torch.autograd.Function):
    """Concatenate over processes; the gradient of every process's use flows back to the owner of a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.counts, ctx.rank = counts, rank
        padded = x.new_zeros((max(counts), *x.shape[1:]))
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # a copy: autograd may hand the same tensor to others, such as both sides of a sum
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        start = sum(ctx.counts[: ctx.rank])
        return grad[start : start + ctx.counts[ctx.rank]], None, None


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which numbers are computed in the type that they have."""
    device_type = "cpu" if device.type == "meta" else device.type  # meta has no autocast
    is_enabled = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if is_enabled else nullcontext()


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, (B, ...) -> (sum of B, ...), in rank order and with gradient; B may differ.

    When every process computes the same full-batch loss of the result, gradients averaged over the
    processes equal those of one process that holds the whole batch. Identity in a single process.
    """
    return gather_rows(x)[0]


def gather_rows(x: Tensor) -> tuple[Tensor, slice]:
    """`gather`, and the slice of the rows that this process holds."""
    rank, size = get_dist_info()
    if size == 1:
        return x, slice(0, len(x))
    counts = [count for (count,) in gather_integers(len(x), device=x.device)]
    local_rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    if x.is_floating_point():
        return _Gather.apply(x, counts, rank), local_rows
    with torch.no_grad():
        return _Gather.apply(x.contiguous(), counts, rank), local_rows


def gather_integers(
    *values: int, device: torch.device, group: dist.ProcessGroup | None = None
) -> list[tuple[int, ...]]:
    """A few whole numbers of every process, by rank.

    - `device`: where they are exchanged if that cannot be on the CPU.
    - `group`: the processes that take part; None for all.
    """
    # reading them from a device would wait for all that it has to do
    local = torch.tensor(values, device="cpu" if "cpu:" in str(dist.get_backend_config(group)) else device)
    by_rank = [torch.empty_like(local) for _ in range(get_dist_info()[1])]
    dist.all_gather(by_rank, local, group=group)
    return [tuple(numbers.tolist()) for numbers in by_rank]
