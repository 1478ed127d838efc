"""What config.json of a folder in timm's format says, in the fields of a configuration of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolbox_dinov3.ids import BY_TIMM_NAME, COMPONENTS, Family

_FIELDS: dict[Family, dict[str, str]] = {
    "vit": {
        "patch_size": "patch_size",
        "embed_dim": "hidden_size",
        "depth": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "num_reg_tokens": "num_register_tokens",
        "init_values": "layerscale_value",
        "rope_temperature": "rope_theta",
    },
    "convnext": {
        "dims": "hidden_sizes",
        "depths": "depths",
        "norm_eps": "layer_norm_eps",
        "ls_init_value": "layer_scale_init_value",
    },
}
_WITHOUT_EFFECT = ("num_classes", "global_pool", "img_size", "dynamic_img_size", "drop_path_rate", "drop_rate")
"""On the tokens of a net that is not training, which takes images of any size."""


def read_timm_fields(family: Family, architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a transformers configuration.

    - `architecture`: timm's name of it, without the tag of weights.
    - `arguments`: keywords of timm's constructor, which change it.

    Raises ValueError for an architecture of another family, and for keywords that have no counterpart.
    """
    known = {name.partition(".")[0]: known for name, known in BY_TIMM_NAME.items() if known.family == family}
    if architecture not in known:
        raise ValueError(f"timm's {architecture!r} is no {COMPONENTS[family]}: use encoders.Timm.")
    fields = dict(known[architecture].arch)
    rest = {key: value for key, value in arguments.items() if key not in _WITHOUT_EFFECT}
    if rest.pop("in_chans", 3) != 3:
        raise ValueError(f"{COMPONENTS[family]} reads images of three channels, and in_chans={arguments['in_chans']}.")
    if family == "vit":
        if "qkv_bias" in rest:
            fields["query_bias"] = fields["value_bias"] = bool(rest.pop("qkv_bias"))
        _set_mlp(fields, rest)
    for key in list(rest):
        if key in _FIELDS[family]:
            fields[_FIELDS[family][key]] = rest.pop(key)
    if rest:
        raise ValueError(
            f"{COMPONENTS[family]} does not follow these keywords of timm's {architecture!r}: {', '.join(rest)}: use "
            f"encoders.Timm."
        )
    return fields


def _set_mlp(fields: dict[str, Any], rest: dict[str, Any]) -> None:
    """Compute the inner width: timm rounds it down to an integer, and that of a gated MLP up to a multiple."""
    width, ratio = rest.get("embed_dim", fields["hidden_size"]), fields["intermediate_size"] / fields["hidden_size"]
    gated = bool(rest.pop("swiglu_mlp", fields["use_gated_mlp"]))
    inner = int(width * rest.pop("mlp_ratio", ratio))
    multiple = rest.pop("swiglu_align_to", 64 if fields["hidden_size"] == 4096 else 8 if fields["use_gated_mlp"] else 0)
    if gated and not multiple:
        raise ValueError("dinov3.ViT has gate and value in layers of their own, as timm has them with swiglu_align_to.")
    fields["use_gated_mlp"], fields["hidden_act"] = gated, "silu" if gated else "gelu"
    fields["intermediate_size"] = inner + -inner % multiple if gated else inner
