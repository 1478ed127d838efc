"""Names and shapes of weights: from the files of the authors and of timm to the models of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from toolbox_dinov3.ids import Family

_VIT = (
    (r"(cls|mask)_token$", r"embeddings.\1_token"),
    (r"(storage_tokens|reg_token)$", "embeddings.register_tokens"),
    (r"patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"blocks\.(\d+)\.attn\.([qv])_bias$", r"layer.\1.attention.\2_proj.bias"),
    (r"blocks\.(\d+)\.attn\.proj\.", r"layer.\1.attention.o_proj."),
    (r"blocks\.(\d+)\.(?:ls([12])\.gamma|gamma_([12]))$", r"layer.\1.layer_scale\2\3.lambda1"),
    (r"blocks\.(\d+)\.mlp\.(?:w1|fc1_g)\.", r"layer.\1.mlp.gate_proj."),
    (r"blocks\.(\d+)\.mlp\.(?:w2|fc1_x|fc1)\.", r"layer.\1.mlp.up_proj."),
    (r"blocks\.(\d+)\.mlp\.(?:w3|fc2)\.", r"layer.\1.mlp.down_proj."),
    (r"blocks\.(\d+)\.norm", r"layer.\1.norm"),
)
_CONVNEXT = (
    (r"(?:downsample_layers\.0|stem)\.", "stages.0.downsample_layers."),
    (r"downsample_layers\.(\d+)\.", r"stages.\1.downsample_layers."),
    (r"stages\.(\d+)\.downsample\.", r"stages.\1.downsample_layers."),
    (r"stages\.(\d+)\.(?:blocks\.)?(\d+)\.(?:dwconv|conv_dw)\.", r"stages.\1.layers.\2.depthwise_conv."),
    (r"stages\.(\d+)\.(?:blocks\.)?(\d+)\.norm\.", r"stages.\1.layers.\2.layer_norm."),
    (r"stages\.(\d+)\.(?:blocks\.)?(\d+)\.(?:pwconv|mlp\.fc)([12])\.", r"stages.\1.layers.\2.pointwise_conv\3."),
    (r"stages\.(\d+)\.(?:blocks\.)?(\d+)\.gamma$", r"stages.\1.layers.\2.gamma"),
    (r"(?:head\.)?norm\.", "layer_norm."),
)
_LEFT_OUT: dict[Family, str] = {
    # a classifier, a norm that only pretraining uses, what is computed from the configuration
    "vit": r"head\.|local_cls_norm\.|rope_embed\.|blocks\.\d+\.attn\.qkv\.bias_mask$",
    # a classifier, and the final norm a second time
    "convnext": r"head\.fc\.|norms\.",
}


def to_transformers(family: Family, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that transformers 4 gives them; version 5 puts "model." before those of blocks.

    - `tensors`: of a file of the authors, of timm or of transformers.

    What timm's files lack is added: a mask token of zeros. A name without a counterpart stays as it is.
    """
    if not any(re.match(r"blocks\.\d|stem\.|downsample_layers\.", key) for key in tensors):
        return {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    converted: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if re.match(_LEFT_OUT[family], key):
            continue
        match = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", key) if family == "vit" else None
        if match is None:
            converted[_rename(key, _VIT if family == "vit" else _CONVNEXT)] = tensor
            continue
        masked = f"{key}_mask" in tensors  # the authors' bias of keys is held at zero so, whatever the file says
        for part, values in zip("qkv", tensor.chunk(3), strict=True):
            if not (masked and part == "k"):
                converted[f"layer.{match[1]}.attention.{part}_proj.{match[2]}"] = values
    if family == "vit" and "embeddings.cls_token" in converted:
        empty = torch.zeros_like(converted["embeddings.cls_token"])
        converted.setdefault("embeddings.register_tokens", empty[:, :0])
        mask = converted.get("embeddings.mask_token", empty)
        converted["embeddings.mask_token"] = mask.reshape(empty.shape) if mask.numel() == empty.numel() else mask
    return converted


def has_mask_token(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file knows what stands in the place of a hidden patch; timm's do not."""
    return any(key.endswith("mask_token") for key in tensors)


def _rename(key: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in patterns:
        new, count = re.subn(f"^{pattern}", name, key)
        if count:
            return new
    return key
