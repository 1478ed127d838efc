"""The pairs of an image tower and a text tower that a model compares, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from toolbox.utils.tower import Tower


def check_names(vision: Mapping[str, Tower], text: Mapping[str, Tower]) -> None:
    """Raise ValueError unless both sides have towers of their modality, with names that can be told apart."""
    for side, modality, towers in (("vision", "image", vision), ("text", "text", text)):
        if not towers:
            raise ValueError(f"{side} has no tower: a dual encoder has one or more on either side.")
        for name, tower in towers.items():
            if not name.isidentifier():
                raise ValueError(f"{side} has a tower called {name!r}: use letters, digits and underscores.")
            if tower.backbone.modality != modality:
                kind = type(tower.backbone).__name__
                raise ValueError(
                    f"{side}.{name} reads {tower.backbone.modality}s ({kind}), and {side} takes towers of {modality}s."
                )
            if tower.pool.keeps_tokens:
                raise ValueError(f"{side}.{name} keeps tokens, and towers are compared by one vector: try pool='mean'.")
    if both := sorted(vision.keys() & text.keys()):
        raise ValueError(f"vision and text both have a tower called {both[0]!r}: inputs need different names.")


def list_pairs(vision: Mapping[str, Tower], text: Mapping[str, Tower]) -> dict[str, tuple[str, str]]:
    """{"IMAGE-TEXT": (name of the image tower, name of the text tower)}, each with each."""
    return {f"{image}-{words}": (image, words) for image in vision for words in text}


def read_weights(weights: Mapping[str, float] | None, pairs: Mapping[str, object]) -> dict[str, float]:
    """The weight of each pair, 1 where nothing is said. Raises ValueError for others, and where all are 0."""
    weights = dict(weights or {})
    if unknown := sorted(set(weights) - set(pairs)):
        raise ValueError(f"weights names the pair {unknown[0]!r}, and there are: {', '.join(pairs)}.")
    for pair, weight in weights.items():
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"the weight of {pair} is {weight}, and a weight is a number of at least 0.")
    complete = {pair: float(weights.get(pair, 1.0)) for pair in pairs}
    if not any(complete.values()):
        raise ValueError("all pairs have the weight 0: nothing would be compared.")
    return complete
