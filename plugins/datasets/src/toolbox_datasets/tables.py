"""Rows of a JSONL, CSV, TSV or Parquet file, one after another, with the numbers that errors name."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

Row = tuple[int, dict[str, Any]]
"""Line of the file (row of a Parquet file, from 1) and what stands there by column."""

FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""{ending: format}."""


def find_format(path: Path) -> str:
    """ "json", "csv", "tsv" or "parquet" by the ending. Raises ValueError for another one."""
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise ValueError(f"{path} ends in none of {', '.join(FORMATS)}: name it after its format")
    return name


def format_place(path: Path, number: int) -> str:
    """Where a row stands, as an error says it."""
    return f"{path}: row {number}" if find_format(path) == "parquet" else f"{path}:{number}"


def read_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """All rows that are not blank.

    - `columns`: those that will be looked at; of a Parquet file no others are read. None for all.

    Raises OSError if the file cannot be read; ValueError naming file and line if it is malformed.
    """
    name = find_format(path)
    if name == "json":
        yield from read_json_rows(path)
    elif name == "parquet":
        yield from read_parquet_rows(path, columns)
    else:
        yield from read_csv_rows(path, "," if name == "csv" else "\t")


def list_columns(path: Path, limit: int | None = 1000) -> list[str]:
    """The columns of a file; of JSONL the keys of its first `limit` rows, None for all."""
    if find_format(path) == "parquet":
        return list(open_parquet(path).schema_arrow.names)
    if find_format(path) != "json":
        limit = 1  # the header names them all
    return list(dict.fromkeys(name for _, row in islice(read_rows(path), limit) for name in row))


def read_json_rows(path: Path) -> Iterator[Row]:
    """One JSON object a line, in UTF-8 with or without its mark."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number} is not UTF-8 ({error.reason}): save the file as UTF-8") from None
            except (json.JSONDecodeError, RecursionError) as error:
                what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                text = line.decode("utf-8").strip()[:80]
                raise ValueError(
                    f"{path}:{number} is no JSON ({what}): '{text}'. Each line is one object, such as "
                    '{"query_image": "a.jpg", "positive": "b.jpg", "label": 7}'
                ) from None
            if type(row) is not dict:
                raise ValueError(f"{path}:{number} holds a {type(row).__name__}: write one JSON object a line")
            yield number, row


def read_csv_rows(path: Path, delimiter: str) -> Iterator[Row]:
    """Rows below a header of column names, in UTF-8 with or without its mark; quotes as in RFC 4180."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if not any(header):
                return
            if len(set(header)) < len(header) or not all(header):
                raise ValueError(
                    f"{path}:1: the header must name every column once, not '{delimiter.join(header)}'"
                    + (" (pandas writes its index so: to_csv(..., index=False))" if not header[0] else "")
                )
            other = next((mark for mark in ";,\t|" if mark != delimiter and mark in header[0]), None)
            if len(header) == 1 and other is not None:
                raise ValueError(
                    f"{path}:1: its columns stand apart by {other!r}, not {delimiter!r}: "
                    "save it so, or name it .csv for commas and .tsv for tabs"
                )
            for cells in reader:
                if len(cells) <= 1 and not "".join(cells).strip():
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}:{reader.line_num} has {len(cells)} cells, and the header names {len(header)} columns"
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num} is malformed: {error}") from None
        except UnicodeDecodeError as error:
            line = reader.line_num + 1
            raise ValueError(f"{path}, near line {line}, is not UTF-8 ({error.reason}): save it as UTF-8") from None


def read_parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    """Rows of a Parquet file; lists stay lists."""
    file, number = open_parquet(path), 0
    names = [name for name in file.schema_arrow.names if columns is None or name in columns]
    for batch in file.iter_batches(columns=names):
        values_of_columns = [column.to_pylist() for column in batch.columns]
        for number, values in enumerate(zip(*values_of_columns, strict=True), start=number + 1):  # noqa: B020
            yield number, dict(zip(names, values, strict=True))


def open_parquet(path: Path) -> Any:
    """The opened Parquet file. Raises ValueError if pyarrow is missing, or the file is none."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError(f"{path} is read with pyarrow: run `python -m pip install pyarrow`") from None
    try:
        return ParquetFile(path)
    except ArrowException as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from None
