"""Which towers of a model can be stored, and why a recipe's `features` are refused."""

from __future__ import annotations

from typing import Any

from torch import nn

from toolbox.base import Model, PooledBackbone
from toolbox.errors import Problem


def list_cacheable(model: Model) -> dict[str, PooledBackbone]:
    """The towers in which nothing trains, by input."""
    return {name: tower for name, tower in model.pooled_backbones().items() if not _trained(tower)}


def problems(recipe: dict[str, Any], model: Model) -> list[Problem]:
    """Why the features of a model, tuned and ready to train, cannot be stored as its recipe wants."""
    where = "features"
    if recipe.get("features") is None:
        return []
    towers, frozen = model.pooled_backbones(), list_cacheable(model)
    if not towers:
        return [Problem(f"{type(model).__name__} names no towers whose features could be stored.", where, "Remove it.")]
    if not frozen:
        parts = {name: ", ".join(_trained(tower)[:2]) for name, tower in towers.items()}
        listed = "; ".join(f"'{name}' trains {names}" for name, names in parts.items())
        hint = "Freeze the backbone, tune=dict(mode='frozen'), with a pool that learns nothing; or remove features."
        return [Problem(f"Only what stays the same can be stored: {listed}.", where, hint)]
    model.train()
    found = []
    for name, tower in frozen.items():
        if any(module.training for module in tower.backbone.modules()) or _drops(tower.pool):
            found.append(
                Problem(
                    f"The tower '{name}' is in training mode, where dropout and drop path change its features.",
                    where,
                    "Freeze it for good: tune=dict(mode='frozen') on the backbone, or its freeze() in the model.",
                )
            )
        if tower.pool.keeps_tokens:
            message = f"The pool of '{name}' keeps tokens, and a store holds one vector an item."
            hint = "Set a pool that gives one vector, such as 'cls' or 'mean'; or remove features."
            found.append(Problem(message, where, hint))
    loader = recipe["train_dataloader"]
    if loader.get("mix"):
        hint = "Remove train_dataloader.mix, or features: mixed images are new ones at every draw."
        found.append(Problem("Stored features cannot be mixed as images are.", "train_dataloader.mix", hint))
    return found + _views(recipe, model, frozen)


def notes(recipe: dict[str, Any], model: Model, items: dict[str, int]) -> list[str]:
    """What a user should know of the features that would be stored.

    - `items`: of each dataset, by its name.
    """
    if recipe.get("features") is None:
        return []
    frozen, settings = list_cacheable(model), recipe["features"]
    found = []
    if live := sorted(model.pooled_backbones().keys() - frozen.keys()):
        found.append(f"features: what trains is computed as ever: {', '.join(live)}.")
    width = sum(tower.pool.dim(tower.backbone.dim) for tower in frozen.values())
    number = 4 if settings["dtype"] == "fp32" else 2
    size = sum(count * (settings["views"] or 1 if name == "train" else 1) for name, count in items.items())
    counted = ", ".join(f"{name} {count:,}" for name, count in items.items())
    total = size * width * number
    more = (
        ", more where items have several texts" if any(t.backbone.modality == "text" for t in frozen.values()) else ""
    )
    found.append(
        f"features: {', '.join(frozen)} would be stored once in {settings['folder']}, {counted} items of {width} "
        f"numbers ({settings['dtype']}): {total:,} bytes ({total / 2**20:.1f} MiB) without what is there already{more}."
    )
    return found


def _views(recipe: dict[str, Any], model: Model, frozen: dict[str, PooledBackbone]) -> list[Problem]:
    augment, views = recipe["train_dataloader"]["augment"], recipe["features"]["views"]
    images = [name for name in frozen if model.preprocess()[name].size is not None]
    augmented = bool(augment) and ("type" in augment or any(name in augment for name in images)) and bool(images)
    if views is not None and views < 1:
        return [Problem(f"An item has at least one view, not {views}.", "features.views", "Give a number from 1 up.")]
    if augmented and views is None:
        message = "An augmentation makes new images at every draw, and these cannot all be stored."
        hint = "Set features.views to how many random views of each item to store, or train_dataloader.augment=None."
        return [Problem(message, "features", hint)]
    if views is not None and views > 1 and not augmented:
        hint = "Remove the key, or set train_dataloader.augment."
        return [Problem(f"Without an augmentation all {views} views are the same.", "features.views", hint)]
    return []


def _trained(tower: PooledBackbone) -> list[str]:
    """Names of what trains in a tower."""
    return [
        f"{part}.{name}"
        for part, module in (("backbone", tower.backbone), ("pool", tower.pool))
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]


def _drops(pool: nn.Module) -> bool:
    """Whether something random is on in a pool, whose modules follow the model's mode."""
    return any("drop" in type(module).__name__.lower() and module.training for module in pool.modules())
