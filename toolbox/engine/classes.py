"""Names of classes: a label is a number, and says the same of two datasets only where their names agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from toolbox.base import Dataset
from toolbox.errors import Problem


def class_names(dataset: Dataset) -> list[str] | None:
    """The names of a dataset's classes, None where it has no labels."""
    return None if dataset.classes is None else [str(name) for name in dataset.classes]


def first_difference(trained: Sequence[str], here: Sequence[str]) -> str:
    """In words, where two lists of names differ first, their numbers counted from 0; empty where they are the same."""
    for number, (theirs, ours) in enumerate(zip_longest(trained, here)):
        if theirs != ours:
            first, second = ("none" if name is None else f"'{name}'" for name in (theirs, ours))
            return f"class number {number} was {first} in training and is {second} here"
    return ""


def other_classes(
    trained: list[str] | None, dataset: Dataset, where: str, *, count: int | None = None
) -> list[Problem]:
    """Where a dataset has other classes than those that a model was trained to tell apart.

    - `trained`: their names, None where they are not known; `count`: then how many there were.
    """
    here = class_names(dataset) or []
    if trained is None and count in (None, len(here)):
        return []
    difference = first_difference(trained, here) if trained is not None else "whose names are not known"
    if not difference:
        return []
    message = (
        f"It has {len(here)} classes, the training data {count if trained is None else len(trained)}: {difference}."
    )
    return [Problem(message, where, "A classifier is judged on the classes that it was trained on.")]


def label_problems(dataset: Dataset) -> list[Problem]:
    """What is wrong with the labels of a dataset: missing ones, no integers, no indices into its classes.

    Empty for a dataset without labels.
    """
    if dataset.labels is None:
        return []
    name, labels = type(dataset).__name__, np.asarray(dataset.labels)
    most = np.inf if dataset.classes is None else len(dataset.classes)
    if labels.shape != (len(dataset),):
        message = f"{name} has labels of shape {labels.shape} for {len(dataset)} items."
        return [Problem(message, hint="It takes one label for each item.")]
    if labels.dtype.kind not in "iu" and len(labels):
        odd = next((label for label in dataset.labels if not _is_integer(label)), dataset.labels[0])
        message = f"{name} has the label {odd!r}, which is no integer."
        return [Problem(message, hint="Labels are indices into its `classes`; leave out items without one.")]
    wrong = np.flatnonzero((labels < 0) | (labels >= most))
    if not len(wrong):
        return []
    message = f"{name} has {most} classes, and item" if np.isfinite(most) else f"{name}: item"
    message += f" {wrong[0]} has the label {labels[wrong[0]]} ({len(wrong)} such items)."
    hint = f"Labels are 0 to {most - 1}" if np.isfinite(most) else "Labels count from 0"
    return [Problem(message, hint=f"{hint}; leave out items without one.")]


def _is_integer(label: Any) -> bool:
    return isinstance(label, int | np.integer) and not isinstance(label, bool)
