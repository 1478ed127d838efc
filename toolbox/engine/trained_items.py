"""Which items a run was trained on: kept in its checkpoints, so that no evaluation counts them as new without a word.

An item is known by a digest of what its dataset says identifies it (`Dataset.identities`), 8 bytes each: for an image
its class, name and size, wherever its folder lies. Images of other data may share these; so of files up to `SAMPLED`,
those with the smallest digests, the beginning of their content is kept too, and those that begin otherwise are others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from toolbox.base import Dataset

SAMPLED, HEAD, READERS = 50_000, 16_384, 16


def _none() -> np.ndarray:
    return np.empty(0, np.uint64)


@dataclass(frozen=True)
class TrainedItems:
    """Digests of the items that a model was trained on.

    - `items`: (N,) uint64, different ones in rising order.
    - `sampled`: (M,) those of `items` whose content is known, one more than once where files of several contents share
      it; `contents`: (M,) their digests.
    """

    items: np.ndarray = field(default_factory=_none)
    sampled: np.ndarray = field(default_factory=_none)
    contents: np.ndarray = field(default_factory=_none)

    def __or__(self, other: TrainedItems) -> TrainedItems:
        """The items of both."""
        pairs = [np.stack([part.sampled, part.contents], axis=1) for part in (self, other)]
        sampled, contents = np.unique(np.concatenate(pairs), axis=0).T
        return TrainedItems(np.union1d(self.items, other.items), sampled, contents)

    def count_in(self, dataset: Dataset) -> int:
        """How many items of a dataset are among these; 0 where it does not say what identifies them."""
        digests = _digests(dataset.identities())
        known = np.flatnonzero(np.isin(digests, self.items))
        files = _files_of(dataset)
        if files is None or not len(known) or not len(self.sampled):
            return len(known)
        is_sampled = np.isin(digests[known], self.sampled)
        here = known[is_sampled].tolist()
        pairs = set(zip(self.sampled.tolist(), self.contents.tolist(), strict=True))
        contents = _contents([files[index] for index in here]).tolist()
        same = sum(pair in pairs for pair in zip(digests[here].tolist(), contents, strict=True))
        others = int((~is_sampled).sum())
        return same + (others if same or not len(here) else 0)  # where all that were looked at are others, so are these

    def save(self, path: Path) -> None:
        """Write them to a file of NumPy's, without pickles."""
        with path.open("wb") as file:
            np.savez(file, items=self.items, sampled=self.sampled, contents=self.contents)

    @classmethod
    def load(cls, path: Path) -> TrainedItems:
        """Raises ValueError for a file that `save` has not written."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                items, sampled, contents = (archive[name] for name in ("items", "sampled", "contents"))
        except Exception as error:  # of the archive, of its compression, of NumPy's: the file may be anyone's
            raise ValueError(f"{path.name} holds no digests of items ({type(error).__name__}: {error})") from error
        arrays = (items, sampled, contents)
        if any(array.dtype.kind != "u" or array.ndim != 1 for array in arrays) or len(sampled) != len(contents):
            raise ValueError(f"{path.name} holds no digests of items, or not as many of contents as of sampled ones")
        return cls(*(array.astype(np.uint64) for array in arrays))


def items_of(dataset: Dataset) -> TrainedItems:
    """The items of a dataset; none where it does not say what identifies them."""
    digests = _digests(dataset.identities())
    items = np.unique(digests)
    files = _files_of(dataset)
    if files is None or not len(items):
        return TrainedItems(items)
    smallest = np.argsort(digests, kind="stable")[:SAMPLED]
    return TrainedItems(items, digests[smallest], _contents([files[index] for index in smallest.tolist()]))


def sentence(count: int, total: int, name: str) -> str:
    """What is said of trained items in a set that is evaluated."""
    if count >= total:
        return f"All {total:,} items of the {name} set were trained on: these are numbers of training."
    return (
        f"{count:,} of the {total:,} items of the {name} set were trained on: its numbers are too good. Evaluate on "
        "other items, or train anew on these data."
    )


def unknown(checkpoint: str | os.PathLike[str]) -> str:
    """What is said of a checkpoint that does not know its items."""
    return (
        f"The checkpoint {checkpoint} does not say what it was trained on, and earlier versions divided data into "
        "splits otherwise: items that are evaluated here may have been trained on. Train anew to be sure."
    )


def _digests(identities: Iterable[str] | None) -> np.ndarray:
    digests = bytearray()
    for identity in identities or ():
        digests += blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return np.frombuffer(bytes(digests), dtype="<u8").astype(np.uint64)


def _files_of(dataset: Dataset) -> list[str] | None:
    """The file of each item, None where items are no files."""
    files = dataset.item_files()
    return None if files is None else [os.fspath(path) for path in files]


def _contents(paths: list[str]) -> np.ndarray:
    """(N,) digests of how files begin; 0 for those that cannot be read."""
    with ThreadPoolExecutor(READERS) as pool:
        return np.fromiter(pool.map(_content, paths, chunksize=64), dtype=np.uint64, count=len(paths))


def _content(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int.from_bytes(blake2b(file.read(HEAD), digest_size=8).digest(), "little")
    except OSError:
        return 0
