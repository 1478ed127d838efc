"""Whether the labels of a recipe's data are those that a classifier can learn and be judged on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolbox.base import Dataset
from toolbox.engine.checkpoint.checkpoint import Checkpoint
from toolbox.engine.classes import class_names, first_difference, label_problems, other_classes
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.errors import Problem, ToolboxError


def problems(training: Dataset, evaluators: Mapping[str, Evaluator]) -> list[Problem]:
    """What is wrong with the labels of training, validation and test data, for a model that is a `closed_set`."""
    found = [problem.with_prefix("train_dataloader.dataset") for problem in _labels(training)]
    if not found and len(np.unique(np.asarray(training.labels))) < 2:
        message = f"All {len(training)} items have the same label."
        found.append(Problem(message, "train_dataloader.dataset", "A classifier needs two classes or more."))
    for name, evaluator in evaluators.items():
        try:
            found += other_classes(class_names(training), evaluator.dataset, f"{name}_dataloader.dataset")
        except (ToolboxError, ValueError, OSError):
            continue  # what keeps it from being read is reported where the data are opened
    return found


def notes(training: Dataset) -> list[str]:
    """What a user should know of sound labels: classes that no item has."""
    absent = np.flatnonzero(np.bincount(np.asarray(training.labels), minlength=len(training.classes)) == 0)
    if not len(absent):
        return []
    return [
        f"{len(absent)} of {len(training.classes)} classes have no item to learn from, such as "
        f"'{training.classes[absent[0]]}'."
    ]


def _labels(dataset: Dataset) -> list[Problem]:
    if dataset.labels is None or dataset.classes is None:
        return [Problem(f"{type(dataset).__name__} has no labels.", hint="A classifier needs labelled data.")]
    return label_problems(dataset)


def other_start(checkpoint: Checkpoint, training: Dataset) -> list[Problem]:
    """Where a run would start from a head that tells as many classes apart, but others than its training data have."""
    then, now = checkpoint.class_names(), class_names(training)
    if checkpoint.parts is not None or then is None or now is None or len(then) != len(now):
        return []
    if not (found := first_difference(then, now)):
        return []
    message = f"The classes of {checkpoint.path} are not those of the training data: {found}."
    return [Problem(message, "load_from", "Leave its head out: load_parts=['model.backbone'].")]
