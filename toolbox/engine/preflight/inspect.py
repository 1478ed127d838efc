"""Look at a recipe's structure on torch's meta device: parts, settings, shapes, memory; no weight is loaded."""

from __future__ import annotations

import difflib
from typing import Any

import torch

from toolbox.base import Model
from toolbox.engine import grad_cache, quantizing, speed
from toolbox.engine.assemble import apply_tuning, build_augment, build_structure, norm_notes
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import loading
from toolbox.engine.data import mixing
from toolbox.engine.device import choose_device, limit_images
from toolbox.engine.distributed import parallel
from toolbox.engine.feature_extraction import cacheable
from toolbox.engine.hooks import average, wise_ft
from toolbox.engine.memory import step_memory
from toolbox.engine.param_groups import decay_notes, parameter_groups, part_problems
from toolbox.engine.parts import adapted
from toolbox.engine.precision import Precision, eval_precision
from toolbox.engine.preflight import closed_set, first_batch, outputs
from toolbox.engine.preflight.datasets import items_of, look_at_data
from toolbox.engine.preflight.plan import Plan, noted, parts_of
from toolbox.engine.settings import Settings
from toolbox.errors import Problem, ToolboxError
from toolbox.registry import build


def inspect(recipe: dict[str, Any], *, data: bool = True) -> Plan:
    """The plan of a complete, validated recipe, with all problems that its structure and its data have.

    - `data`: also look at the datasets; without, only the model is inspected.
    """
    plan = Plan()
    settings = Settings(recipe)
    with noted(plan):
        limit_images(recipe)
    dataset, sampler = look_at_data(recipe, settings, plan) if data else (None, None)
    classes = None if dataset is None or dataset.classes is None else len(dataset.classes)
    about_data = len(plan.problems)
    if about_data or not data:
        classes = 2  # any number stands for that of data which nobody has looked at
    device = None
    with noted(plan):
        device = choose_device(settings("env_cfg.device"))
        Precision(settings("optim_wrapper.precision"), device)
        eval_precision(settings.recipe, device)
    try:
        with torch.device("meta"):
            model = build_structure(recipe, classes)
            apply_tuning(model)
            optimizer = build(recipe["optim_wrapper"]["optimizer"], "optimizer", where="optim_wrapper.optimizer")
            for item in settings.schedules():
                with noted(plan, "param_scheduler"):
                    _check_schedule(item, plan)
    except ToolboxError as error:
        plan.problems += error.problems
        return plan
    if data:
        plan.problems += [problem.under("model") for problem in model.check()]
        if dataset is not None and model.closed_set:
            found = closed_set.problems(recipe, dataset)
            plan.problems += found
            plan.notes += [] if found else closed_set.notes(dataset)
    plan.problems += _block_problems(model)
    names = _metric_names(recipe)
    for index, item in enumerate(recipe["custom_hooks"] or []):
        with noted(plan):
            hook = build(item, "hook", where=f"custom_hooks.{index}")
            plan.problems += [problem.under(f"custom_hooks.{index}") for problem in hook.check(names)]
    best = settings("default_hooks.checkpoint.save_best")
    if names and best != "auto" and best not in names:
        near = difflib.get_close_matches(best, names, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(names)}."
        where = "default_hooks.checkpoint.save_best"
        plan.problems.append(Problem(f"There is no validation metric '{best}'.", where, hint))
    if data and recipe["load_from"]:
        with noted(plan, "load_from"):
            checkpoint = checkpoints.start_of(recipe)
            if model.closed_set and dataset is not None:
                plan.problems += closed_set.other_start(checkpoint, dataset)
            if not about_data:  # else the model may not be as large as it will be
                found = loading.compare(model, checkpoint)
                plan.notes += [f"load_from: {found.summary()}."] if checkpoint.parts else []
    if settings("optim_wrapper.grad_cache"):
        plan.problems += grad_cache.problems(model)
    plan.problems += _augment_problems(recipe["train_dataloader"]["augment"], model)
    if recipe["train_dataloader"]["mix"]:
        plan.problems += mixing.problems(model, _views(recipe, model), sampler.blocks if sampler else 1)
        if sampler is not None:
            found, notes = mixing.pairs_of_one_class(sampler, dataset.labels)
            plan.problems, plan.notes = plan.problems + found, plan.notes + notes
    parts = settings("optim_wrapper.parts") or {}
    plan.problems += part_problems(model, parts, settings("optim_wrapper.layer_decay"))
    plan.problems += average.problems(settings("optim_wrapper.average"), plan.steps)
    plan.problems += wise_ft.problems(recipe, model)
    plan.problems += speed.problems(settings("env_cfg"))
    plan.problems += parallel.problems(settings("env_cfg.parallel"), optimizer)
    plan.problems += cacheable.problems(recipe, model)
    if device is not None:
        plan.problems += quantizing.problems(model, settings("optim_wrapper.precision"), settings("env_cfg"), device)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        plan.problems.append(
            Problem("Nothing would be trained: every part is frozen.", "model", "Add a head, or set a backbone's tune.")
        )
    if len(plan.problems) > about_data:
        return plan
    plan.notes += average.notes(settings("optim_wrapper.average"), plan.steps)
    plan.notes += speed.notes(model, settings("env_cfg"))
    if data and not plan.problems and recipe.get("features"):
        plan.notes += cacheable.notes(recipe, model, items_of(recipe))
    plan.notes += quantizing.notes(model)
    groups = parameter_groups(
        model,
        optimizer,
        parts,
        settings("optim_wrapper.decay_one_dim"),
        settings("optim_wrapper.layer_decay"),
        settings("optim_wrapper.decay_tokens"),
    )
    plan.notes += norm_notes(model)
    plan.notes += decay_notes(model, groups, optimizer.weight_decay)
    plan.parts = parts_of(model, {name: group for group in groups for name in group.params})
    views = _views(recipe, model)
    _shapes_and_memory(settings, model, views, plan)
    if sampler is not None and not plan.problems:
        plan.problems += first_batch.problems(model, dataset, sampler, views)
    if data and not plan.problems:
        found, notes = outputs.look(recipe, settings, model)
        plan.problems, plan.notes = plan.problems + found, plan.notes + notes
    return plan


