"""Checks of a dry run: do the data and what is made of them fit the model?"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from toolbox.engine.classes import class_names, label_problems, other_classes
from toolbox.engine.data import mixing
from toolbox.engine.feature_extraction import cacheable
from toolbox.errors import Problem, ToolboxError
from toolbox.preflight.dry_run import DryRun


def check_labels(run: DryRun) -> None:
    """The labels are those that a classifier can learn and be evaluated on."""
    if run.dataset is None or not run.model.closed_set:
        return
    where, problems = "train_dataloader.dataset", []
    dataset, labels, classes = run.dataset, run.dataset.labels, run.dataset.classes
    if labels is None or classes is None:
        message = f"{type(dataset).__name__} has no labels."
        problems.append(Problem(message, where, "A classifier needs labelled data."))
    else:
        problems += [problem.with_prefix(where) for problem in label_problems(dataset)]
        if not problems and len(np.unique(np.asarray(labels))) < 2:
            message = f"All {len(dataset)} items have the same label."
            problems.append(Problem(message, where, "A classifier needs two classes or more."))
    for name, evaluator in run.evaluators.items():
        with suppress(ToolboxError, ValueError, OSError):  # reported where the data are opened
            problems += other_classes(class_names(dataset), evaluator.dataset, f"{name}_dataloader.dataset")
    run.plan.problems += problems
    if problems or labels is None or classes is None:
        return
    absent = np.flatnonzero(np.bincount(np.asarray(labels), minlength=len(classes)) == 0)
    if len(absent):
        run.plan.notes.append(
            f"{len(absent)} of {len(classes)} classes have no item to learn from, such as '{classes[absent[0]]}'."
        )


def check_augment(run: DryRun) -> None:
    """No augmentation is meant for an input that reads no images."""
    augment = run.recipe["train_dataloader"]["augment"]
    if not augment or "type" in augment:
        return
    images = [name for name, preprocess in run.model.preprocess().items() if preprocess.size is not None]
    hint = f"Its image inputs: {', '.join(images) or 'none'}."
    run.plan.problems += [
        Problem(f"The model has no image input '{name}'.", f"train_dataloader.augment.{name}", hint)
        for name in augment
        if name not in images
    ]


def check_mix(run: DryRun) -> None:
    """Mixed images suit the model, and pairs are not of one class."""
    if not run.recipe["train_dataloader"]["mix"]:
        return
    blocks = run.sampler.blocks if run.sampler else 1
    run.plan.problems += mixing.problems(run.model, run.views, blocks)
    if run.sampler is not None and run.dataset is not None:
        problems, notes = mixing.pairs_of_one_class(run.sampler, run.dataset.labels)
        run.plan.problems += problems
        run.plan.notes += notes


def check_feature_cache(run: DryRun) -> None:
    """What `features` stores stays the same while the run trains."""
    run.plan.problems += cacheable.problems(run.recipe, run.model)


def describe_feature_cache(run: DryRun) -> None:
    """What would be stored, and how large it is."""
    if run.with_data and not run.plan.problems and run.recipe.get("features"):
        items = {name: len(dataset) for name, dataset in run.datasets.items()}
        run.plan.notes += cacheable.notes(run.recipe, run.model, items)
