"""Names of classes: a label is a number, and says the same of two datasets only where their names agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

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
    found = first_difference(trained, here) if trained is not None else "whose names are not known"
    if not found:
        return []
    message = f"It has {len(here)} classes, the training data {count if trained is None else len(trained)}: {found}."
    return [Problem(message, where, "A classifier is judged on the classes that it was trained on.")]
