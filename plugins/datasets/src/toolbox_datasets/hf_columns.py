"""Which columns of a Hugging Face dataset are the image and the label, and labels as whole numbers from 0."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from toolbox.base import compose_unicode, get_image_suffixes, read_label
from toolbox_datasets.files import list_first
from toolbox_datasets.label_count import LabelCount

ENDS = 2048
"""Bytes of an image's beginning and of its end that tell it from others, with its length."""


def find_image_column(part: Any, column: str | None, where: str) -> str:
    """The column of images. Raises ValueError naming the columns that are there.

    Files of other programs do not say that a column holds images: a struct of "bytes" and "path" does, and binary
    values; texts do where they end as image files are called.

    - `part`: the `datasets.Dataset`; `column`: the one that the user names.
    """
    features = part.features
    if column is not None:
        require_column(features, column, where, "image")
        if find_image_storage(part, column) is None:
            raise ValueError(
                f"{where}: the column '{column}' holds no images; the columns are {describe_columns(features)}"
            )
        return column
    storage_of = {name: find_image_storage(part, name) for name in features}
    candidates: list[str] = []
    for storage in ("Image", "struct", "binary", "path"):
        candidates = [name for name in storage_of if storage_of[name] == storage]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            break
    raise make_column_error(features, candidates, where, "image", "Image")


def find_image_storage(part: Any, name: str) -> str | None:
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
        return "path" if ending in get_image_suffixes() else None
    return None


def find_label_column(features: Any, column: str | None, where: str) -> str:
    """The column of labels: the one ClassLabel, else the column "label", or any that is named.

    Raises ValueError naming the columns that are there.
    """
    if column is not None:
        return require_column(features, column, where, "label")
    candidates = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    if not candidates and "label" in features:
        return "label"
    if len(candidates) != 1:
        raise make_column_error(features, candidates, where, "label", "ClassLabel")
    return candidates[0]


def require_column(features: Any, column: str, where: str, argument: str) -> str:
    """`column`. Raises ValueError where there is no such column."""
    if column not in features:
        raise ValueError(f"{where} has no column '{column}': choose `{argument}` among {describe_columns(features)}")
    return column


def make_column_error(features: Any, candidates: Sequence[str], where: str, argument: str, kind: str) -> ValueError:
    """The error that there is no column of the type `kind`, or that there are several."""
    count = "several columns" if candidates else "no column"
    numbers = ". Whole numbers from 0 are taken as they are, strings numbered in alphabetical order"
    return ValueError(
        f"{where} has {count} of type {kind}: name one by {argument}='...'; the columns are "
        + describe_columns(features)
        + (numbers if argument == "label" and not candidates else "")
    )


def describe_columns(features: Any) -> str:
    """All columns with their types, as messages say them."""
    return ", ".join(f"{name} ({describe_type(feature)})" for name, feature in features.items())


def read_image_cell(value: Any, folder: Path) -> tuple[bytes | None, Path | None]:
    """The content of the image in a cell, or the file that it names.

    - `value`: a dict of "bytes" and "path", bytes, or a path.
    - `folder`: what a path is relative to; where no file is there, to the current folder.
    """
    data, path = value if isinstance(value, bytes) else None, value if isinstance(value, str) else None
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
    if not path:
        return data, None
    return data, folder / path if (folder / path).is_file() else Path(path)


def make_image_keys(rows: Any, name: str, folder: Path) -> list[str]:
    """What each image of a column is called, whichever row it is in: the digest of its content's length, beginning
    and end; of a file, its path below `folder`.

    - `rows`: the `datasets.Dataset`, whose images are not decoded; `name`: the column.
    - `folder`: as of `read_image_cell`.
    """
    import pyarrow as pa
    from pyarrow.compute import struct_field

    above = [f"{root}/" for root in (folder.absolute(), folder.resolve())]
    keys: list[str] = []
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        column = batch[name]
        nothing = pa.nulls(len(column), pa.binary())
        is_path = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        contents, paths = (nothing, column) if is_path else (column, nothing)
        if pa.types.is_struct(column.type):
            fields = {field.name for field in column.type}
            contents, paths = (struct_field(column, key) if key in fields else nothing for key in ("bytes", "path"))
        for content, path in zip(contents, paths, strict=True):
            data, text = content.as_buffer(), path.as_py()  # a buffer is no copy
            if data is not None:
                view = memoryview(data)
                digest = blake2b(b"%d " % len(view), digest_size=16)
                digest.update(view[:ENDS])
                digest.update(view[-ENDS:])
                keys.append(digest.hexdigest())
            else:
                start = next((root for root in above if (text or "").startswith(root)), "")
                keys.append(compose_unicode(text.removeprefix(start)) if text else f"{len(keys)} without a picture")
    return keys


def describe_type(feature: Any) -> str:
    """A column's type, as a message says it."""
    return str(feature.dtype) if type(feature).__name__ == "Value" else type(feature).__name__


def is_text(feature: Any) -> bool:
    """Whether a column holds strings."""
    return getattr(feature, "dtype", "") in ("string", "large_string")


