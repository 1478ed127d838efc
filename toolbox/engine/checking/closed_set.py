"""Whether the labels of a recipe's data are those that a classifier can learn and be judged on."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolbox.base import Dataset
from toolbox.engine.classes import class_names, first_difference, other_classes
from toolbox.engine.saving.checkpoint import Checkpoint
from toolbox.errors import Problem, ToolboxError
from toolbox.registry import build


def problems(recipe: dict[str, Any], training: Dataset) -> list[Problem]:
    """What is wrong with the labels of training, validation and test data, for a model that is a `closed_set`."""
    found = [problem.under("train_dataloader.dataset") for problem in _labels(training)]
    if not found and len(np.unique(np.asarray(training.labels))) < 2:
        message = f"All {len(training)} items have the same label."
        found.append(Problem(message, "train_dataloader.dataset", "A classifier needs two classes or more."))
    for name in ("val", "test"):
        if loader := recipe[f"{name}_dataloader"]:
            try:
                dataset, where = build(loader["dataset"], "dataset"), f"{name}_dataloader.dataset"
                told = other_classes(class_names(training), dataset, where)
                found += told or [problem.under(where) for problem in _labels(dataset)]
            except (ToolboxError, ValueError, OSError):
                continue  # what keeps it from being read is reported where the data are looked at
    return found


def notes(training: Dataset) -> list[str]:
    """What a user should know of sound labels: classes that no item has."""
    absent = np.flatnonzero(np.bincount(np.asarray(training.labels), minlength=len(training.classes)) == 0)
    if not len(absent):
        return []
    return [f"{len(absent)} of {len(training.classes)} classes have no item to learn from, such as "
            f"'{training.classes[absent[0]]}'."]  # fmt: skip


def _labels(dataset: Dataset) -> list[Problem]:
    name = type(dataset).__name__
    if dataset.labels is None or dataset.classes is None:
        return [Problem(f"{name} has no labels.", hint="A classifier needs labelled data.")]
    labels, classes = np.asarray(dataset.labels), len(dataset.classes)
    if labels.shape != (len(dataset),):
        return [Problem(f"{name} has labels of shape {labels.shape} for {len(dataset)} items.",
                        hint="A classifier needs one label for each item.")]  # fmt: skip
    if labels.dtype.kind not in "iu":
        odd = next((label for label in dataset.labels if not _whole(label)), dataset.labels[0])
        return [Problem(f"{name} has the label {odd!r}, which is no integer.",
                        hint="Labels are indices into its `classes`.")]  # fmt: skip
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        message = f"{name} has {classes} classes, and item {wrong[0]} has the label {labels[wrong[0]]}"
        return [Problem(f"{message} ({len(wrong)} such items).", hint=f"Labels are 0 to {classes - 1}.")]
    return []


def _whole(label: Any) -> bool:
    return isinstance(label, int | np.integer) and not isinstance(label, bool)


def other_start(checkpoint: Checkpoint, training: Dataset) -> list[Problem]:
    """Where a run would start from a head that tells as many classes apart, but others than its training data have."""
    then, now = checkpoint.class_names(), class_names(training)
    if checkpoint.parts is not None or then is None or now is None or len(then) != len(now):
        return []
    if not (found := first_difference(then, now)):
        return []
    message = f"The classes of {checkpoint.path} are not those of the training data: {found}."
    return [Problem(message, "load_from", "Leave its head out: load_parts=['model.backbone'].")]
