"""From a recipe to a model whose weights are in place."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from toolbox.base import Augment, Backbone, Mix, Model
from toolbox.engine import quantizing
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import loading
from toolbox.engine.checkpoint.transfer import chosen
from toolbox.engine.device import seed_everything
from toolbox.engine.parts import backbones
from toolbox.errors import Problem, ToolboxError, place_backbone_keys
from toolbox.registry import build, get_catalog
from toolbox.utils import hub


def build_structure(recipe: dict[str, Any], classes: int | None) -> Model:
    """The model of a recipe, without pretrained weights and before `tune`."""
    model = build(recipe["model"], "model", where="model")
    try:
        model.connect(classes)
    except ValueError as error:
        raise ToolboxError(str(error), where="model") from error
    return model


def build_model(
    recipe: dict[str, Any],
    *,
    seed: int,
    classes: int | None,
    checkpoint: checkpoints.Checkpoint | None = None,
    training: bool = True,
    images: quantizing.Images | None = None,
    structure: Model | None = None,
) -> Model:
    """The model of a recipe, ready to train or to encode.

    - `seed`: of new weights.
    - `classes`: the training set's number of classes, None if unlabelled.
    - `checkpoint`: whose tensors to load; pretrained weights that it overwrites are not loaded at all.
    - `training`: False for a model that only encodes: without a teacher and what else is `training_only`.
    - `images`: as of `quantizing.apply`.
    - `structure`: the same model on torch's meta device, where somebody has built it already.
    """
    recipe = recipe if training else _to_encode(recipe)
    if structure is None:
        with torch.device("meta"):
            structure = build_structure(recipe, classes)
    for path, backbone in backbones(structure).items():  # a large model takes long to build: first look what is missing
        if _brings_weights(path, checkpoint):
            _call(backbone.find_weights, path)
    seed_everything(seed)
    model = build_structure(recipe, classes)
    model.seed = seed
    for path, backbone in backbones(model).items():
        if _brings_weights(path, checkpoint):
            _call(backbone.load_weights, path)
    plain = loading.load_plain(model, checkpoint) if checkpoint is not None else set()
    seed_everything(seed + 1)  # loading may have drawn from the generator
    coming = {path for path in backbones(model) if not _brings_weights(path, checkpoint)} - plain
    apply_tuning(model, images, coming)
    model.weights_ready()
    if checkpoint is not None:
        loading.load_into(model, checkpoint)
    return model


def weight_problems(recipe: dict[str, Any]) -> list[Problem]:
    """Why the pretrained weights of a recipe would not load: not to be had, damaged, of other shapes.

    Downloads nothing. What is here is loaded to see whether it fits, up to `_LARGEST` bytes of parameters.
    """
    problems = []
    with torch.device("meta"):
        structure = build(recipe["model"], "model", where="model")
    for path, backbone in backbones(structure).items():
        if backbone.weights_id is None:
            continue
        try:
            with hub.forbid_downloads():
                backbone.find_weights()
                if sum(p.numel() * p.element_size() for p in backbone.parameters()) <= _LARGEST:
                    backbones(build(recipe["model"], "model", where="model"))[path].load_weights()
        except hub.DownloadNeeded:
            continue  # it is downloaded when the run starts
        except (OSError, ValueError) as error:
            problems.append(Problem(place_backbone_keys(str(error), f"model.{path}"), f"model.{path}"))
    return problems


_LARGEST = 2 << 30


def pretrained(recipe: dict[str, Any], classes: int | None, names: set[str]) -> dict[str, Tensor]:
    """The pretrained values of backbone tensors, by their names in `state_dict` after `tune`, on the CPU."""
    model = build_structure(_to_encode(recipe), classes)
    for path, backbone in backbones(model).items():
        if any(name.startswith(f"{path}.") for name in names):
            _call(backbone.load_weights, path)
    apply_tuning(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def _to_encode(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without what its model needs in training only."""
    model_class = get_catalog().resolve(recipe["model"]["type"], "model")
    unused = model_class.training_only if issubclass(model_class, Model) else ()
    return recipe | {"model": {key: value for key, value in recipe["model"].items() if key not in unused}}


