"""The same nets built by timm, and what differs in how they are set up and asked for tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolbox_dinov3.ids import COMPONENTS, Family

if TYPE_CHECKING:
    from timm.models.convnext import ConvNeXt
    from timm.models.eva import Eva
    from transformers import DINOv3ConvNextConfig, DINOv3ViTConfig


def vit(config: DINOv3ViTConfig) -> Eva:
    """timm's vision transformer of the sizes in a transformers configuration.

    Raises ValueError for the few fields that timm's net cannot follow.
    """
    from timm.layers import LayerNorm
    from timm.models.eva import Eva

    gated = config.use_gated_mlp
    _refuse(config, key_bias=False, proj_bias=True, mlp_bias=True, initializer_range=0.02,
            value_bias=config.query_bias, hidden_act="silu" if gated else "gelu")  # fmt: skip
    return Eva(
        img_size=16 * config.patch_size,  # any other size is taken too
        patch_size=config.patch_size,
        num_classes=0,
        global_pool="token",
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        qkv_bias=config.query_bias,
        mlp_ratio=(config.intermediate_size + 0.5) / config.hidden_size,  # rounded down again
        swiglu_mlp=gated,
        swiglu_align_to=int(gated),  # 1: as wide as said, and with gate and value in layers of their own
        attn_drop_rate=config.attention_dropout,
        norm_layer=partial(LayerNorm, eps=config.layer_norm_eps),
        init_values=config.layerscale_value,
        num_reg_tokens=config.num_register_tokens,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=config.rope_theta,
        rope_rotate_half=True,
        use_fc_norm=False,
        dynamic_img_size=True,
    )


def convnext(config: DINOv3ConvNextConfig) -> ConvNeXt:
    """timm's ConvNeXt of the sizes in a transformers configuration; it has four stages, always."""
    from timm.models.convnext import ConvNeXt

    _refuse(config, hidden_act="gelu", initializer_range=0.02)
    if len(config.hidden_sizes) != 4:
        raise ValueError("timm's ConvNeXt has four stages: give four hidden_sizes and depths")
    return ConvNeXt(
        num_classes=0,
        depths=tuple(config.depths),
        dims=tuple(config.hidden_sizes),
        ls_init_value=config.layer_scale_init_value,
        norm_eps=config.layer_norm_eps,
        drop_path_rate=config.drop_path_rate,
    )


def from_architecture(family: Family, architecture: str, arguments: Mapping[str, Any], drop_path: float) -> nn.Module:
    """The net that config.json of a folder in timm's format describes. Raises ValueError for another kind of net."""
    import timm
    from timm.layers import RotaryEmbeddingDinoV3
    from timm.models.convnext import ConvNeXt
    from timm.models.eva import Eva

    own = {"dynamic_img_size": True} if family == "vit" else {"drop_path_rate": drop_path}
    try:
        net = timm.create_model(architecture, pretrained=False, **{**arguments, "num_classes": 0, **own})
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise ValueError(f"timm cannot build its {architecture!r} from config.json: {error}.") from error
    fits = (
        isinstance(net, Eva) and isinstance(net.rope, RotaryEmbeddingDinoV3) and isinstance(net.norm, nn.LayerNorm)
        if family == "vit"
        else isinstance(net, ConvNeXt) and isinstance(net.norm_pre, nn.Identity)
    )
    if not fits:
        raise ValueError(f"timm's {architecture!r} is no {COMPONENTS[family]}: use encoders.Timm.")
    return net


def set_up_vit(net: Eva, drop_path: float, positions: Mapping[str, float | None], attention: str) -> None:
    """Make a new net behave as transformers' does.

    - `drop_path`: equal in all blocks; timm's own would rise.
    - `positions`: the factors of `rescale`, `shift` and `jitter`.
    - `attention`: "sdpa" or "eager".
    """
    from timm.layers import DropPath, RotaryEmbeddingDinoV3

    for block in net.blocks:
        if drop_path:
            block.drop_path1, block.drop_path2 = DropPath(drop_path), DropPath(drop_path)
        block.attn.fused_attn = attention == "sdpa"
        # else the bias goes with the bare weight matrix past the module, and with it past an adapter on the module
        block.attn.qkv_bias_separate = True
    if any(value is not None for value in positions.values()):
        net.rope = RotaryEmbeddingDinoV3(
            net.rope.dim, temperature=net.rope.temperature, rotate_half=True,
            **{f"{name}_coords": value for name, value in positions.items()},
        )  # fmt: skip


def vit_tokens(net: Eva, pixels: Tensor, layers: int) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """(B, N, D) normed tokens, and those of the last `layers` blocks where more than one is asked for."""
    if layers == 1:
        return net.forward_features(pixels), None
    tokens, pairs = net.forward_intermediates(
        pixels, indices=layers, norm=True, output_fmt="NLC", return_prefix_tokens=True
    )
    earlier = (torch.cat([prefix, patches], dim=1) for patches, prefix in pairs[:-1])
    return tokens, (*earlier, tokens)


def convnext_tokens(net: ConvNeXt, pixels: Tensor) -> Tensor:
    """(B, 1 + h * w, D): the pooled last map and the map, through the final norm, which timm keeps in its head."""
    features = net.forward_features(pixels)
    tokens = torch.cat([features.mean(dim=(2, 3)).unsqueeze(2), features.flatten(2)], dim=2)
    return net.head.norm(tokens.unsqueeze(3)).squeeze(3).transpose(1, 2)


def _refuse(config: Any, **fixed: Any) -> None:
    for key, value in fixed.items():
        if getattr(config, key) != value:
            raise ValueError(f"timm's net has {key}={value!r} only; set source='transformers' for another")
