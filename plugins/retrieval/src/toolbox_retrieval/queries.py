"""Which queries and which K a gallery can answer: before a run by the dataset, afterwards by the items themselves."""

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
    """What makes Recall at these K meaningless on a dataset."""
    if found := check_labelled("Recall@K", dataset):
        return found
    labels = list(map(int, dataset.labels))
    if (roles := getattr(dataset, "roles", None)) is None:
        most, answerable = len(labels) - 1, len(set(labels)) < len(labels)
        nothing = "No two items of this dataset share a class, so no query has anything to find."
        hint = "Use a dataset with several items in a class."
    else:
        queries, gallery = (
            [label for label, role in zip(labels, roles, strict=True) if role == wanted]
            for wanted in ("query", "gallery")
        )
        most, answerable = len(gallery), not set(queries).isdisjoint(gallery)
        nothing = f"No class of the {len(queries)} queries is among the {len(gallery)} items of the gallery."
        hint = "Use a dataset whose gallery holds the classes of its queries."
    if not answerable:
        return [Problem(nothing, hint=hint)]
    fitting = [k for k in ks if k <= most] or [most]
    if max(ks) <= most:
        return []
    message = (
        f"Recall@{max(ks)} asks for more than the {most} items that a query is compared with: the largest K is {most}."
    )
    return [Problem(message, "ks", f"use ks=[{','.join(map(str, fitting))}]")]


def largest_k(items: Items) -> int:
    """How many items of the gallery a query is compared with: all of them but itself."""
    within = items.alone or bool((items.own() >= 0).all())
    return len(items.gallery) - int(within)


def fitting_ks(ks: Sequence[int], items: Items) -> list[int]:
    """The K that are not above what a query is compared with. Raises ValueError where none is."""
    most = largest_k(items)
    fitting = [k for k in ks if k <= most]
    if not fitting:
        raise ValueError(f"Recall@{min(ks)} asks for more than the {most} items that a query is compared with")
    return fitting


def check_answerable(rank: Tensor) -> None:
    """Raise ValueError where no query has a positive, by what `rank_queries` gives as "rank"."""
    if not bool((rank > 0).any()):
        raise ValueError(f"none of the {len(rank)} queries has an item of its class to find: nothing can be judged")


def remarks(ks: Sequence[int], items: Items, rank: Tensor, lone: Lone) -> list[str]:
    """What must be said with the numbers: queries that nothing can answer, and K that were left out."""
    found, most = [], largest_k(items)
    if absent := int((rank == 0).sum()):
        fate = "they count as misses in Recall@K" if lone == "miss" else "they are left out of all means"
        found.append(f"{absent:,} of {len(rank):,} queries have no other item of their class to find: {fate}.")
    if large := [k for k in sorted(ks) if k > most]:
        listed = ", ".join(f"Recall@{k}" for k in large)
        found.append(f"{listed} is left out: a query is compared with {most:,} items.")
    return found
