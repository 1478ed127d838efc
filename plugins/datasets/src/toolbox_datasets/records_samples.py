"""Records with texts in them: one sample holds a query beside what it is to find."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolbox.base import find_similar_labels
from toolbox_datasets import tables
from toolbox_datasets.records_fields import MODES, Reader
from toolbox_datasets.records_index import Images, components, in_order
from toolbox_datasets.splits import carve

COMPOSED = ("m2i", "m2t")
"""Modes whose query is an image with a text: alone neither of them says what is meant."""


@dataclass
class Samples:
    """What a file of records holds, by field of a sample.

    - `fields`: {"text", "image" ...: its value in each sample}, images as numbers into `paths`.
    - `ids`: line of the record, and which of its positives; `lines`: (N,) the former.
    - `labels`: (N,) class of each sample; `classes`: names; `groups`: super-classes, None where there are none.
    - `image_lines`: (len(paths),) where each image is named first.
    """

    fields: dict[str, list[Any]]
    ids: list[str]
    lines: np.ndarray
    labels: np.ndarray
    classes: list[str]
    groups: list[str] | None
    paths: list[str]
    image_lines: np.ndarray
    notes: list[str]


def read_samples(reader: Reader, folder: Path) -> Samples:
    """The samples of a file, in its order.

    A record with several positive images gives one sample each; several positive texts stay together, as a list.
    Without labels, samples that share an image or a text form a class, directly or over others; where the query is
    an image with a text, only the two together count, and the positives.

    Raises OSError if the file cannot be read; ValueError, naming file and line, where a record is malformed, or has no
    label while others have one.
    """
    fields, mode = MODES[reader.mode], reader.mode
    images, keys = Images(folder), Keys()
    found: dict[str, list[Any]] = {name: [] for name in fields.values()}
    ids: list[str] = []
    lines, labels = array("q"), array("q")
    names: dict[str, int] = {}
    groups: list[str] = []
    records = repeated = unused = 0
    for line, row in tables.rows(reader.path, reader.wanted()):
        query = {
            name: images.number(reader.one(row, line, field), line) if name == "image" else reader.one(row, line, field)
            for field, name in fields.items()
            if field != "positive"
        }
        target = fields["positive"]
        right: list[Any] = reader.needed(row, line, "positive")
        if target.endswith("image"):
            right = list(dict.fromkeys(images.number(path, line) for path in right))
        unused += bool(reader.several(row, line, "negatives"))
        label, group = reader.label(row, line), reader.scalar(row, line, "group")
        asked = [("query", *query.values())] if mode in COMPOSED else list(query.values())
        new = keys.join((*asked, *right), label is None)
        repeated += keys.seen((*query.values(), *right))
        together = target.endswith("text")
        for number, value in enumerate([right if len(right) > 1 else right[0]] if together else right, start=1):
            for name, part in query.items():
                found[name].append(part)
            found[target].append(value)
            ids.append(str(line) if together or len(right) == 1 else f"{line}.{number}")
            lines.append(line)
            labels.append(new if label is None else names.setdefault(label, len(names)))
            groups.append(group or "")
        records += 1
    if reader.labelled():
        of, classes = in_order(np.asarray(labels), list(names))
    else:
        # numbers count up, so classes are in the order of their first sample
        _, firsts, of = np.unique(keys.classes()[np.asarray(labels)], return_index=True, return_inverse=True)
        classes = [f"line {ids[first]}" for first in firsts]
    notes = [*reader.notes(), *find_similar_labels(names)]
    if repeated:
        notes.append(f"{repeated:,} of {records:,} records repeat an earlier one")
    if unused:
        notes.append(f"{unused:,} of {records:,} records carry negatives, which mode '{mode}' does not read")
    return Samples(
        found, ids, np.asarray(lines), of, classes, groups if any(groups) else None, images.paths,
        np.asarray(images.lines), notes,
    )  # fmt: skip


class Keys:
    """What the records of a file share: texts, images, and queries of both."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._left, self._right = array("q"), array("q")
        self._records: set[int] = set()

    def join(self, values: Sequence[Any], used: bool) -> int:
        """Say that these belong together; returns a number that stands for them. Nothing is kept unless `used`."""
        if not used:
            return -1
        numbers = [self._numbers.setdefault(value, len(self._numbers)) for value in values]
        self._left.extend(numbers[:1] * (len(numbers) - 1))
        self._right.extend(numbers[1:])
        return numbers[0]

    def seen(self, values: tuple[Any, ...]) -> bool:
        """Whether a record of these was there before."""
        number, before = hash(values), len(self._records)
        self._records.add(number)
        return len(self._records) == before

    def classes(self) -> np.ndarray:
        """The class of each number that `join` returned."""
        return components(len(self._numbers), np.asarray(self._left), np.asarray(self._right))


def divided(samples: Samples, split: str, share: float, source: Path) -> Samples:
    """The part of "train" or "val": about `share` of the classes are held out, by their names."""
    wanted = np.zeros(len(samples.classes), dtype=bool)
    wanted[carve(samples.classes, share, split, source)] = True
    keep = np.flatnonzero(wanted[samples.labels])
    used, labels = np.unique(samples.labels[keep], return_inverse=True)
    return replace(
        samples, fields={name: [values[index] for index in keep.tolist()] for name, values in samples.fields.items()},
        ids=[samples.ids[index] for index in keep.tolist()], lines=samples.lines[keep],
        labels=labels, classes=[samples.classes[label] for label in used],
        groups=[samples.groups[index] for index in keep.tolist()] if samples.groups else None,
    )  # fmt: skip
