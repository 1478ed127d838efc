"""What the data of a run are, in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from toolbox.base import Dataset
from toolbox.base.image_files import format_ending_counts

SHOWN = 2


def describe_data(datasets: Mapping[str, Dataset]) -> str:
    """Classes, items of each split and ignored files of datasets by split, such as:

        10 classes (airplane, automobile, ...), 1,500 train / 300 val / 300 test pictures, 12 files ignored (.heic)

    Where splits have other classes, these are counted one by one too.
    """
    sizes = " / ".join(f"{len(dataset):,} {name}" for name, dataset in datasets.items())
    units = list(dict.fromkeys(dataset.unit for dataset in datasets.values()))
    parts = [_classes(datasets), f"{sizes} {units[0] if len(units) == 1 else 'items'}", _ignored(datasets.values())]
    return ", ".join(part for part in parts if part)


def count_data(datasets: Mapping[str, Dataset]) -> dict[str, dict[str, int | None]]:
    """The same for results: {split: {"items", "classes"}}."""
    return {
        name: {"items": len(dataset), "classes": None if dataset.classes is None else len(dataset.classes)}
        for name, dataset in datasets.items()
    }


def _classes(datasets: Mapping[str, Dataset]) -> str:
    named = {name: [str(c) for c in dataset.classes] for name, dataset in datasets.items() if dataset.classes}
    if not named:
        return ""
    different = list({tuple(names) for names in named.values()})
    first = next(iter(named.values()))
    shown = f"({', '.join(first[:SHOWN])}{', ...' if len(first) > SHOWN else ''})"
    if len(different) == 1:
        return f"{len(first):,} {'class' if len(first) == 1 else 'classes'} {shown}"
    return " / ".join(f"{len(names):,} {name}" for name, names in named.items()) + f" classes {shown}"


def _ignored(datasets: Iterable[Dataset]) -> str:
    folders: dict[str, Mapping[str, int]] = {}
    for dataset in datasets:
        folders |= dataset.ignored_files()  # splits of one folder have left out the same files
    ignored = sum((Counter(found) for found in folders.values()), Counter())
    if not ignored:
        return ""
    (only, *more) = ignored
    listed = format_ending_counts(ignored) if more or not only else only
    return f"{ignored.total():,} {'file' if ignored.total() == 1 else 'files'} ignored ({listed})"
