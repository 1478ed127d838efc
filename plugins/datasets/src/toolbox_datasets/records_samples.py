"""Records with texts in them: one sample holds a query beside what it is to find."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from toolbox.base import find_similar_labels
from toolbox.utils.components import find_components
from toolbox_datasets import tables
from toolbox_datasets.records_fields import MODES, RecordReader
from toolbox_datasets.records_index import ImageNumbers, RecordIndex, sort_labels
from toolbox_datasets.subsets import carve_classes

COMPOSED = ("m2i", "m2t")
"""Modes whose query is an image with a text: alone neither of them says what is meant."""


@dataclass
class RecordSamples(RecordIndex):
    """What a file of records holds, read in a mode with texts: items are samples of a query and what it is to find.

    An id is the line of the record, and which of its positives.
    """

    def take_split(self, split: str, share: float, source: Path) -> Self:
        in_split = np.zeros(len(self.classes), dtype=bool)
        in_split[carve_classes(self.classes, share, split, source)] = True
        kept = np.flatnonzero(in_split[self.labels])
        indices = kept.tolist()
        used, labels = np.unique(self.labels[kept], return_inverse=True)
        return replace(
            self,
            fields={name: [values[index] for index in indices] for name, values in self.fields.items()},
            ids=[self.ids[index] for index in indices],
            labels=labels,
            classes=[self.classes[label] for label in used],
            groups=[self.groups[index] for index in indices] if self.groups else None,
        )


def read_samples(reader: RecordReader, folder: Path) -> RecordSamples:
    """The samples of a file, in its order.

    A record with several positive images gives one sample each; several positive texts stay together, as a list. In
    mode "i2t" the records of one image are one sample, which holds the texts of all, each once.
    Without labels, samples that share an image or a text form a class, directly or over others; where the query is
    an image with a text, only the two together count, and the positives.

    Raises OSError if the file cannot be read; ValueError, naming file and line, where a record is malformed, where it
    has no label while others have one, and where records of one image have different labels or groups.
    """
    mode, target = reader.mode, MODES[reader.mode]["positive"]
    images, shared = ImageNumbers(folder), SharedValues()
    values_of: dict[str, list[Any]] = {name: [] for name in MODES[mode].values()}
    ids: list[str] = []
    labels = array("q")
    names: dict[str, int] = {}
    groups: list[str] = []
    of_image = ImageSamples(reader)
    records = repeated = unused = 0
    for line, row in tables.read_rows(reader.path, reader.list_read_columns()):
        query, positives = read_record(reader, images, row, line)
        unused += bool(reader.read_several(row, line, "negatives"))
        label, group = reader.read_label(row, line), reader.read_scalar(row, line, "group")
        query_values = [("query", *query.values())] if mode in COMPOSED else list(query.values())
        joined = shared.join((*query_values, *positives), label is None)
        repeated += shared.add_record((*query.values(), *positives))
        records += 1
        if mode == "i2t" and of_image.add(query["image"], positives, label, group, line):
            continue
        is_text = target.endswith("text")  # several texts stay together
        targets = [positives] if is_text else positives
        for number, value in enumerate(targets, start=1):
            for name, query_value in query.items():
                values_of[name].append(query_value)
            values_of[target].append(value)
            ids.append(str(line) if len(targets) == 1 else f"{line}.{number}")
            labels.append(joined if label is None else names.setdefault(label, len(names)))
            groups.append(group or "")
    if target.endswith("text"):
        values_of[target] = [texts if len(texts) > 1 else texts[0] for texts in values_of[target]]
    labelled = reader.has_labels()
    if labelled:
        sorted_labels, classes = sort_labels(np.asarray(labels), list(names))
    else:
        # numbers count up, so classes are in the order of their first sample
        roots = shared.find_classes()[np.asarray(labels)]
        _, firsts, sorted_labels = np.unique(roots, return_index=True, return_inverse=True)
        classes = [f"line {ids[first]}" for first in firsts]
    notes = [*reader.notes(), *find_similar_labels(names)]
    if records > len(ids) and mode == "i2t":
        notes.append(f"{records:,} records name {len(ids):,} images: the texts of an image are one sample's")
    if repeated:
        notes.append(f"{repeated:,} of {records:,} records repeat an earlier one")
    if unused:
        notes.append(f"{unused:,} of {records:,} records carry negatives, which mode '{mode}' does not read")
    return RecordSamples(
        fields=values_of,
        ids=ids,
        paths=images.paths,
        image_lines=np.asarray(images.lines),
        labels=sorted_labels,
        classes=classes,
        labelled=labelled,
        groups=groups if any(groups) else None,
        notes=notes,
    )


class ImageSamples:
    """The texts of each image, over all records that name it."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._of: dict[int, tuple[list[str], str | None, str | None, int]] = {}

    def add(self, image: int, texts: list[str], label: str | None, group: str | None, line: int) -> bool:
        """Whether an earlier record names the image, to whose texts these were added; else they stay its list."""
        first = self._of.setdefault(image, (texts, label, group, line))
        all_texts, first_label, first_group, first_line = first
        if first_line == line:
            return False
        for field, before, here in (("label", first_label, label), ("group", first_group, group)):
            if field == "label" and None in (before, here):
                continue  # all records have one or none, which the reader tells at the end
            if before != here:
                now, then = (repr(name) if name is not None else "missing" for name in (here, before))
                what = f"is {now}, and {then} for the same image in line {first_line}"
                raise self._reader.make_error(line, field, what)
        all_texts += [text for text in texts if text not in all_texts]
        return True


def read_record(
    reader: RecordReader, images: ImageNumbers, row: Mapping[str, Any], line: int
) -> tuple[dict[str, Any], list[Any]]:
    """The query, {field of a sample: value}, and the positives of a record, images as numbers."""
    query: dict[str, Any] = {}
    for field, name in MODES[reader.mode].items():
        if field != "positive":
            text = reader.read_one(row, line, field)
            query[name] = images.number(text, line) if name == "image" else text
    positives: list[Any] = reader.read_required(row, line, "positive")
    if MODES[reader.mode]["positive"].endswith("image"):
        positives = list(dict.fromkeys(images.number(path, line) for path in positives))
    return query, positives


class SharedValues:
    """Values that records of a file share (texts, images, queries of both), and the classes that follow."""

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

    def add_record(self, values: tuple[Any, ...]) -> bool:
        """Count a record of these values; returns whether one was there before."""
        number, before = hash(values), len(self._records)
        self._records.add(number)
        return len(self._records) == before

    def find_classes(self) -> np.ndarray:
        """The class of each number that `join` returned."""
        return find_components(len(self._numbers), np.asarray(self._left), np.asarray(self._right))
