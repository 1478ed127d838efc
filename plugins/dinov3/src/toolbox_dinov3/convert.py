"""Names and shapes of weights: from the nets of transformers to those of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from toolbox_dinov3.ids import Family

_VIT = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"layer\.(\d+)\.attention\.q_proj\.bias", r"blocks.\1.attn.q_bias"),
    (r"layer\.(\d+)\.attention\.v_proj\.bias", r"blocks.\1.attn.v_bias"),
    (r"layer\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
    (r"layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (r"layer\.(\d+)\.mlp\.gate_proj\.", r"blocks.\1.mlp.fc1_g."),
    (r"layer\.(\d+)\.mlp\.down_proj\.", r"blocks.\1.mlp.fc2."),
    (r"layer\.(\d+)\.norm", r"blocks.\1.norm"),
)
_CONVNEXT = (
    (r"stages\.0\.downsample_layers\.", "stem."),
    (r"stages\.(\d+)\.downsample_layers\.", r"stages.\1.downsample."),
    (r"stages\.(\d+)\.layers\.(\d+)\.depthwise_conv\.", r"stages.\1.blocks.\2.conv_dw."),
    (r"stages\.(\d+)\.layers\.(\d+)\.layer_norm\.", r"stages.\1.blocks.\2.norm."),
    (r"stages\.(\d+)\.layers\.(\d+)\.pointwise_conv([12])\.", r"stages.\1.blocks.\2.mlp.fc\3."),
    (r"stages\.(\d+)\.layers\.(\d+)\.gamma", r"stages.\1.blocks.\2.gamma"),
    (r"layer_norm\.", "head.norm."),
)


def to_timm(family: Family, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a transformers model under the names of timm's, with query, key and value in one matrix.

    The mask token is left out: timm's net has none. A name without a counterpart stays as it is.
    """
    tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}  # version 5 nests, 4 does not
    if family == "convnext":
        return {_renamed(key, _CONVNEXT): tensor for key, tensor in tensors.items()}
    gated = any(".mlp.gate_proj." in key for key in tensors)
    up = ((r"layer\.(\d+)\.mlp\.up_proj\.", r"blocks.\1.mlp.fc1_x." if gated else r"blocks.\1.mlp.fc1."),)
    converted = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"layer\.(\d+)\.attention\.([qkv])_proj\.weight", key)
        if match is None:
            converted[_renamed(key, _VIT + up)] = tensor
        elif match[2] == "q":
            names = [f"layer.{match[1]}.attention.{part}_proj.weight" for part in "qkv"]
            parts = [tensors[name] for name in names if name in tensors]
            converted[f"blocks.{match[1]}.attn.qkv.weight"] = torch.cat(parts)
    converted.pop("embeddings.mask_token", None)
    if "reg_token" in converted and not converted["reg_token"].numel():
        del converted["reg_token"]
    return converted


def _renamed(key: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in patterns:
        new, count = re.subn(f"^{pattern}", name, key)
        if count:
            return new
    return key
