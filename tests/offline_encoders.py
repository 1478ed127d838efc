"""Tiny stand-ins for encoders whose configuration is read from the Hub, for checks of the recipes that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def _stand_in(place: str, **arch: Any) -> dict[str, Any]:
    return {f"{place}.name": None, f"{place}.arch": arch | _TINY}


_STAND_INS = {
    "multi_text_clip": _stand_in("model.text.mpnet.backbone", model_type="mpnet", max_position_embeddings=514),
    "siglip_finetune": {
        **_stand_in("model.vision.image.backbone", model_type="siglip_vision_model", patch_size=16),
        **_stand_in("model.text.text.backbone", model_type="siglip_text_model", projection_size=32),
    },
}


def stand_in_for_hub(recipe: Path) -> dict[str, Any]:
    """The overrides that a recipe needs where the Hub cannot be reached; none for most, and for the demos."""
    return {} if recipe.parent.name == "demo" else _STAND_INS.get(recipe.stem, {})
