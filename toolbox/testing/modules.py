"""The contracts of what stands between a backbone and a loss: pools and heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolbox.base import Features, Head, Pool
from toolbox.testing.material import check_registered, check_state_dict, is_close, list_without_gradient, require

WIDTH, PREFIX, GRID = 16, 1, (2, 3)


def check_pool(make: Callable[[], Pool]) -> None:
    """Check a pool against `toolbox.base.Pool`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call.
    """
    pool = make()
    name = type(pool).__name__
    require(isinstance(pool, Pool), f"{name} must be a subclass of toolbox.base.Pool.")
    pool.eval()
    features = _make_features(pool.layers)
    pooled = pool(features)
    shape = (len(features.tokens), pool.dim(WIDTH))
    require(pooled.shape == shape, f"{name} must return (B, dim(D)) = {shape}, not {tuple(pooled.shape)}.")
    require(bool(pooled.isfinite().all()), f"{name} must be finite.")
    require(torch.equal(pooled, pool(features)), f"{name}: in eval mode the same features must give the same vector.")
    blocks = features.blocks
    first = None if blocks is None else tuple(block[:1] for block in blocks)
    alone = Features(features.tokens[:1], features.prefix, features.grid, blocks=first)
    require(is_close(pool(alone), pooled[:1]), f"{name}: an item's vector must not depend on its batch.")
    tokens = features.tokens.clone().requires_grad_()
    again = pool(Features(tokens, PREFIX, GRID, blocks=None if blocks is None else (*blocks[:-1], tokens)))
    (again * torch.randn_like(pooled)).sum().backward()
    require(
        tokens.grad is not None and bool(tokens.grad.isfinite().all()) and bool(tokens.grad.any()),
        f"{name} must pass a finite gradient to the tokens.",
    )
    _check_padding(pool, name)
    check_registered(pool, name)
    check_state_dict(pool, make().eval(), lambda m: m(features).detach(), name)


def check_head(make: Callable[[], Head]) -> None:
    """Check a head against `toolbox.base.Head`; raises AssertionError that names the broken contract.

    It is given a pooled (B, in_dim) tensor, and Features if it does not take that.

    - `make`: returns a new instance at every call.
    """
    name = type(make()).__name__
    require(isinstance(make(), Head), f"{name} must be a subclass of toolbox.base.Head.")

    def connected() -> Head:
        head = make()
        head.connect(WIDTH, 5)
        return head.eval()

    head = connected()
    require(
        head.in_dim == WIDTH and isinstance(getattr(head, "out_dim", None), int),
        f"{name}.in_dim and out_dim must be known after connect.",
    )
    features = _make_features()
    pooled: Tensor | Features = features.tokens[:, 0].clone()
    try:
        output = head(pooled)
    except (AttributeError, TypeError):
        pooled = features
        output = head(pooled)
    shape = (len(features.tokens), head.out_dim)
    require(output.shape == shape, f"{name} must return (B, out_dim) = {shape}, not {tuple(output.shape)}.")
    require(bool(output.isfinite().all()), f"{name} must be finite.")
    require(torch.equal(output, head(pooled)), f"{name}: in eval mode the same input must give the same output.")
    (output * torch.randn_like(output)).sum().backward()
    missing = list_without_gradient(head)
    require(not missing, f"{name}: gradients must reach every parameter; none reaches {', '.join(missing)}.")
    check_registered(head, name)
    check_state_dict(head, connected(), lambda m: m(pooled).detach(), name)


def _make_features(layers: int = 1) -> Features:
    blocks = torch.randn(
        layers, 4, PREFIX + GRID[0] * GRID[1], WIDTH, generator=torch.Generator().manual_seed(0)
    ).unbind()
    return Features(blocks[-1], PREFIX, GRID, blocks=blocks if layers > 1 else None)


def _check_padding(pool: Pool, name: str) -> None:
    """What stands in padding must not matter, whichever side it is on."""
    tokens = _make_features().tokens
    for side, padding in (("right", slice(5, None)), ("left", slice(None, 2))):
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool)
        valid[1:, padding] = False
        other = tokens.clone()
        other[~valid] += 5
        prefix = PREFIX if side == "right" else 0
        try:
            a, b = (pool(Features(x, prefix, None, valid)) for x in (tokens, other))
        except ValueError:  # e.g. no CLS token: the pool says that it does not fit
            continue
        require(is_close(a, b), f"{name} must ignore tokens that `valid` marks as padding (on the {side}).")
