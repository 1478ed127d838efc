"""What a command is about to do, in one line: with which data, model and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolbox.engine.device import choose_device
from toolbox.engine.distributed.rank_info import RankInfo
from toolbox.registry import catalog


def describe_task(recipe: Mapping[str, Any], splits: Sequence[str], place: RankInfo) -> str:
    """Data, model and device of a recipe, such as:

        datasets.ImageFolder my_pictures, with retrieval.Embedder (dinov3.ViT vits16 lora), on cpu

    - `recipe`: complete.
    - `splits`: whose datasets are named, of "train", "val" and "test"; equal ones once.
    - `place`: this process's among several.
    """
    device = choose_device(recipe["env_cfg"]["device"], place)
    loaders = [recipe.get(f"{split}_dataloader") for split in splits]
    datasets = dict.fromkeys(_named(loader["dataset"]) for loader in loaders if loader)
    model = recipe["model"]
    encoders = ", ".join(dict.fromkeys(_encoders(model)))
    what = f"{model['type']} ({encoders})" if encoders else str(model["type"])
    return f"{', '.join(datasets)}, with {what}, on {device}"


def _named(component: Mapping[str, Any]) -> str:
    """A component's type and the first text among its arguments: a folder, a file, a name."""
    texts = (value for key, value in component.items() if key not in ("type", "split") and isinstance(value, str))
    return " ".join([str(component["type"]), *list(texts)[:1]])


def _encoders(node: Any) -> list[str]:
    """The backbones of a model, with how they are tuned."""
    if isinstance(node, list):
        return [text for item in node for text in _encoders(item)]
    if not isinstance(node, Mapping):
        return []
    kinds = {entry.fullname: entry.kind for entry in catalog().entries}
    if kinds.get(node.get("type", "")) == "backbone":
        tune = node.get("tune")
        return [f"{_named(node)} {tune['mode']}" if isinstance(tune, Mapping) and "mode" in tune else _named(node)]
    return [text for item in node.values() for text in _encoders(item)]
