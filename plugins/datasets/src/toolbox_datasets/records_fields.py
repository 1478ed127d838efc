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


class RecordReader:
    """Reads the fields of one file's records. Errors name file, line and field.

    - `mode`: of `MODES`; `columns`: {field: column}, None for a field that is not to be read.
    - `missing`: texts that mean "no label".
    """

    def __init__(
        self, path: Path, mode: str, columns: Mapping[str, str | None], missing: Collection[str] = MISSING_LABELS
    ) -> None:
        self.path, self.mode, self.mapped, self.missing = path, mode, columns, missing
        self.columns = tables.list_columns(path)
        self._labels = LabelCount()
        self.csv = tables.find_format(path) in ("csv", "tsv")
        known = set(self.columns)
        self.column = {field: columns.get(field, field) for field in FIELDS}
        for field, column in columns.items():
            if column is None and field in MODES[mode]:
                raise ValueError(f"columns gives None for '{field}', which mode '{mode}' reads: name a column")
            # keys of JSONL may begin anywhere
            if column is not None and column not in known and column not in tables.list_columns(path, limit=None):
                nearest = describe_nearest(column, self.columns)
                raise ValueError(f"{path} has no column '{column}', which columns gives for '{field}'. {nearest}")
        if "label" not in columns:
            self.column["label"] = next((name for name in LABELS if name in known), None)
        for field in MODES[mode]:
            if self.column[field] not in known and self.columns:
                first_line, _ = next(tables.read_rows(path))
                raise ValueError(
                    f"{self.format_place(first_line)} has no '{self.column[field]}', which mode '{mode}' reads. "
                    + describe_nearest(field, self.columns, field)
                )

    def read_label(self, row: Mapping[str, Any], number: int) -> str | None:
        """The label of a record, None where it has none; `has_labels` checks, after the last one, that all have one."""
        label = self.read_scalar(row, number, "label")
        self._labels.add(number, label, self._get_value(row, "label"))
        # a column of labels that the first records do not have
        if self.column["label"] is None and "label" not in self.mapped and not row.keys().isdisjoint(LABELS):
            raise ValueError(
                f"{self.format_place(number)} has a label, and the first records have none: give it to all"
            )
        return label

    def has_labels(self) -> bool:
        """Whether the records that were read have labels. Raises ValueError if there was none, or only some have."""
        count = self._labels
        if not count.total:
            raise ValueError(f"{self.path} holds no record")
        if len(count.first) == 2:
            without_label, with_label = self.format_place(count.first[False]), self.format_place(count.first[True])
            places = f"{without_label} has no label, and {with_label} has one"
            if count.first[False] < count.first[True]:
                places = f"{with_label} has a label, and {without_label} has none"
            raise ValueError(
                f"{places}: give all or none ({count.missing:,} of {count.total:,} records have none"
                f"{count.missing_texts()})"
            )
        return True in count.first

    def list_read_columns(self) -> set[str]:
        """The columns that are read."""
        return {column for column in self.column.values() if column is not None}

    def format_place(self, number: int) -> str:
        return tables.format_place(self.path, number)

    def make_error(self, number: int, field: str, what: str) -> ValueError:
        column = self.column[field]
        name = f"'{field}'" if column == field else f"'{column}' ({field})"
        return ValueError(f"{self.format_place(number)}: {name} {what}")

    def _get_value(self, row: Mapping[str, Any], field: str) -> Any:
        column = self.column[field]
        return None if column is None else row.get(column)

    def read_one(self, row: Mapping[str, Any], number: int, field: str) -> str:
        """The one string of a field that must be there."""
        value = self._get_value(row, field)
        if type(value) is str and value and not value.isspace():
            return value
        if is_empty(value):
            raise self.make_error(number, field, f"is missing, and mode '{self.mode}' reads it")
        raise self.make_error(number, field, f"must be a string, not {format_value(value)}")

    def read_several(self, row: Mapping[str, Any], number: int, field: str) -> list[str]:
        """The strings of a field that may hold one or several, each of them once; none if it is absent."""
        value = self._get_value(row, field)
        if type(value) is str and value and not value.isspace() and not (self.csv and value.lstrip()[0] == "["):
            return [value]
        if is_empty(value):
            return []
        values = parse_json_list(value) if type(value) is str else value
        if not isinstance(values, list) or not all(type(item) is str and item.strip() for item in values):
            raise self.make_error(number, field, f"must be a string or a list of strings, not {format_value(value)}")
        return list(dict.fromkeys(values))

    def read_required(self, row: Mapping[str, Any], number: int, field: str) -> list[str]:
        """`read_several`, of which there must be one at least."""
        values = self.read_several(row, number, field)
        if not values:
            raise self.make_error(number, field, f"is missing, and mode '{self.mode}' reads it")
        return values

    def read_scalar(self, row: Mapping[str, Any], number: int, field: str) -> str | None:
        """A label or a group as `toolbox.base.read_label` reads it; None if it is absent."""
        value = self._get_value(row, field)
        if value is None or value == []:
            return None
        try:
            return read_label(value, missing=self.missing)
        except ValueError as error:
            raise self.make_error(number, field, str(error)) from None

    def notes(self) -> list[str]:
        """What was guessed of the columns, and what looks as if it was meant to be read."""
        notes, label = [], self.column["label"]
        if label not in (None, "label") and "label" not in self.mapped:
            notes.append(
                f"labels are read from the column '{label}' of {self.path.name}; columns={{'label': None}} reads none"
            )
        if self._labels.texts:
            notes.append(f"no record of {self.path.name} has a label{self._labels.missing_texts()}")
        unread = [name for name in self.columns if name not in self.list_read_columns()]
        for field in FIELDS:
            if self.column[field] not in self.columns and field not in self.mapped:
                for name in difflib.get_close_matches(field, unread, n=1, cutoff=0.8):
                    notes.append(
                        f"the column '{name}' of {self.path.name} is not read; columns={{'{field}': '{name}'}} reads it"
                    )
        return notes


def check_columns(columns: Mapping[str, str | None]) -> None:
    """Raise ValueError for a key that is no field of a record, with the nearest."""
    for field in columns:
        if field not in FIELDS:
            raise ValueError(
                f"columns has the key '{field}', which is no field of a record. {describe_nearest(field, FIELDS)}"
            )


def describe_nearest(name: str, names: Sequence[str], field: str | None = None) -> str:
    """The nearest of `names`, or all of them; `field`: which `columns` could map to it."""
    nearest = difflib.get_close_matches(name, names, n=1)
    there = f"There are: {', '.join(names)}."
    if field is not None:
        example = nearest[0] if nearest else "my_column"
        return f"{there} If one of them is meant: columns={{'{field}': '{example}'}}."
    return f"Did you mean '{nearest[0]}'? {there}" if nearest else there


def is_empty(value: Any) -> bool:
    """Whether a cell is empty: null, NaN, an empty list, or nothing but spaces."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def parse_json_list(text: str) -> Any:
    """A list written as JSON in a cell of a table; any other text stands for itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return [text]
    return value if isinstance(value, list) else [text]


def format_value(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"a {type(value).__name__}"
