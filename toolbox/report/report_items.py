"""`report_items.json`: what the metrics of a run showed beyond their numbers, for pages and comparisons made later."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from toolbox.base.files import write_text
from toolbox.base.report_items import Curve, Example, Gallery, Histogram, Matrix, Outcomes, ReportItem, Table
from toolbox.base.scalars import as_plain
from toolbox.errors import ToolboxError

NAME = "report_items.json"
FORMAT = 1
DIGITS = 7

_KINDS = {kind.__name__.lower(): kind for kind in (Gallery, Table, Curve, Histogram, Matrix, Outcomes)}


def save_report_items(path: str | Path, report_items: Iterable[ReportItem]) -> Path:
    """Write report items as strict JSON, in one step: the whole file or none. Returns its path.

    - `path`: the file, or an existing folder, in which it is called report_items.json.

    Numbers that are not finite become null, and floats keep 7 digits, which is what float32 holds. NumPy's numbers,
    and tensors of one number, are written as plain ones. Raises ToolboxError when the disk refuses, or when a report
    item is none of the six kinds or holds what JSON cannot.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    content = {"format": FORMAT, "report_items": [_to_dict(normalize_report_item(item)) for item in report_items]}
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    write_text(path, text + "\n", hint="Free some space or make the folder writable.")
    return path


def load_report_items(path: str | Path) -> list[ReportItem]:
    """The report items of a file that `save_report_items` wrote; a null among numbers comes back as NaN.

    - `path`: the file, or the folder that holds report_items.json.

    Raises ToolboxError when there is none, or when it is damaged.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolboxError(f"The report items cannot be read: {error.strerror or error}.", where=str(path)) from error
    except ValueError as error:
        raise _make_damage_error(path, str(error)) from error
    if not isinstance(held, dict) or held.get("format") != FORMAT or not isinstance(held.get("report_items"), list):
        raise _make_damage_error(path, f"it is not of format {FORMAT}")
    try:
        return [_read_report_item(item) for item in held["report_items"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _make_damage_error(path, f"{type(error).__name__}: {error}") from error


def normalize_report_item(report_item: ReportItem) -> ReportItem:
    """A report item as it would come back from the file. Raises ToolboxError where `save_report_items` would."""
    values = _to_dict(report_item)
    try:
        return _read_report_item(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ToolboxError(f"The {values['kind']} {report_item.title!r} of a metric is malformed: {error}.") from error


def _to_dict(report_item: ReportItem) -> dict[str, Any]:
    kind = type(report_item).__name__.lower()
    if _KINDS.get(kind) is not type(report_item):
        known = ", ".join(kind.__name__ for kind in _KINDS.values())
        raise ToolboxError(
            f"A metric gave a {type(report_item).__name__} as a report item.", hint=f"Report items are {known}."
        )
    try:
        return {"kind": kind, **_round_floats(as_plain(asdict(report_item)))}
    except ValueError as error:
        raise ToolboxError(
            f"The {kind} {report_item.title!r} cannot be written as JSON: {error}.",
            hint="The report items of a metric hold texts, numbers, lists and dicts.",
        ) from error


def _make_damage_error(path: Path, why: str) -> ToolboxError:
    return ToolboxError(
        f"The file is damaged: {why}.", where=str(path), hint="Evaluate again to write it anew, or remove it."
    )


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round_floats(item) for item in value]
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{DIGITS}g}")


def _read_report_item(item: dict[str, Any]) -> ReportItem:
    kind = _KINDS[item["kind"]]
    known = {field.name for field in fields(kind)}
    values = {name: value for name, value in item.items() if name in known}  # a later version may say more
    if kind is Gallery:
        values["examples"] = [
            Example(
                _read_shown(example["query"]),
                [(_read_shown(shown), bool(right), _read_float(s)) for shown, right, s in example["results"]],
                str(example.get("note", "")),
            )
            for example in values["examples"]
        ]
    elif kind is Curve:
        values["series"] = {
            name: [(_read_float(x), _read_float(y)) for x, y in s] for name, s in values["series"].items()
        }
    elif kind is Histogram:
        values["edges"] = [_read_float(edge) for edge in values["edges"]]
        values["series"] = {name: [_read_float(share) for share in shares] for name, shares in values["series"].items()}
    elif kind is Matrix:
        values["values"] = [[_read_float(value) for value in row] for row in values["values"]]
        names = values["rows"], values["columns"]
        if [len(row) for row in values["values"]] != [len(names[1])] * len(names[0]):
            raise ValueError("values, rows and columns differ in length")
        values["rows"], values["columns"] = ([str(name) for name in side] for side in names)
    elif kind is Outcomes:
        values["values"] = [_read_float(value) for value in values["values"]]
        for name in ("ids", "groups"):
            values[name] = [str(text) for text in values.get(name, [])]
        if len(values["ids"]) != len(values["values"]) or len(values["groups"]) not in (0, len(values["ids"])):
            raise ValueError("ids, values and groups differ in length")
    elif not all(isinstance(row, list) and len(row) == len(values["columns"]) for row in values["rows"]):
        raise ValueError("a row and the columns differ in length")
    return kind(**values)


def _read_shown(value: Any) -> int | str:
    """What a gallery shows: a text, or the index of an item."""
    return value if isinstance(value, str) else int(value)


def _read_float(value: Any) -> float:
    return math.nan if value is None else float(value)
