"""A recipe of one encoder, used with another one: what the other lacks is left out, and noted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from toolbox.base import Backbone
from toolbox.errors import ToolboxError
from toolbox.registry import SLOT_KEYS, build, get_catalog, read_parameters
from toolbox.utils.key_paths import copy_plain, get_value, is_within


def adapt_recipe(
    recipe: dict[str, Any], overridden: Collection[str], original: Mapping[str, Any] | None = None
) -> list[str]:
    """Fit a recipe, in place, to backbones that overrides have replaced; returns notes on what is left out.

    - `overridden`: the paths of all overrides. `path.type`, or `path` itself, replaces the backbone at `path`; what
      another override sets is kept, so that a mistake in it is an error.
    - `original`: the recipe before them, as far as known: a backbone of the same type keeps its arguments.
    """
    notes: list[str] = []
    backbones = {entry.fullname for entry in get_catalog().find("backbone")}
    for path in dict.fromkeys(name.removesuffix(".type") for name in overridden):
        node = get_value(recipe, path)
        if not isinstance(node, dict) or node.get("type") not in backbones:
            continue
        overrides = {name for name in overridden if name.startswith(f"{path}.")}
        if f"{path}.type" in overridden and node["type"] != get_value(original, f"{path}.type"):
            notes += _drop_arguments(node, path, overrides)
        notes += _drop_start(recipe, path, overridden)
        try:
            with torch.device("meta"):
                backbone = build(copy_plain(node), "backbone", where=path)
        except (ToolboxError, OSError, ValueError):
            continue  # the check of the recipe says it
        notes += _fit_slots(node, path, overrides, backbone)
        notes += _drop_blocks(recipe, path, overridden, backbone)
    return notes


def _drop_arguments(node: dict[str, Any], path: str, overrides: set[str]) -> list[str]:
    """Drop what the new component has no argument for; `arch` is in the words of the old one."""
    parameters = read_parameters(get_catalog().resolve(node["type"], "backbone"))
    known = {parameter.name for parameter in parameters} - {"arch"} | {"type", *SLOT_KEYS.get("backbone", {})}
    gone = [key for key in node if key not in known and not any(is_within(name, f"{path}.{key}") for name in overrides)]
    for key in gone:
        del node[key]
    return [f"{path}.{key} is left out: it is an argument of the recipe's own encoder." for key in gone]


def _drop_start(recipe: dict[str, Any], path: str, overridden: Collection[str]) -> list[str]:
    """Drop `load_parts` of the encoder that is gone."""
    parts = recipe.get("load_parts")
    if not isinstance(parts, list | dict) or {"load_from", "load_parts"} & set(overridden):
        return []
    kept: Any = [part for part in parts if not is_within(part, path)]
    if len(kept) == len(parts):
        return []
    if isinstance(parts, dict):
        kept = {part: parts[part] for part in kept}
    recipe["load_parts"] = kept or None
    if kept:
        return [f"load_parts leaves out {path}: that checkpoint is of another encoder."]
    start = recipe.pop("load_from", None)
    recipe.pop("load_parts")
    return [f"load_from={start!r} is left out: that checkpoint is of another encoder than {path}."]


def _fit_slots(node: dict[str, Any], path: str, overrides: set[str], backbone: Backbone) -> list[str]:
    """Fit `tune`, `quantize` and `gradient_checkpointing` to the layers that there are."""
    notes, name = [], type(backbone).__name__
    layers = backbone.layers()
    inside = [(key, part) for layer in layers for key, part in layer.named_modules() if isinstance(part, nn.Linear)]
    tune = node.get("tune")
    if isinstance(tune, dict):
        if tune.get("mode") == "lora" and not inside and f"{path}.tune.mode" not in overrides:
            kept = {key: value for key, value in tune.items() if f"{path}.tune.{key}" in overrides}
            node["tune"] = kept | {"mode": "last"}
            notes.append(f"{path}.tune.mode is 'last' instead of 'lora': this {name} has no linear layers to adapt.")
        elif isinstance(tune.get("targets"), list) and f"{path}.tune.targets" not in overrides:
            leaves = {key.rpartition(".")[2] for key, _ in inside}
            if absent := [target for target in tune["targets"] if target not in leaves]:
                del tune["targets"]
                notes.append(f"{path}.tune.targets is left out: this {name} has no {', '.join(absent)}.")
        if isinstance(tune.get("last"), int) and tune["last"] > len(layers) and f"{path}.tune.last" not in overrides:
            tune["last"] = len(layers)
            notes.append(f"{path}.tune.last is {len(layers)}: this {name} has no more blocks.")
    if (
        node.get("quantize") is not None
        and not inside
        and not any(is_within(key, f"{path}.quantize") for key in overrides)
    ):
        del node["quantize"]
        notes.append(f"{path}.quantize is left out: this {name} has no linear layers.")
    key = f"{path}.gradient_checkpointing"
    if node.get("gradient_checkpointing") and "checkpointing" not in backbone.abilities and key not in overrides:
        del node["gradient_checkpointing"]
        notes.append(f"{key} is left out: this {name} cannot recompute activations.")
    return notes


def _drop_blocks(recipe: dict[str, Any], path: str, overridden: Collection[str], backbone: Backbone) -> list[str]:
    """Drop what a probe reads of more last blocks than the encoder gives."""
    owner = path.rpartition(".")[0]
    model, where = get_value(recipe, owner), f"{owner}.inputs"
    inputs = model.get("inputs") if isinstance(model, dict) else None
    if not isinstance(inputs, list) or any(is_within(name, where) for name in overridden):
        return []
    most = len(backbone.layers()) if "layers" in backbone.abilities else 1
    gone = [text for text in inputs if str(text).partition(":")[2].isdigit() and int(text.partition(":")[2]) > most]
    if not gone:
        return []
    model["inputs"] = [text for text in inputs if text not in gone] or ["cls"]
    gives = "its last block alone" if most == 1 else f"{most} blocks"
    return [f"{where} leaves out {', '.join(gone)}: this {type(backbone).__name__} gives {gives}."]
