"""Splits that do not move when data grow: where an item belongs is a function of its own name."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b

import numpy as np

SPLITS = ("train", "val", "test")


def split_by_hash(
    keys: Sequence[str],
    *,
    val_share: float,
    test_share: float = 0.0,
    seed: int = 42,
    labels: np.ndarray | None = None,
    least: int = 1,
) -> dict[str, np.ndarray]:
    """Divide items into "train", "val" and "test"; returns {split: indices of its items, in their order}.

        h = hash_keys(keys, seed)         # evenly spread over [0, 1)
        test: h < test_share              val: h < test_share + val_share              train: the others

    - `keys`: what each item is called, whatever else there is: its class and file, an id; unique.
    - `val_share`, `test_share`: about how much of each class these get; 0 for no such split.
    - `seed`: another one divides otherwise.
    - `labels`: (N,) class of each item, from 0; None where all are alike, as when the items are classes themselves.
    - `least`: items of each class that each split gets, however the hashes fall.

    A split of a class that would get fewer than `least` is given those of its smallest hashes that are not in "test"
    already, and "train" keeps at least the `least` of largest ones. So no item goes from "train" into "val" or "test"
    when others are added, and an item that was not promoted stays where it is. The one exception is a class so small
    that this cannot hold: one with fewer than `least` for each split is in "train" alone, and of one whose items all
    hash into "val" and "test" some are in "train", until it grows.
    """
    hashes = hash_keys(keys, seed)
    labels = np.zeros(len(hashes), dtype=np.int64) if labels is None else np.asarray(labels)
    counts = np.bincount(labels)
    test = _is_below(hashes, Fraction(str(test_share)))
    held = _is_below(hashes, Fraction(str(test_share)) + Fraction(str(val_share)))
    in_test = np.bincount(labels[test], minlength=len(counts))
    in_held = np.bincount(labels[held], minlength=len(counts))
    later = least * ((val_share > 0) + 1)  # items that "val" and "train" get after "test"
    first = np.minimum(np.maximum(in_test, least), counts - later) * (test_share > 0)
    second = np.minimum(np.maximum(in_held - first, least), counts - first - least) * (val_share > 0)
    divisible = counts >= least * ((val_share > 0) + (test_share > 0) + 1)
    first, second = first * divisible, second * divisible
    ranks = rank_in_class(labels, hashes)
    is_test, is_held = ranks < first[labels], ranks < (first + second)[labels]
    return {
        "train": np.flatnonzero(~is_held),
        "val": np.flatnonzero(is_held & ~is_test),
        "test": np.flatnonzero(is_test),
    }


def take_by_hash(
    keys: Sequence[str], *, ratio: float = 1.0, shots: int | None = None, seed: int = 42, labels: np.ndarray
) -> np.ndarray:
    """Indices of about `ratio` of the items of each class, at least one, or of the `shots` of smallest hashes.

    Arguments as of `split_by_hash`, whose hashes are others. A larger share holds all of a smaller one.
    """
    hashes = hash_keys(keys, seed, purpose="subset")
    ranks = rank_in_class(labels, hashes)
    if shots is not None:
        return np.flatnonzero(ranks < shots)
    return np.flatnonzero(_is_below(hashes, Fraction(str(ratio))) | (ranks == 0))


def hash_keys(keys: Sequence[str], seed: int, purpose: str = "split") -> np.ndarray:
    """(N,) uint64: a hash of each key, evenly spread, the same on every machine.

    - `purpose`: hashes for another purpose are independent of these.
    """
    start = blake2b(f"{purpose}\0{seed}\0".encode(), digest_size=8)
    digests = bytearray()
    for key in keys:
        digest = start.copy()
        digest.update(key.encode("utf-8", "surrogateescape"))  # names of files need not be Unicode
        digests += digest.digest()
    return np.frombuffer(bytes(digests), dtype="<u8").astype(np.uint64)


def rank_in_class(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) the rank of each item among those of its class, from 0, when these are ordered by `values`."""
    order = np.lexsort((values, labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks


def _is_below(hashes: np.ndarray, share: Fraction) -> np.ndarray:
    """Which hashes are among the `share` of smallest ones. Exact: 0.1 means 1/10."""
    return hashes < np.uint64(share * 2**64) if share < 1 else np.ones(len(hashes), dtype=bool)
