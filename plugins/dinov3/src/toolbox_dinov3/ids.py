"""The public DINOv3 encoders, with all that is needed to build their structure without reading anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

Family = Literal["vit", "convnext"]

COMPONENTS: dict[Family, str] = {"vit": "dinov3.ViT", "convnext": "dinov3.ConvNeXt"}
MODEL_TYPES: dict[Family, str] = {"vit": "dinov3_vit", "convnext": "dinov3_convnext"}

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAT_MEAN, SAT_STD = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)


@dataclass(frozen=True)
class ReleasedModel:
    """One released encoder.

    - `short`: the name in a recipe; `id`: the repository on the Hugging Face Hub.
    - `arch`: the fields of its transformers configuration that differ from that library's defaults, or that matter.
    - `timm`: its name in timm, whose repository on the Hub is `timm_id`.
    - `mean`, `std`: of RGB values in [0, 1], as in its training.
    """

    short: str
    id: str
    family: Family
    arch: dict[str, Any]
    timm: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def timm_id(self) -> str:
        return f"timm/{self.timm}"


def _make_vit(
    width: int, depth: int, heads: int, hidden: int, gated: bool = False, biases: bool = True
) -> dict[str, Any]:
    return {
        "patch_size": 16,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "query_bias": biases,
        "key_bias": False,
        "value_bias": biases,
        "num_register_tokens": 4,
        "layerscale_value": 1.0,
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0,
    }


def _make_convnext(width: int, third: int) -> dict[str, Any]:
    return {"hidden_sizes": [width, 2 * width, 4 * width, 8 * width], "depths": [3, 3, third, 3]}


_TIMM = {
    "vits16": "small",
    "vits16plus": "small_plus",
    "vitb16": "base",
    "vitl16": "large",
    "vith16plus": "huge_plus",
    "vit7b16": "7b",
}


def _make_model(short: str, arch: dict[str, Any], data: str = "lvd1689m") -> ReleasedModel:
    timm = f"{short.replace('-', '_')}.dinov3_{data}"
    if short in _TIMM:
        biases = "_qkvb" if arch["query_bias"] else ""  # timm has a net with and one without biases of query and value
        timm = f"vit_{_TIMM[short]}_patch16_dinov3{biases}.{data}"
    family: Family = "vit" if short in _TIMM else "convnext"
    name, mean, std = (
        (short, IMAGENET_MEAN, IMAGENET_STD) if data == "lvd1689m" else (f"{short}-sat", SAT_MEAN, SAT_STD)
    )
    return ReleasedModel(name, f"facebook/dinov3-{short}-pretrain-{data}", family, arch, timm, mean, std)


KNOWN = (
    _make_model("vits16", _make_vit(384, 12, 6, 1536)),
    _make_model("vits16plus", _make_vit(384, 12, 6, 1536, gated=True)),
    _make_model("vitb16", _make_vit(768, 12, 12, 3072)),
    _make_model("vitl16", _make_vit(1024, 24, 16, 4096)),
    _make_model("vith16plus", _make_vit(1280, 32, 20, 5120, gated=True)),
    _make_model("vit7b16", _make_vit(4096, 40, 32, 8192, gated=True, biases=False)),
    _make_model("vitl16", _make_vit(1024, 24, 16, 4096), "sat493m"),
    _make_model("vit7b16", _make_vit(4096, 40, 32, 8192, gated=True, biases=False), "sat493m"),
    _make_model("convnext-tiny", _make_convnext(96, 9)),
    _make_model("convnext-small", _make_convnext(96, 27)),
    _make_model("convnext-base", _make_convnext(128, 27)),
    _make_model("convnext-large", _make_convnext(192, 27)),
)

BY_NAME = {name: known for known in KNOWN for name in (known.short, known.id)}


_NO_BIASES = {"query_bias": False, "value_bias": False}
BY_TIMM_NAME = {known.timm: known for known in KNOWN} | {
    known.timm.replace("_qkvb", ""): replace(known, arch=known.arch | _NO_BIASES, timm=known.timm.replace("_qkvb", ""))
    for known in KNOWN
    if "_qkvb" in known.timm
}