def _metric_names(recipe: dict[str, Any]) -> list[str] | None:
    """The names of the validation metrics; None if one of them does not tell."""
    evaluators = recipe["val_evaluator"] or []
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    names = [build(item, "metric", where="val_evaluator").names() for item in evaluators]
    return None if None in names else [name for found in names for name in found]


def _check_schedule(item: dict[str, Any], plan: Plan) -> None:
    schedule = build(item, "schedule", where="param_scheduler")
    if plan.steps:
        for step in (0, plan.steps - 1):
            schedule.factor(step, plan.steps)


def _augment_problems(augment: dict[str, Any] | None, model: Model) -> list[Problem]:
    """Augmentations by input name that would never be used."""
    if not augment or "type" in augment:
        return []
    images = [name for name, preprocess in model.preprocess().items() if preprocess.size is not None]
    return [
        Problem(
            f"The model has no image input '{name}'.",
            f"train_dataloader.augment.{name}",
            f"Its image inputs: {', '.join(images) or 'none'}.",
        )
        for name in augment
        if name not in images
    ]


def _block_problems(model: Model) -> list[Problem]:
    """Pools that read more blocks than the backbone before them gives."""
    found = []
    for name, (backbone, pool) in model.towers().items():
        if pool.layers > 1 and ("layers" not in backbone.abilities or pool.layers > len(backbone.layers())):
            count = len(backbone.layers()) if "layers" in backbone.abilities else 1
            can = f"has {count}" if count > 1 else "gives its last one alone"
            message = f"The pool of '{name}' reads the last {pool.layers} blocks, and {type(backbone).__name__} {can}."
            found.append(Problem(message, "model", "Read fewer blocks, or take another backbone."))
    return found


def _views(recipe: dict[str, Any], model: Model) -> dict[str, int]:
    """How many views the augmentation makes of an item, for each input."""
    augment = build_augment(recipe["train_dataloader"]["augment"])
    return {
        name: getattr(augment.get(name) if isinstance(augment, dict) else augment, "views", 1)
        for name in model.preprocess()
    }


def _shapes_and_memory(settings: Settings, model: Model, views: dict[str, int], plan: Plan) -> None:
    """Run a step without data: shapes are checked, memory is counted."""
    stored = cacheable.stored_towers(model) if settings.recipe.get("features") else {}
    if any(source.size is None for name, source in model.preprocess().items() if name not in stored):
        return
    rows = {name: (plan.batch_size or 2) * count for name, count in views.items()}
    chunk = settings("optim_wrapper.grad_cache")
    try:
        plan.memory, idle = step_memory(
            model, rows, settings("optim_wrapper.precision"), chunk and chunk["chunk_size"], stored
        )
        _tell_idle(model, idle, plan)
        if settings("optim_wrapper.average"):
            plan.memory["average"] = sum(part.nbytes for part in model.parameters() if part.requires_grad)
    except ToolboxError as error:
        plan.problems += error.problems
    except NotImplementedError:
        return  # an operation that has no meaning without values: nothing is known, and nothing is wrong
    except (RuntimeError, ValueError, TypeError) as error:
        if "meta" in str(error):
            return  # likewise
        plan.problems.append(Problem(f"The parts do not fit together: {str(error).splitlines()[0]}", "model"))


def _tell_idle(model: Model, idle: list[str], plan: Plan) -> None:
    """An adapter that no gradient reaches stands where the network does not use it; other parts may be idle."""
    for path, backbone in adapted(model).items():
        names = {f"{path}.{name}" for name in backbone.adapter.parameter_names()}
        lost = [name for name in idle if name in names]
        idle = [name for name in idle if name not in names]
        if lost:
            message = f"{len(lost)} of {len(names)} adapter tensors would never learn, such as {lost[0]}."
            hint = "The network does not call these layers: leave them out of tune.targets."
            plan.problems.append(Problem(message, f"model.{path}.tune", hint))
    plan.idle = idle
    if idle:
        shown = ", ".join(idle[:3]) + (" ..." if len(idle) > 3 else "")
        plan.notes.append(
            f"No gradient reaches these trainable tensors ({len(idle)}), so they stay as they are: {shown}."
        )
