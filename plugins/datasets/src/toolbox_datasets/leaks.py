"""A recipe whose training and validation data were carved in two different ways would share images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolbox.plugin import Problem

CARVING = {
    "datasets.HF": {"seed": 42, "val_share": 0.1, "test_share": 0.2, "parts": None, "config": None, "revision": None},
    "datasets.Food101": {"seed": 42, "val_share": 0.1},
    "datasets.CIFAR10": {"seed": 42, "val_share": 0.1},
    "datasets.ImageNet": {"seed": 42, "val_share": 0.1},
    "datasets.ImageFolder": {"divide": "classes", "seed": 42, "val_share": 0.1, "test_share": 0.2, "extensions": None},
}
"""{dataset: what its splits are carved by, with the defaults}."""

OWN_TEST = ("datasets.Food101", "datasets.CIFAR10", "datasets.ImageNet")
"""Datasets whose "test" is never carved."""


def problems(config: Mapping[str, Any]) -> list[Problem]:
    """Arguments in which two datasets of a recipe differ that read the same data and divide them by images."""
    found: list[Problem] = []
    given = {place: (config.get(place) or {}).get("dataset") for place in
             ("train_dataloader", "val_dataloader", "test_dataloader")}  # fmt: skip
    train = given.pop("train_dataloader")
    for place, other in given.items():
        if not isinstance(train, Mapping) or not isinstance(other, Mapping) or not same_data(train, other):
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
    return all(train.get(name) == other.get(name) for name in ("root", "name"))
