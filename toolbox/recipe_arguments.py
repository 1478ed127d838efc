"""What `data` and `model` mean for a recipe: the keys that its `arguments` name, and another encoder where need be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolbox.config import to_dict
from toolbox.errors import ToolboxError
from toolbox.loading import find_component, find_model_kind, takes_name
from toolbox.registry import get_catalog
from toolbox.utils.key_paths import get_value


def make_overrides(
    config: Mapping[str, Any], *, data: str | Path | None = None, model: str | Path | None = None
) -> dict[str, Any]:
    """The overrides that `data` and `model` stand for in a loaded recipe, `{"a.b": value}`.

    - `data`: a folder, or a name that the recipe's dataset takes; it becomes the value of the key `arguments.data`.
    - `model`: the name, id or folder of an encoder, which becomes the value of the key `arguments.model`. Where the
      recipe's component has none of that name, the first one that has takes its place.

    Raises ToolboxError where the recipe does not say which key that is, an override sets it too, or no encoder has
    that name.
    """
    names = {"data": data, "model": model}
    overrides: dict[str, Any] = {}
    for key, name in find_keys(config, names).items():
        if key in getattr(config, "overridden", ()):
            raise ToolboxError(f"`{name}` sets {key}, and so does another override.", hint="Leave one of them out.")
        overrides[key] = str(names[name])
    if model is not None:
        overrides |= _replace_component(to_dict(config), _get_key(config, "model"), str(model))
    return overrides


def find_keys(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, str]:
    """{key of the recipe: "data" or "model"} of those that are set. Raises ToolboxError as `make_overrides`."""
    return {_get_key(config, name): name for name, value in arguments.items() if value is not None}


def _get_key(config: Mapping[str, Any], name: str) -> str:
    keys = config.get("arguments")
    key = keys.get(name) if isinstance(keys, Mapping) else None
    if not isinstance(key, str):
        raise ToolboxError(
            f"This recipe does not say which key `{name}` sets.",
            where=str(getattr(config, "filename", "") or ""),
            hint="Set the key itself; a recipe of your own says it by `arguments` (docs/configs.md).",
        )
    return key


def _replace_component(recipe: dict[str, Any], key: str, model: str) -> dict[str, str]:
    """The component to put in the place of the one that `key` belongs to, where that has no encoder called `model`."""
    owner, _, last = key.rpartition(".")
    node = get_value(recipe, owner)
    current = node.get("type") if isinstance(node, dict) else None
    backbones = [entry.fullname for entry in get_catalog().find("backbone")]
    if last != "name" or current not in backbones or takes_name(current, model):
        return {}
    if Path(model).exists() and find_model_kind(model) == "checkpoint":
        raise ToolboxError(
            f"{model} is a checkpoint, and `model` names an encoder.",
            hint=f"To start from it, set the override load_from={model}.",
        )
    try:
        return {f"{owner}.type": find_component(model)}
    except ToolboxError as error:
        raise ToolboxError(f"No encoder here is called '{model}'.", hint=error.problems[0].hint) from error
