"""Which columns of a Hugging Face dataset are the image and the label, and labels as whole numbers from 0."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from toolbox.base import MISSING_LABELS, read_label
from toolbox_datasets.files import listing
from toolbox_datasets.label_count import LabelCount


def image_column(features: Any, wanted: str | None, where: str) -> str:
    """The column of images. Raises ValueError naming the columns that are there."""
    return column(features, wanted, where, "image", "Image")


def label_column(features: Any, wanted: str | None, where: str) -> str:
    """The column of labels: the one ClassLabel, or any that is named. Raises ValueError naming the columns there."""
    return column(features, wanted, where, "label", "ClassLabel")


def column(features: Any, wanted: str | None, where: str, argument: str, kind: str) -> str:
    """The column `wanted`, else the only one of the type `kind`."""
    there = ", ".join(f"{name} ({described(feature)})" for name, feature in features.items())
    if wanted is not None:
        if wanted not in features:
            raise ValueError(f"{where} has no column '{wanted}': choose `{argument}` among {there}")
        if argument == "image" and type(features[wanted]).__name__ != "Image":
            raise ValueError(f"{where}: the column '{wanted}' holds no images; the columns are {there}")
        return wanted
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        count = "several columns" if found else "no column"
        raise ValueError(
            f"{where} has {count} of type {kind}: name one by {argument}='...'; the columns are {there}"
            + (". Whole numbers from 0 are taken as they are, strings numbered in alphabetical order"
               if argument == "label" and not found else "")
        )  # fmt: skip
    return found[0]


def described(feature: Any) -> str:
    """A column's type, as a message says it."""
    return getattr(feature, "dtype", None) if type(feature).__name__ == "Value" else type(feature).__name__


def is_text(feature: Any) -> bool:
    """Whether a column holds strings."""
    return getattr(feature, "dtype", "") in ("string", "large_string")


def values_of(part: Any, name: str) -> Any:
    """The values of one column as an Arrow array, rows in the order of the dataset."""
    return part.select_columns([name]).with_format("arrow")[:][name]


def class_names(
    feature: Any, values: Any, where: str, name: str, missing: Collection[str] = MISSING_LABELS
) -> list[str]:
    """The classes that a label column has.

    - `feature`: its type; `values`: its Arrow array in the training part, from which they follow without a ClassLabel:
      strings are sorted, whole numbers must be 0, 1, 2 ... without a gap.
    - `missing`: strings that mean "no label".

    Raises ValueError where they are neither.
    """
    if type(feature).__name__ == "ClassLabel":
        return list(feature.names)
    kind = str(getattr(feature, "dtype", ""))
    found: list[str] = []
    refused = "whole numbers from 0, or strings"
    if is_text(feature) or kind.startswith(("int", "uint", "float", "decimal")):
        try:
            texts = (read_label(value, missing=missing) for value in values.drop_null().unique().to_pylist())
            found = list(dict.fromkeys(text for text in texts if text is not None))
        except ValueError as error:
            found, refused = [], f"one {error}"
    if found and is_text(feature):
        return sorted(found)
    if not found:
        raise ValueError(
            f"{where}: the column '{name}' ({described(feature)}) holds no labels: {refused}; "
            "choose another column by label='...'"
        )
    numbers = sorted(map(int, found))
    require_numbers(np.array(numbers), where, name)
    gap = next((number for number, value in enumerate(numbers) if value != number), None)
    if gap is not None:
        raise ValueError(
            f"{where}: the {len(found):,} different labels in '{name}' go up to {numbers[-1]}, and {gap} never occurs: "
            "number them from 0 without gaps, or cast the column to ClassLabel"
        )
    return [str(number) for number in numbers]


def numbered(
    values: Any, classes: Sequence[str], feature: Any, where: str, name: str,
    missing: Collection[str] = MISSING_LABELS,
) -> np.ndarray:  # fmt: skip
    """(N,) int64 labels of an Arrow array. Raises ValueError where they are missing, hidden or unknown."""
    kind = str(getattr(feature, "dtype", ""))
    if is_text(feature) or not kind.startswith(("int", "uint")):
        values = texts_of(values, where, name, missing)
    elif values.null_count:
        row = values.is_null().to_pylist().index(True)
        raise ValueError(f"{where}: row {row} has no '{name}' ({values.null_count:,} rows have none): leave these out")
    if is_text(feature):
        label_of = {text: label for label, text in enumerate(classes)}
        unknown = [text for text in dict.fromkeys(values) if text not in label_of]
        if unknown:
            raise ValueError(f"{where}: '{name}' has {len(unknown):,} values that the training part has not: "
                             f"{listing(unknown)}")  # fmt: skip
        return np.array([label_of[text] for text in values], dtype=np.int64)
    labels = np.asarray(values).astype(np.int64)
    require_numbers(labels, where, name)
    if len(labels) and labels.max() >= len(classes):
        row = int(labels.argmax())
        raise ValueError(f"{where}: row {row} has the label {labels.max()}, and there are {len(classes):,} classes")
    return labels


def texts_of(values: Any, where: str, name: str, missing: Collection[str]) -> list[str]:
    """Labels of an Arrow array as `toolbox.base.read_label` reads them. Raises ValueError where one is missing."""
    count, texts = LabelCount(), []
    text_of: dict[Any, str | None] = {}
    for row, value in enumerate(values.to_pylist()):
        if value not in text_of:
            try:
                text_of[value] = read_label(value, missing=missing)
            except ValueError as error:
                raise ValueError(f"{where}: row {row}: '{name}' {error}") from None
        count.add(row, text_of[value], value)
        texts.append(text_of[value])
    if count.missing:
        raise ValueError(
            f"{where}: row {count.first[False]} has no '{name}' ({count.missing:,} rows have none"
            f"{count.missing_texts()}): leave these out"
        )
    return texts


def require_numbers(labels: np.ndarray, where: str, name: str) -> None:
    """Raises ValueError for labels below 0, as hidden ones are."""
    if len(labels) and labels.min() < 0:
        hidden = int((labels < 0).sum())
        hint = (
            "all are hidden: take another split, such as parts={'train': 'train', 'test': 'validation'}"
            if hidden == len(labels)
            else "labels count from 0: leave these rows out, or number the classes anew"
        )
        raise ValueError(
            f"{where}: {hidden:,} of {len(labels):,} labels in '{name}' are below 0 ({labels.min()}); {hint}"
        )
