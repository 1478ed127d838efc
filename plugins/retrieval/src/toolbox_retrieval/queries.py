"""Checks of the queries and the K that a gallery can answer: before a run by the dataset, afterwards by the items."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from toolbox.base import Dataset
from toolbox.plugin import Problem
from toolbox.utils.accumulators import Items, check_labelled
from toolbox.utils.ranking import Lone


def check_arguments(ks: Sequence[int] | None, memory_mb: int, lone: Lone) -> list[int]:
    """The K of a metric, 1 to 1000 by default. Raises ValueError for arguments that make no sense."""
    ks = [1, 10, 100, 1000] if ks is None else list(ks)
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ValueError(f"ks must be different numbers from 1 up, not {ks}: try ks=[1,10]")
    if memory_mb < 1:
        raise ValueError(f"memory_mb must be at least 1, not {memory_mb}: try 512")
    if lone not in ("miss", "skip"):
        raise ValueError(f"lone must be 'miss' or 'skip', not {lone!r}")
    return ks


def check_labels(dataset: Dataset, ks: Sequence[int]) -> list[Problem]:
    """The problems that make Recall at these K meaningless on a dataset."""
    if dataset.labels is None:
        return check_labelled("Recall@K", dataset)
    labels = list(map(int, dataset.labels))
    if (roles := getattr(dataset, "roles", None)) is None:
        largest, answerable = len(labels) - 1, len(set(labels)) < len(labels)
        message = "No two items of this dataset share a class, so no query has anything to find."
        hint = "Use a dataset with several items in a class."
    else:
        pairs = list(zip(labels, roles, strict=True))
        queries, gallery = ([label for label, role in pairs if role == name] for name in ("query", "gallery"))
        largest, answerable = len(gallery), not set(queries).isdisjoint(gallery)
        message = f"No class of the {len(queries)} queries is among the {len(gallery)} items of the gallery."
        hint = "Use a dataset whose gallery holds the classes of its queries."
    if not answerable:
        return [Problem(message, hint=hint)]
    if max(ks) <= largest:
        return []
    fitting = [k for k in ks if k <= largest] or [largest]
    compared = f"the {largest} items that a query is compared with"
    message = f"Recall@{max(ks)} asks for more than {compared}: the largest K is {largest}."
    return [Problem(message, "ks", f"use ks=[{','.join(map(str, fitting))}]")]


def find_largest_k(items: Items) -> int:
    """How many items of the gallery a query is compared with: all of them but itself."""
    within = items.is_symmetric or bool((items.find_self_rows() >= 0).all())
    return len(items.gallery) - int(within)


def select_ks(ks: Sequence[int], items: Items) -> list[int]:
    """The K that are not above the number of items that a query is compared with. Raises ValueError without any."""
    largest = find_largest_k(items)
    fitting = [k for k in ks if k <= largest]
    if not fitting:
        raise ValueError(f"Recall@{min(ks)} asks for more than the {largest} items that a query is compared with")
    return fitting


def check_answerable(rank: Tensor) -> None:
    """Raise ValueError where no query has a positive, by the "rank" of `rank_queries`."""
    if not bool((rank > 0).any()):
        raise ValueError(f"none of the {len(rank)} queries has an item of its class to find: nothing can be evaluated")


def list_remarks(ks: Sequence[int], items: Items, rank: Tensor, lone: Lone) -> list[str]:
    """The remarks on the numbers: queries that nothing can answer, and K that were left out."""
    remarks, largest = [], find_largest_k(items)
    if absent := int((rank == 0).sum()):
        fate = "they count as misses in Recall@K" if lone == "miss" else "they are left out of all means"
        remarks.append(f"{absent:,} of {len(rank):,} queries have no other item of their class to find: {fate}.")
    if large := [k for k in sorted(ks) if k > largest]:
        names = ", ".join(f"Recall@{k}" for k in large)
        remarks.append(f"{names} is left out: a query is compared with {largest:,} items.")
    return remarks
