"""Lines that describe a run: its data, and the task that a command begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolbox.base import Dataset
from toolbox.base.image_files import format_ending_counts
from toolbox.engine.device import choose_device
from toolbox.engine.distributed.rank_info import RankInfo
from toolbox.registry import get_catalog

SHOWN = 2


def describe_data(datasets: Mapping[str, Dataset]) -> str:
    """Classes, items of each split and ignored files of datasets by split, such as:

        10 classes (airplane, automobile, ...), 1,500 train / 300 val / 300 test images, 12 files ignored (.heic)

    Where splits have other classes, these are counted one by one too.
    """
    sizes = " / ".join(f"{len(dataset):,} {name}" for name, dataset in datasets.items())
    units = list(dict.fromkeys(dataset.unit for dataset in datasets.values()))
    parts = [_classes(datasets), f"{sizes} {units[0] if len(units) == 1 else 'items'}", _ignored(datasets.values())]
    return ", ".join(part for part in parts if part)


def count_data(datasets: Mapping[str, Dataset]) -> dict[str, dict[str, int | None]]:
    """The same for results: {split: {"items", "classes"}}."""
    return {
        name: {"items": len(dataset), "classes": None if dataset.classes is None else len(dataset.classes)}
        for name, dataset in datasets.items()
    }


def _classes(datasets: Mapping[str, Dataset]) -> str:
    named = {name: [str(c) for c in dataset.classes] for name, dataset in datasets.items() if dataset.classes}
    if not named:
        return ""
    different = list({tuple(names) for names in named.values()})
    first = next(iter(named.values()))
    shown = f"({', '.join(first[:SHOWN])}{', ...' if len(first) > SHOWN else ''})"
    if len(different) == 1:
        return f"{len(first):,} {'class' if len(first) == 1 else 'classes'} {shown}"
    return " / ".join(f"{len(names):,} {name}" for name, names in named.items()) + f" classes {shown}"


def _ignored(datasets: Iterable[Dataset]) -> str:
    folders: dict[str, Mapping[str, int]] = {}
    for dataset in datasets:
        folders |= dataset.ignored_files()  # splits of one folder have left out the same files
    ignored = sum((Counter(endings) for endings in folders.values()), Counter())
    if not ignored:
        return ""
    (only, *more) = ignored
    listed = format_ending_counts(ignored) if more or not only else only
    return f"{ignored.total():,} {'file' if ignored.total() == 1 else 'files'} ignored ({listed})"


def describe_task(recipe: Mapping[str, Any], splits: Sequence[str], place: RankInfo) -> str:
    """Data, model and device of a recipe, such as:

        datasets.ImageFolder my_images, with retrieval.Embedder (dinov3.ViT vits16 lora), on cpu

    - `recipe`: complete.
    - `splits`: whose datasets are named, of "train", "val" and "test"; equal ones once.
    - `place`: this process's among several.
    """
    device = choose_device(recipe["env_cfg"]["device"], place)
    loaders = [recipe.get(f"{split}_dataloader") for split in splits]
    datasets = dict.fromkeys(_name(loader["dataset"]) for loader in loaders if loader)
    model = recipe["model"]
    encoders = ", ".join(dict.fromkeys(_encoders(model)))
    what = f"{model['type']} ({encoders})" if encoders else str(model["type"])
    return f"{', '.join(datasets)}, with {what}, on {device}"


def _name(component: Mapping[str, Any]) -> str:
    """A component's type and the first text among its arguments: a folder, a file, a name."""
    texts = (value for key, value in component.items() if key not in ("type", "split") and isinstance(value, str))
    return " ".join([str(component["type"]), *list(texts)[:1]])


def _encoders(node: Any) -> list[str]:
    """The backbones of a model, with how they are tuned."""
    if isinstance(node, list):
        return [text for item in node for text in _encoders(item)]
    if not isinstance(node, Mapping):
        return []
    kinds = {entry.fullname: entry.kind for entry in get_catalog().entries}
    if kinds.get(node.get("type", "")) == "backbone":
        tune = node.get("tune")
        return [f"{_name(node)} {tune['mode']}" if isinstance(tune, Mapping) and "mode" in tune else _name(node)]
    return [text for item in node.values() for text in _encoders(item)]
