"""A recipe must not judge on its training images: the same split, or splits that were carved in two different ways."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from toolbox.plugin import Problem
from toolbox_datasets.hf_source import FULL_NAMES

CARVING = {
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


def problems(config: Mapping[str, Any]) -> list[Problem]:
    """Splits that share images, and arguments in which two datasets of a recipe divide the same images differently."""
    found: list[Problem] = []
    given = {place: (config.get(place) or {}).get("dataset") for place in
             ("train_dataloader", "val_dataloader", "test_dataloader")}  # fmt: skip
    train = given.pop("train_dataloader")
    for place, other in given.items():
        if not isinstance(train, Mapping) or not isinstance(other, Mapping) or not same_data(train, other):
            continue
        if shared := same_split(train, other):
            found.append(
                Problem(f"{shared}: it would judge on images that were trained on.", f"{place}.dataset.split",
                        "Give each its own, such as split='train' and split='val'.")
            )  # fmt: skip
            continue
        if train["type"] in OWN_TEST and "test" in (train.get("split"), other.get("split")):
            continue
        for name, default in CARVING[train["type"]].items():
            one, two = train.get(name, default), other.get(name, default)
            if one != two:
                found.append(
                    Problem(
                        f"It is {two!r}, and in train_dataloader.dataset {one!r}: the two would divide the same "
                        "images differently, and some would be in both.",
                        f"{place}.dataset.{name}",
                        "Give both the same.",
                    )
                )
    return found


def same_data(train: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both read one dataset, divided by images."""
    kind = train.get("type")
    if kind not in CARVING or other.get("type") != kind:
        return False
    if kind == "datasets.ImageFolder" and "images" not in (train.get("divide"), other.get("divide")):
        return False
    return all(as_place(train.get(name)) == as_place(other.get(name)) for name in ("root", "name"))


def as_place(name: Any) -> Any:
    """A folder or name, however it is written."""
    if not isinstance(name, str | os.PathLike):
        return name
    full = FULL_NAMES.get(os.fspath(name), os.fspath(name))
    return os.path.abspath(os.path.expanduser(full))


def same_split(train: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In words, why two datasets of the same data hold the same images; empty where they do not."""
    if any(train.get(name) != other.get(name) for name in NARROWING):
        return ""
    default = "all" if train["type"] == "datasets.ImageFolder" else "train"
    one, two = train.get("split", default), other.get("split", default)
    if one == two:
        return f"It is the split {two!r}, as train_dataloader.dataset is"
    if "all" in (one, two):
        return f"It is the split {two!r}, and train_dataloader.dataset {one!r}"
    return ""