class LabelColumn:
    """The labels of one part of a dataset: whole numbers from 0, or texts. Errors name the part and the column.

    - `part`: the `datasets.Dataset`; `name`: its column; `where`: what the part is called in messages.
    - `missing`: strings that mean "no label".
    """

    def __init__(self, part: Any, name: str, where: str, missing: Collection[str]) -> None:
        self.name, self.where, self.missing = name, where, missing
        if name not in part.features:
            raise ValueError(f"{where} has no column '{name}', which the training part has")
        self.feature = part.features[name]
        self.dtype = str(getattr(self.feature, "dtype", ""))
        self.values = part.select_columns([name]).with_format("arrow")[:][name]  # in the order of the dataset

    def list_classes(self) -> list[str]:
        """The classes that the column has, of a training part.

        They follow from its values without a ClassLabel: strings are sorted, whole numbers must be 0, 1, 2 ... without
        a gap. Raises ValueError where they are neither.
        """
        if type(self.feature).__name__ == "ClassLabel":
            return list(self.feature.names)
        names: list[str] = []
        reason = "whole numbers from 0, or strings"
        if is_text(self.feature) or self.dtype.startswith(("int", "uint", "float", "decimal")):
            try:
                different = self.values.drop_null().unique().to_pylist()
                texts = (read_label(value, missing=self.missing) for value in different)
                names = list(dict.fromkeys(text for text in texts if text is not None))
            except ValueError as error:
                names, reason = [], f"one {error}"
        if names and is_text(self.feature):
            return sorted(names)
        if not names:
            raise ValueError(
                f"{self.where}: the column '{self.name}' ({describe_type(self.feature)}) holds no labels: {reason}; "
                "choose another column by label='...'"
            )
        numbers = sorted(map(int, names))
        self._require_numbers(np.array(numbers))
        gap = next((number for number, value in enumerate(numbers) if value != number), None)
        if gap is not None:
            raise ValueError(
                f"{self.where}: the {len(names):,} different labels in '{self.name}' go up to {numbers[-1]}, and {gap} "
                "never occurs: number them from 0 without gaps, or cast the column to ClassLabel"
            )
        return [str(number) for number in numbers]

    def number(self, classes: Sequence[str]) -> np.ndarray:
        """(N,) int64 labels by the classes of the training part. Raises ValueError for missing or unknown ones."""
        name, where, values = self.name, self.where, self.values
        if list(getattr(self.feature, "names", None) or classes) != classes:
            raise ValueError(f"{where} has other classes, or another order of them, than its training part")
        if is_text(self.feature) or not self.dtype.startswith(("int", "uint")):
            values = self._read_texts()
        elif values.null_count:
            row = values.is_null().to_pylist().index(True)
            raise ValueError(
                f"{where}: row {row} has no '{name}' ({values.null_count:,} rows have none): leave these out"
            )
        if is_text(self.feature):
            label_of = {text: label for label, text in enumerate(classes)}
            unknown = [text for text in dict.fromkeys(values) if text not in label_of]
            if unknown:
                raise ValueError(
                    f"{where}: '{name}' has {len(unknown):,} values that the training part has not: "
                    f"{list_first(unknown)}"
                )
            return np.array([label_of[text] for text in values], dtype=np.int64)
        labels = np.asarray(values).astype(np.int64)
        self._require_numbers(labels)
        if len(labels) and labels.max() >= len(classes):
            row = int(labels.argmax())
            raise ValueError(f"{where}: row {row} has the label {labels.max()}, and there are {len(classes):,} classes")
        return labels

    def _read_texts(self) -> list[str]:
        """Labels as `toolbox.base.read_label` reads them. Raises ValueError where one is missing."""
        count = LabelCount()
        texts: list[str] = []
        text_of: dict[Any, str | None] = {}
        for row, value in enumerate(self.values.to_pylist()):
            if value not in text_of:
                try:
                    text_of[value] = read_label(value, missing=self.missing)
                except ValueError as error:
                    raise ValueError(f"{self.where}: row {row}: '{self.name}' {error}") from None
            text = text_of[value]
            count.add(row, text, value)
            if text is not None:
                texts.append(text)
        if count.missing:
            raise ValueError(
                f"{self.where}: row {count.first[False]} has no '{self.name}' ({count.missing:,} rows have none"
                f"{count.missing_texts()}): leave these out"
            )
        return texts

    def _require_numbers(self, labels: np.ndarray) -> None:
        """Raise ValueError for labels below 0, as hidden ones are."""
        if len(labels) and labels.min() < 0:
            hidden = int((labels < 0).sum())
            hint = (
                "all are hidden: take another split, such as parts={'train': 'train', 'test': 'validation'}"
                if hidden == len(labels)
                else "labels count from 0: leave these rows out, or number the classes anew"
            )
            raise ValueError(
                f"{self.where}: {hidden:,} of {len(labels):,} labels in '{self.name}' are below 0 ({labels.min()}); "
                f"{hint}"
            )
