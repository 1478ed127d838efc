"""What the report items of metrics call things: classes and super-classes, by what the dataset says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from toolbox.base import Dataset


def make_class_namer(dataset: Dataset) -> Callable[[int], str]:
    """The name of a label, its number where the dataset has none for it."""
    classes = getattr(dataset, "classes", None)
    return lambda label: str(classes[label]) if classes is not None and 0 <= label < len(classes) else str(label)


def list_super_classes(dataset: Dataset, indices: Sequence[int]) -> list[str]:
    """The super-class of each of these items, [] where they are not known."""
    groups: Sequence[Any] | None = getattr(dataset, "groups", None)
    return [] if groups is None else [str(groups[index]) for index in indices]
