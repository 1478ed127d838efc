"""From a backbone's tokens to one vector an item."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from toolbox.base import Features, Pool, average_patches, take_cls_token, take_last_token

PoolMode = Literal["cls", "mean", "cls+mean", "gem", "last", "tokens"]
_MODES: tuple[PoolMode, ...] = get_args(PoolMode)


class TokenPool(Pool):
    """The usual ways to pool; a plain string in a recipe's `pool` stands for this component.

    - `mode`: "cls" the first token; "mean" the mean over patches, without CLS and registers; "cls+mean" both,
      concatenated to twice the width; "gem" the generalized mean over patches with a learnable power that starts
      at 3 (Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019);
      "last" the last token that is no padding, for causal text models; "tokens" no pooling: all patches, for late
      interaction (`losses.MaxSim`).
    - `keep`: of "tokens": only so many patches, those most similar to the CLS token; None for all.
    - `blocks`: how many last blocks it reads: their CLS tokens one after the other, the earliest block first, and in
      mode "cls+mean" then the mean over patches of the last block, so the width grows to `blocks` or `blocks` + 1
      times (the linear protocol of DINOv2: Oquab et al., "DINOv2: Learning Robust Visual Features without
      Supervision", 2023). Above 1 only for "cls" and "cls+mean", and for backbones with the ability "layers".

    Padding is left out everywhere. Raises ValueError for another mode; "cls", and "tokens" with `keep`, do so at the
    first batch of a backbone that has no CLS token.
    """

    def __init__(self, mode: PoolMode = "cls", keep: int | None = None, blocks: int = 1):
        super().__init__()
        _check_mode(mode)
        if keep is not None and (mode != "tokens" or keep < 1):
            raise ValueError(f"keep={keep} is a number of patches, at least 1, and belongs to mode='tokens'.")
        if blocks < 1 or (blocks > 1 and mode not in ("cls", "cls+mean")):
            raise ValueError(f"blocks={blocks} is a number of blocks, at least 1, and belongs to 'cls' or 'cls+mean'.")
        self.mode, self.keep, self.keeps_tokens, self.layers = mode, keep, mode == "tokens", blocks
        if mode == "gem":
            self.power = nn.Parameter(torch.tensor(3.0))

    def dim(self, width: int) -> int:
        return width * (self.layers + (self.mode == "cls+mean"))

    def forward(self, features: Features) -> Tensor:
        if self.mode == "cls":
            return concat_cls_tokens(features, self.layers)
        if self.mode == "mean":
            return average_patches(features)
        if self.mode == "last":
            return take_last_token(features)
        if self.mode == "cls+mean":
            return torch.cat([concat_cls_tokens(features, self.layers), average_patches(features)], dim=-1)
        if self.mode == "tokens":
            return select_patches(features, self.keep)
        return pool_gem(features, self.power)

    def in_plain_torch(self, name: str) -> list[str]:
        if self.layers > 1:
            raise ValueError(f"the pool reads the last {self.layers} blocks, and tokens are of the last one alone")
        patches, power = "tokens[:, prefix:]", f'head["{name}.power"]'
        if self.mode == "tokens" and self.keep is not None:
            return [
                f"x = {patches}",
                "similar = F.cosine_similarity(x, tokens[:, :1], dim=-1)",
                f"chosen = similar.topk(min({self.keep}, x.shape[1]), dim=1).indices",
                "x = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))",
            ]
        if self.mode == "gem":
            return [
                f"x = ({patches}.clamp(min=1e-6) ** {power}).mean(dim=1)",
                f"x = x.clamp(min=torch.finfo(x.dtype).tiny) ** (1 / {power})",
            ]
        return {
            "cls": ["x = tokens[:, 0]"],
            "mean": [f"x = {patches}.mean(dim=1)"],
            "cls+mean": [f"x = torch.cat([tokens[:, 0], {patches}.mean(dim=1)], dim=-1)"],
            "last": ["x = tokens[:, -1]"],
            "tokens": [f"x = {patches}"],
        }[self.mode]


def make_pool(pool: Pool | str) -> Pool:
    """`pool` itself, or the `TokenPool` of this mode. Raises ValueError for another mode."""
    return TokenPool(_check_mode(pool)) if isinstance(pool, str) else pool


def _check_mode(mode: str) -> PoolMode:
    for name in _MODES:
        if mode == name:
            return name
    raise ValueError(f"pool mode {mode!r} does not exist. Try one of {', '.join(_MODES)}.")


def concat_cls_tokens(features: Features, blocks: int = 1) -> Tensor:
    """(B, blocks * D): the first token of each of the last blocks, the earliest block first."""
    if blocks == 1:
        return take_cls_token(features)
    if features.blocks is None or len(features.blocks) != blocks:
        raise ValueError(f"the pool reads the last {blocks} blocks, and this backbone gives none: use blocks=1")
    return torch.cat([take_cls_token(replace(features, tokens=tokens)) for tokens in features.blocks], dim=-1)


def select_patches(features: Features, keep: int | None = None) -> Tensor:
    """(B, N, D): the tokens after the prefix, padding as zeros; the `keep` most similar to the CLS token, or all."""
    tokens = features.tokens[:, features.prefix :]
    if features.valid is not None:
        tokens = tokens * features.valid[:, features.prefix :, None]
    if keep is None or keep >= tokens.shape[1]:
        return tokens
    anchor = take_cls_token(features)[:, None]
    similar = torch.nn.functional.cosine_similarity(tokens.detach().float(), anchor.detach().float(), dim=-1)
    if features.valid is not None:
        similar = similar.masked_fill(~features.valid[:, features.prefix :], -torch.inf)
    chosen = similar.topk(keep, dim=1).indices
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))


def pool_gem(features: Features, power: Tensor | float, eps: float = 1e-6) -> Tensor:
    """(B, D): `mean(max(x, eps) ** power) ** (1 / power)` over valid patches; 1 is the mean, infinity the maximum.

    - `power`: a positive scalar.
    - `eps`: the smallest activation; what is below it, all negative values too, counts as `eps`.
    """
    # Powers of bf16 activations lose what the mean is about; autocast would pick the precision by operation.
    tokens = features.tokens if features.tokens.dtype == torch.float64 else features.tokens.float()
    powered = Features(tokens.clamp(min=eps) ** power, features.prefix, features.grid, features.valid)
    return average_patches(powered).clamp(min=torch.finfo(tokens.dtype).tiny) ** (1 / power)
