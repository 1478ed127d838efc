"""Which columns of a Hugging Face dataset are the image and the label, and labels as whole numbers from 0."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from toolbox.base import MISSING_LABELS, composed, image_suffixes, read_label
from toolbox_datasets.files import listing
from toolbox_datasets.label_count import LabelCount

ENDS = 2048
"""Bytes of a picture's beginning and of its end that tell it from others, with its length."""


def image_column(part: Any, wanted: str | None, where: str) -> str:
    """The column of images. Raises ValueError naming the columns that are there.

    Files of other programs do not say that a column holds images: a struct of "bytes" and "path" does, and binary
    values; texts do where they end as image files are called.

    - `part`: the `datasets.Dataset`; `wanted`: the column that the user names.
    """
    features = part.features
    if wanted is not None:
        require_column(features, wanted, where, "image")
        if kind_of_image(part, wanted) is None:
            raise ValueError(
                f"{where}: the column '{wanted}' holds no images; the columns are {listed_columns(features)}"
            )
        return wanted
    kinds = {name: kind_of_image(part, name) for name in features}
    for kind in ("Image", "struct", "binary", "path"):
        found = [name for name in kinds if kinds[name] == kind]
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise unclear(features, found, where, "image", "Image")


def kind_of_image(part: Any, name: str) -> str | None:
    """How a column holds images: "Image" (as the library declares it), "struct", "binary", "path", or None."""
    feature = part.features[name]
    if type(feature).__name__ == "Image":
        return "Image"
    if isinstance(feature, dict):
        return "struct" if feature and set(feature) <= {"bytes", "path"} else None
    if getattr(feature, "dtype", "") in ("binary", "large_binary"):
        return "binary"
    if is_text(feature) and len(part):
        ending = Path(part[0][name] or "").suffix.lower()
        return "path" if ending in image_suffixes() else None
    return None


def label_column(features: Any, wanted: str | None, where: str) -> str:
    """The column of labels: the one ClassLabel, else the column "label", or any that is named.

    Raises ValueError naming the columns that are there.
    """
    if wanted is not None:
        return require_column(features, wanted, where, "label")
    found = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    if not found and "label" in features:
        return "label"
    if len(found) != 1:
        raise unclear(features, found, where, "label", "ClassLabel")
    return found[0]


def require_column(features: Any, wanted: str, where: str, argument: str) -> str:
    """`wanted`. Raises ValueError where there is no such column."""
    if wanted not in features:
        raise ValueError(f"{where} has no column '{wanted}': choose `{argument}` among {listed_columns(features)}")
    return wanted


def unclear(features: Any, found: Sequence[str], where: str, argument: str, kind: str) -> ValueError:
    """The error that there is no column, or are several ones, of the type `kind`."""
    count = "several columns" if found else "no column"
    numbers = ". Whole numbers from 0 are taken as they are, strings numbered in alphabetical order"
    return ValueError(
        f"{where} has {count} of type {kind}: name one by {argument}='...'; the columns are {listed_columns(features)}"
        + (numbers if argument == "label" and not found else "")
    )


def listed_columns(features: Any) -> str:
    """All columns with their types, as messages say them."""
    return ", ".join(f"{name} ({described(feature)})" for name, feature in features.items())


def picture_in(value: Any, folder: Path) -> tuple[bytes | None, Path | None]:
    """The content of the picture in a cell, or the file that it names.

    - `value`: a dict of "bytes" and "path", bytes, or a path.
    - `folder`: what a path is relative to; where no file is there, to the current folder.
    """
    data, path = value if isinstance(value, bytes) else None, value if isinstance(value, str) else None
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
    if not path:
        return data, None
    return data, folder / path if (folder / path).is_file() else Path(path)


def picture_keys(rows: Any, name: str, folder: Path) -> list[str]:
    """What each picture of a column is called, whichever row it is in: the digest of its content's length, beginning
    and end; of a file, its path below `folder`.

    - `rows`: the `datasets.Dataset`, whose pictures are not decoded; `name`: the column; `folder`: as of `picture_in`.
    """
    import pyarrow as pa
    from pyarrow.compute import struct_field

    above = [f"{root}/" for root in (folder.absolute(), folder.resolve())]
    found: list[str] = []
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        column = batch[name]
        nothing = pa.nulls(len(column), pa.binary())
        is_path = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        contents, paths = (nothing, column) if is_path else (column, nothing)
        if pa.types.is_struct(column.type):
            there = {field.name for field in column.type}
            contents, paths = (struct_field(column, key) if key in there else nothing for key in ("bytes", "path"))
        for content, path in zip(contents, paths, strict=True):
            data, text = content.as_buffer(), path.as_py()  # a buffer is no copy
            if data is not None:
                view = memoryview(data)
                digest = blake2b(b"%d " % len(view), digest_size=16)
                digest.update(view[:ENDS])
                digest.update(view[-ENDS:])
                found.append(digest.hexdigest())
            else:
                start = next((root for root in above if (text or "").startswith(root)), "")
                found.append(composed(text.removeprefix(start)) if text else f"{len(found)} without a picture")
    return found


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
