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


def _vit(width: int, depth: int, heads: int, hidden: int, gated: bool = False, biases: bool = True) -> dict[str, Any]:
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


def _convnext(width: int, third: int) -> dict[str, Any]:
    return {"hidden_sizes": [width, 2 * width, 4 * width, 8 * width], "depths": [3, 3, third, 3]}


_TIMM = {
    "vits16": "small",
    "vits16plus": "small_plus",
    "vitb16": "base",
    "vitl16": "large",
    "vith16plus": "huge_plus",
    "vit7b16": "7b",
}


def _web(short: str, family: Family, arch: dict[str, Any]) -> ReleasedModel:
    return ReleasedModel(
        short, f"facebook/dinov3-{short}-pretrain-lvd1689m", family, arch, _timm(short, arch, "lvd1689m")
    )


def _satellite(short: str, arch: dict[str, Any]) -> ReleasedModel:
    timm = _timm(short, arch, "sat493m")
    return ReleasedModel(
        f"{short}-sat", f"facebook/dinov3-{short}-pretrain-sat493m", "vit", arch, timm, SAT_MEAN, SAT_STD
    )


def _timm(short: str, arch: dict[str, Any], data: str) -> str:
    if short not in _TIMM:
        return f"{short.replace('-', '_')}.dinov3_{data}"
    biases = "_qkvb" if arch["query_bias"] else ""  # timm keeps a net with and one without biases of query and value
    return f"vit_{_TIMM[short]}_patch16_dinov3{biases}.{data}"


KNOWN = (
    _web("vits16", "vit", _vit(384, 12, 6, 1536)),
    _web("vits16plus", "vit", _vit(384, 12, 6, 1536, gated=True)),
    _web("vitb16", "vit", _vit(768, 12, 12, 3072)),
    _web("vitl16", "vit", _vit(1024, 24, 16, 4096)),
    _web("vith16plus", "vit", _vit(1280, 32, 20, 5120, gated=True)),
    _web("vit7b16", "vit", _vit(4096, 40, 32, 8192, gated=True, biases=False)),
    _satellite("vitl16", _vit(1024, 24, 16, 4096)),
    _satellite("vit7b16", _vit(4096, 40, 32, 8192, gated=True, biases=False)),
    _web("convnext-tiny", "convnext", _convnext(96, 9)),
    _web("convnext-small", "convnext", _convnext(96, 27)),
    _web("convnext-base", "convnext", _convnext(128, 27)),
    _web("convnext-large", "convnext", _convnext(192, 27)),
)

BY_NAME = {name: known for known in KNOWN for name in (known.short, known.id)}


def _without_biases(known: ReleasedModel) -> ReleasedModel:
    return replace(
        known, arch={**known.arch, "query_bias": False, "value_bias": False}, timm=known.timm.replace("_qkvb", "")
    )


BY_TIMM_NAME = {
    known.timm: known for known in (*KNOWN, *(_without_biases(known) for known in KNOWN if "_qkvb" in known.timm))
}