def build_augment(config: dict[str, Any] | None) -> Augment | dict[str, Augment] | None:
    """The augmentation of a dataloader: one for all inputs, or {input name: one}; None for none."""
    where = "train_dataloader.augment"
    if not config:
        return None
    if "type" in config:
        return build(config, "augment", where=where)
    return {name: build(item, "augment", where=f"{where}.{name}") for name, item in config.items()}


def build_mix(config: dict[str, Any] | None) -> Mix | None:
    """What mixes the images of a dataloader, None for none."""
    return build(config, "mix", where="train_dataloader.mix") if config else None


def _brings_weights(path: str, checkpoint: checkpoints.Checkpoint | None) -> bool:
    """Whether a backbone's own weights are needed: a checkpoint has everything but frozen pretrained tensors."""
    return checkpoint is None or not chosen(path, checkpoint.parts) or path in checkpoint.frozen


def _call(action: Callable[[], None], path: str) -> None:
    """Find or load weights; a failure names the part."""
    try:
        action()
    except (OSError, ValueError) as error:
        raise ToolboxError(place_backbone_keys(str(error), f"model.{path}"), where=f"model.{path}") from error


def keeps_norm_stats(backbone: Backbone) -> bool:
    """Whether batch norms that train keep their running statistics: as `tune` says, else if they are pretrained."""
    setting = None if backbone.tune is None else backbone.tune.norm_stats
    return backbone.weights_id is not None if setting is None else setting == "frozen"


def kept_norms(model: Model) -> list[str]:
    """Paths of the backbones that train, whose batch norms keep their running statistics."""
    return [
        path
        for path, backbone in backbones(model).items()
        if backbone.batch_norms() and not backbone.frozen and keeps_norm_stats(backbone)
    ]


def norm_notes(model: Model) -> list[str]:
    """What the batch norms of backbones that train do with their statistics."""
    notes = []
    for path, backbone in backbones(model).items():
        count = len(backbone.batch_norms())
        if not count or backbone.frozen:
            continue
        here = f"model.{path}" if path else "model"
        if keeps_norm_stats(backbone):
            other = " in what trains" if backbone.tune is not None else ""
            notes.append(
                f"The {count} batch norms of {here} keep their running statistics; {here}.tune.norm_stats='train' "
                f"updates them{other}."
            )
        else:
            notes.append(
                f"The batch norms of {here} that train normalise by each batch and update their running statistics; "
                f"{here}.tune.norm_stats='frozen' keeps them, which small batches need."
            )
    return notes


def apply_tuning(model: Model, images: quantizing.Images | None = None, unknown: Collection[str] = ()) -> None:
    """Apply every backbone's `quantize`, `tune` and `gradient_checkpointing`.

    - `images`, `unknown`: as of `quantizing.apply`.
    """
    for backbone in backbones(model).values():
        backbone.plain = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    quantizing.apply(model, images, unknown)
    for path, backbone in backbones(model).items():
        try:
            if backbone.tune is not None:
                backbone.tune.apply(backbone)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, ValueError):
                raise ToolboxError(str(error), where=f"model.{path}.tune") from error
            if backbone.quantized is None:
                raise
            # torch refuses gradients for whole numbers, which the check below says better
        if keeps_norm_stats(backbone):
            backbone.freeze_norm_stats()
        quantizing.check_untrained(path, backbone)
        if backbone.gradient_checkpointing:
            if "checkpointing" not in backbone.abilities:
                raise ToolboxError(
                    f"{type(backbone).__name__} cannot recompute activations.",
                    where=f"model.{path}.gradient_checkpointing",
                    hint="Remove the key.",
                )
            backbone.enable_checkpointing()
