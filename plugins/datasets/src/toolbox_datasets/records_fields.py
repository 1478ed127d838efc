"""The fields of a record: which column holds them, and which of them a mode reads."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolbox.base import MISSING_LABELS, read_label
from toolbox_datasets import tables
from toolbox_datasets.label_count import LabelCount

FIELDS = ("query", "query_image", "positive", "negatives", "label", "group")
LABELS = ("label", "class_id", "id")
"""Columns that a label is read from, the first that a file has."""

MODES: dict[str, dict[str, str]] = {
    "i2i": {"query_image": "image", "positive": "positive_image"},
    "t2i": {"query": "text", "positive": "image"},
    "i2t": {"query_image": "image", "positive": "text"},
    "t2t": {"query": "text", "positive": "positive_text"},
    "m2i": {"query": "text", "query_image": "image", "positive": "positive_image"},
    "m2t": {"query": "text", "query_image": "image", "positive": "positive_text"},
}
"""{mode: {field of a record: field of a sample}}: what a mode must find, and what becomes of it."""


class Reader:
    """Reads the fields of one file's records. Errors name file, line and field.

    - `mode`: of `MODES`; `columns`: {field: column}, None for a field that is not to be read.
    - `missing`: texts that mean "no label".
    """

    def __init__(
        self, path: Path, mode: str, columns: Mapping[str, str | None], missing: Collection[str] = MISSING_LABELS
    ) -> None:
        self.path, self.mode, self.mapped, self.missing = path, mode, columns, missing
        self.columns = tables.columns_of(path)
        self._labels = LabelCount()
        self.csv = tables.kind_of(path) in ("csv", "tsv")
        known = set(self.columns)
        self.column = {field: columns.get(field, field) for field in FIELDS}
        for field, column in columns.items():
            if column is None and field in MODES[mode]:
                raise ValueError(f"columns gives None for '{field}', which mode '{mode}' reads: name a column")
            # keys of JSONL may begin anywhere
            if column is not None and column not in known and column not in tables.columns_of(path, limit=None):
                raise ValueError(
                    f"{path} has no column '{column}', which columns gives for '{field}'. {near(column, self.columns)}"
                )
        if "label" not in columns:
            self.column["label"] = next((name for name in LABELS if name in known), None)
        for field in MODES[mode]:
            if self.column[field] not in known and self.columns:
                raise ValueError(
                    f"{self.first_place()} has no '{self.column[field]}', which mode '{mode}' reads. "
                    + near(field, self.columns, field)
                )

    def label(self, row: Mapping[str, Any], number: int) -> str | None:
        """The label of a record, None where it has none; `labelled` says, after the last one, whether this is right."""
        label = self.scalar(row, number, "label")
        column = self.column["label"]
        self._labels.add(number, label, None if column is None else row.get(column))
        # a column of labels that the first records do not have
        if column is None and "label" not in self.mapped and not row.keys().isdisjoint(LABELS):
            raise ValueError(f"{self.place(number)} has a label, and the first records have none: give it to all")
        return label

    def labelled(self) -> bool:
        """Whether the records that were read have labels. Raises ValueError if there was none, or only some have."""
        count = self._labels
        if not count.total:
            raise ValueError(f"{self.path} holds no record")
        if len(count.first) == 2:
            without, labelled = self.place(count.first[False]), self.place(count.first[True])
            places = f"{without} has no label, and {labelled} has one"
            if count.first[False] < count.first[True]:
                places = f"{labelled} has a label, and {without} has none"
            raise ValueError(
                f"{places}: give all or none ({count.missing:,} of {count.total:,} records have none"
                f"{count.missing_texts()})"
            )
        return True in count.first

    def first_place(self) -> str:
        """Where the first record stands."""
        return tables.place(self.path, next(tables.rows(self.path))[0])

    def wanted(self) -> set[str]:
        """The columns that are read."""
        return {column for column in self.column.values() if column is not None}

    def place(self, number: int) -> str:
        return tables.place(self.path, number)

    def fail(self, number: int, field: str, what: str) -> ValueError:
        column = self.column[field]
        name = f"'{field}'" if column == field else f"'{column}' ({field})"
        return ValueError(f"{self.place(number)}: {name} {what}")

    def one(self, row: Mapping[str, Any], number: int, field: str) -> str:
        """The one string of a field that must be there."""
        value = row.get(self.column[field])
        if type(value) is str and value and not value.isspace():
            return value
        if absent(value):
            raise self.fail(number, field, f"is missing, and mode '{self.mode}' reads it")
        raise self.fail(number, field, f"must be a string, not {shown(value)}")

    def several(self, row: Mapping[str, Any], number: int, field: str) -> list[str]:
        """The strings of a field that may hold one or several, each of them once; none if it is absent."""
        value = row.get(self.column[field])
        if type(value) is str and value and not value.isspace() and not (self.csv and value.lstrip()[0] == "["):
            return [value]
        if absent(value):
            return []
        values = json_list(value) if type(value) is str else value
        if not isinstance(values, list) or not all(type(item) is str and item.strip() for item in values):
            raise self.fail(number, field, f"must be a string or a list of strings, not {shown(value)}")
        return list(dict.fromkeys(values))

    def needed(self, row: Mapping[str, Any], number: int, field: str) -> list[str]:
        """`several`, of which there must be one at least."""
        values = self.several(row, number, field)
        if not values:
            raise self.fail(number, field, f"is missing, and mode '{self.mode}' reads it")
        return values

    def scalar(self, row: Mapping[str, Any], number: int, field: str) -> str | None:
        """A label or a group as `toolbox.base.read_label` reads it; None if it is absent."""
        column = self.column[field]
        value = None if column is None else row.get(column)
        if value is None or value == []:
            return None
        try:
            return read_label(value, missing=self.missing)
        except ValueError as error:
            raise self.fail(number, field, str(error)) from None

    def notes(self) -> list[str]:
        """What was guessed of the columns, and what looks as if it was meant to be read."""
        notes, label = [], self.column["label"]
        if label not in (None, "label") and "label" not in self.mapped:
            notes.append(
                f"labels are read from the column '{label}' of {self.path.name}; columns={{'label': None}} reads none"
            )
        if self._labels.texts:
            notes.append(f"no record of {self.path.name} has a label{self._labels.missing_texts()}")
        unread = [name for name in self.columns if name not in self.wanted()]
        for field in FIELDS:
            if self.column[field] not in self.columns and field not in self.mapped:
                for name in difflib.get_close_matches(field, unread, n=1, cutoff=0.8):
                    notes.append(
                        f"the column '{name}' of {self.path.name} is not read; columns={{'{field}': '{name}'}} reads it"
                    )
        return notes


def check_columns(columns: Mapping[str, str | None]) -> None:
    """Raises ValueError for a key that is no field of a record, with the nearest."""
    for field in columns:
        if field not in FIELDS:
            raise ValueError(f"columns has the key '{field}', which is no field of a record. {near(field, FIELDS)}")


def near(name: str, names: Sequence[str], field: str | None = None) -> str:
    """The nearest of `names`, or all of them; `field`: which `columns` could map to it."""
    found = difflib.get_close_matches(name, names, n=1)
    there = f"There are: {', '.join(names)}."
    if field is not None:
        example = found[0] if found else "my_column"
        return f"{there} If one of them is meant: columns={{'{field}': '{example}'}}."
    return f"Did you mean '{found[0]}'? {there}" if found else there


def absent(value: Any) -> bool:
    """Whether a cell is empty: null, NaN, an empty list, or nothing but spaces."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def json_list(text: str) -> Any:
    """A list written as JSON in a cell of a table; any other text stands for itself."""
    try:
        found = json.loads(text)
    except ValueError:
        return [text]
    return found if isinstance(found, list) else [text]


def shown(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"a {type(value).__name__}"
