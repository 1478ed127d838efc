"""Checks that a recipe does not evaluate on its training images, by one split or by splits carved in two ways."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from toolbox.plugin import Problem
from toolbox_datasets.hf_source import FULL_NAMES

CARVING: dict[str, dict[str, Any]] = {
    "datasets.HF": {"seed": 42, "val_share": 0.1, "test_share": 0.2, "parts": None, "config": None, "revision": None},
    "datasets.Food101": {"seed": 42, "val_share": 0.1},
    "datasets.CIFAR10": {"seed": 42, "val_share": 0.1},
    "datasets.ImageNet": {"seed": 42, "val_share": 0.1},
    "datasets.ImageFolder": {"divide": "classes", "seed": 42, "val_share": 0.1, "test_share": 0.2, "extensions": None},
}
"""{dataset: what its splits are carved by, with the defaults}."""

NARROWING = ("divide", "classes", "config", "revision", "parts", "extensions")
"""Arguments by which the same split of the same data may hold other images."""

OWN_TEST = ("datasets.Food101", "datasets.CIFAR10", "datasets.ImageNet")
"""Datasets whose "test" is never carved."""


def find_leaks(config: Mapping[str, Any]) -> list[Problem]:
    """Splits that share images, and arguments in which two datasets of a recipe divide the same images differently."""
    train = _get_dataset(config, "train_dataloader")
    problems: list[Problem] = []
    for place in ("val_dataloader", "test_dataloader"):
        other = _get_dataset(config, place)
        if isinstance(train, Mapping) and isinstance(other, Mapping) and read_same_data(train, other):
            problems += _compare_splits(train, other, place)
    return problems


def _get_dataset(config: Mapping[str, Any], place: str) -> Any:
    return (config.get(place) or {}).get("dataset")


def _compare_splits(train: Mapping[str, Any], other: Mapping[str, Any], place: str) -> list[Problem]:
    if overlap := describe_overlap(train, other):
        message = f"{overlap}: it would evaluate on images that were trained on."
        hint = "Give each its own, such as split='train' and split='val'."
        return [Problem(message, f"{place}.dataset.split", hint)]
    if train["type"] in OWN_TEST and "test" in (train.get("split"), other.get("split")):
        return []
    problems = []
    for name, default in CARVING[train["type"]].items():
        train_value, value = train.get(name, default), other.get(name, default)
        if train_value != value:
            message = (
                f"It is {value!r}, and in train_dataloader.dataset {train_value!r}: the two would divide the same "
                "images differently, and some would be in both."
            )
            problems.append(Problem(message, f"{place}.dataset.{name}", "Give both the same."))
    return problems


def read_same_data(train: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both read one dataset, divided by images."""
    component = train.get("type")
    if component not in CARVING or other.get("type") != component:
        return False
    if component == "datasets.ImageFolder" and "images" not in (train.get("divide"), other.get("divide")):
        return False
    return all(resolve_location(train.get(name)) == resolve_location(other.get(name)) for name in ("root", "name"))


def resolve_location(name: Any) -> Any:
    """A folder or name, however it is written."""
    if not isinstance(name, str | os.PathLike):
        return name
    full = FULL_NAMES.get(os.fspath(name), os.fspath(name))
    return os.path.abspath(os.path.expanduser(full))


def describe_overlap(train: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In words, why two datasets of the same data hold the same images; empty where they do not."""
    if any(train.get(name) != other.get(name) for name in NARROWING):
        return ""
    default = "all" if train["type"] == "datasets.ImageFolder" else "train"
    train_split, split = train.get("split", default), other.get("split", default)
    if train_split == split:
        return f"It is the split {split!r}, as train_dataloader.dataset is"
    if "all" in (train_split, split):
        return f"It is the split {split!r}, and train_dataloader.dataset {train_split!r}"
    return ""
