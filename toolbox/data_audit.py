"""Duplicates, leaks and unreadable files: what the images and texts of several splits have in common."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from toolbox.base import Dataset
from toolbox.engine.data.samples import read_sample
from toolbox.engine.data.texts import digest_text, list_texts

NEAR = 3
"""Bits in which the hashes of near duplicates differ at most."""

CROWD = 256
"""Different images of one hash, above which the hash says nothing of them: blank pages, mostly background."""

MASKS = [np.packbits(np.indices((8, 8)).sum(0) % 4 == part).view(">u8").astype(np.uint64)[0] for part in range(4)]
"""Four parts of a hash, 16 bits each from all over the image: hashes that differ in 3 bits agree in one of them."""


@dataclass(slots=True)
class Fingerprint:
    """What is kept of an item.

    - `split`, `index`, `id`, `path`: which one.
    - `label`: the name of its class; `named`: whether this name means the same in other data.
    - `file`: SHA-256 of the file's bytes, None for an item without a file; `pixels`: digest of size and pixels.
    - `hash`: `compute_difference_hash`. - `error`: why it could not be read, else "".
    - `texts`: a digest of each of its texts; `words`: how many the longest of them has.
    """

    split: str
    index: int
    id: int | str
    path: str = ""
    label: str | None = None
    named: bool = True
    file: bytes | None = None
    pixels: bytes | None = None
    hash: int = 0
    error: str = ""
    texts: tuple[int, ...] = ()
    words: int = 0


class Pair(NamedTuple):
    """Two items that are the same or alike, as places in a list of fingerprints; `first` comes first.

    - `kind`: "same file", "same pixels" (of another file), "near" or "repeated texts".
    - `distance`: bits in which the hashes differ.
    """

    kind: str
    first: int
    second: int
    distance: int = 0


def read_fingerprints(dataset: Dataset, split: str, *, near: bool = False, workers: int = 4) -> Iterator[Fingerprint]:
    """A fingerprint of each item, in order; unreadable items have an `error`. Several threads decode."""
    labels, classes, named = dataset.labels, dataset.classes, dataset.has_class_names

    def read(index: int) -> Fingerprint:
        name = None if labels is None or classes is None else str(classes[labels[index]])
        fingerprint = Fingerprint(split, index, index, label=name, named=named)
        try:
            sample = read_sample(dataset, index)
            fingerprint.id, fingerprint.path = sample["id"], str(sample.get("path") or "")
            if "text" in sample:
                texts = list_texts(sample["text"])
                fingerprint.texts = tuple(dict.fromkeys(map(digest_text, texts)))
                fingerprint.words = max(len(text.split()) for text in texts)
            if "image" not in sample:
                if "text" in sample:
                    return fingerprint
                raise ValueError("the item holds no image")
            if fingerprint.path and Path(fingerprint.path).is_file():
                fingerprint.file = hashlib.sha256(Path(fingerprint.path).read_bytes()).digest()
            fingerprint.pixels = digest_pixels(sample["image"])
            fingerprint.hash = compute_difference_hash(sample["image"]) if near else 0
        except (OSError, ValueError) as error:
            fingerprint.error = str(error) or type(error).__name__
        return fingerprint

    window = 64 * workers  # not all at once: a stop waits for what has begun
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(dataset), window):
            yield from pool.map(read, range(start, min(start + window, len(dataset))))


def digest_pixels(image: Image.Image) -> bytes:
    """The same for images of one size whose RGB pixels are the same."""
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.convert("RGB").tobytes())
    return digest.digest()


def compute_difference_hash(image: Image.Image) -> int:
    """64 bits, row by row: whether a pixel is brighter than the next one to its left, in 9 x 8 gray pixels.

    Source: N. Krawetz, "Kind of like that", 2013 (dHash). Scaling, compression and slight changes of color keep most.
    """
    gray = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS))
    return int.from_bytes(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), "big")


def find_duplicates(items: Sequence[Fingerprint]) -> Iterator[Pair]:
    """The exact duplicates: each item beside the first copy of it in its own split, and in each split before.

    Of several copies the first with the same file counts, else the first with the same pixels.
    """
    splits = list(dict.fromkeys(item.split for item in items))
    first: dict[tuple[str, bytes], int] = {}
    for place, item in enumerate(items):
        if item.error or item.pixels is None:
            continue
        for split in splits[: splits.index(item.split) + 1]:
            same_file = None if item.file is None else first.get((split, b"f" + item.file))
            same_pixels = first.get((split, b"p" + item.pixels))
            if same_file is not None:
                yield Pair("same file", same_file, place)
            elif same_pixels is not None:
                yield Pair("same pixels", same_pixels, place)
        if item.file is not None:
            first.setdefault((item.split, b"f" + item.file), place)
        first.setdefault((item.split, b"p" + item.pixels), place)


def find_repeated_texts(items: Sequence[Fingerprint]) -> Iterator[Pair]:
    """Each text of an item beside the first item that has it, in its own split and in each split before."""
    splits = list(dict.fromkeys(item.split for item in items))
    first: dict[tuple[str, int], int] = {}
    for place, item in enumerate(items):
        for split in splits[: splits.index(item.split) + 1]:
            yield from (
                Pair("repeated texts", first[split, text], place) for text in item.texts if (split, text) in first
            )
        for text in item.texts:
            first.setdefault((item.split, text), place)


def find_near_duplicates(items: Sequence[Fingerprint]) -> tuple[Iterator[Pair], int]:
    """Pairs of different images whose hashes differ in at most `NEAR` bits: candidates, to be looked at.

    Of exact copies in a split only the first takes part. Returns the pairs, and how many images were left out because
    more than `CROWD` share their hash.
    """
    places: dict[tuple[str, bytes], int] = {}
    for place, item in enumerate(items):
        if not item.error and item.pixels is not None:
            places.setdefault((item.split, item.pixels), place)
    chosen = np.fromiter(places.values(), dtype=np.int64, count=len(places))
    hashes, of, sizes = np.unique(
        np.array([items[place].hash for place in chosen], dtype=np.uint64), return_inverse=True, return_counts=True
    )
    members = np.split(chosen[np.argsort(of, kind="stable")], np.cumsum(sizes)[:-1])
    crowded = sizes > CROWD
    kept = np.flatnonzero(~crowded)

    def pairs() -> Iterator[Pair]:
        for number in kept[sizes[kept] > 1].tolist():
            group = members[number].tolist()
            for at, first in enumerate(group):
                yield from (Pair("near", first, second, 0) for second in group[at + 1 :] if differ(first, second))
        for a, b, distance in find_close_hashes(hashes[kept]):
            for first in members[kept[a]].tolist():
                for second in members[kept[b]].tolist():
                    yield Pair("near", min(first, second), max(first, second), distance)

    def differ(first: int, second: int) -> bool:
        return items[first].pixels != items[second].pixels

    return pairs(), int(sizes[crowded].sum())


def find_close_hashes(hashes: np.ndarray, chunk: int = 1024) -> Iterator[tuple[int, int, int]]:
    """(i, j, bits) of all pairs of different hashes that differ in 1 to `NEAR` bits, i < j, each once.

    - `hashes`: (N,) uint64, all different.

    Only hashes that agree in one of the four `MASKS` are compared, which all such pairs do. A pair that agrees in
    several is found in the first of them.
    """
    for part, mask in enumerate(MASKS):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        for group in np.split(order, borders):
            for start in range(0, len(group) - 1, chunk):
                rows, columns = group[start : start + chunk], group[start:]
                other = hashes[rows][:, None] ^ hashes[columns][None]
                less = other
                for _ in range(NEAR):  # each step clears a bit
                    less = less & (less - (less > 0))
                new = (less == 0) & (np.arange(len(rows))[:, None] < np.arange(len(columns))[None])
                for earlier in MASKS[:part]:
                    new &= (other & earlier) != 0
                for row, column in zip(*np.nonzero(new), strict=True):
                    i, j = sorted((int(rows[row]), int(columns[column])))
                    yield i, j, int(other[row, column]).bit_count()


def name_splits(items: Sequence[Fingerprint], pair: Pair) -> str:
    """The split that both items are in, or the two, as "train+test"."""
    splits = items[pair.first].split, items[pair.second].split
    return splits[0] if splits[0] == splits[1] else "+".join(splits)


def is_label_conflict(items: Sequence[Fingerprint], pair: Pair) -> bool:
    """Whether the items are of different classes, in one split or in two.

    An item without a label contradicts none; nor do classes of two splits whose names are those of lines or files.
    """
    first, second = items[pair.first], items[pair.second]
    if first.split != second.split and not (first.named and second.named):
        return False
    return None not in (first.label, second.label) and first.label != second.label


class Counts:
    """The numbers of an audit: {name of the row: {split, or "train+test": number}}."""

    def __init__(self, items: Sequence[Fingerprint]) -> None:
        self.items = items
        self.rows: dict[str, Counter[str]] = {
            "images": Counter(item.split for item in items),
            "unreadable": Counter(item.split for item in items if item.error),
            "same file": Counter(),
            "same pixels": Counter(),
            "label conflicts": Counter(),
            "near": Counter(),
            "classes in both": Counter(),
        }
        if any(item.texts for item in items):
            self.rows["texts"], self.rows["repeated texts"] = Counter(), Counter()
            self.rows["words of the longest"] = Counter()
            for item in items:
                self.rows["texts"][item.split] += len(item.texts)
                longest = self.rows["words of the longest"]
                longest[item.split] = max(longest[item.split], item.words)
        names: dict[str, set[str]] = {}
        for item in items:
            if item.named:
                names.setdefault(item.split, set()).update(() if item.label is None else [item.label])
        splits = list(names)
        for at, second in enumerate(splits):
            for first in splits[:at]:
                self.rows["classes in both"][f"{first}+{second}"] = len(names[first] & names[second])

    def add(self, pair: Pair) -> None:
        """Count a pair."""
        place = name_splits(self.items, pair)
        self.rows[pair.kind][place] += 1
        if pair.kind.startswith("same"):
            self.rows["label conflicts"][place] += is_label_conflict(self.items, pair)
