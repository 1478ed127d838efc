"""Exact retrieval metrics by cosine similarity: Recall@K, MAP@R, R-precision and the mean reciprocal rank."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, Dataset, Example, Finding, Gallery, Metric, gather, world
from toolbox.core.ranking import normalize_rows, rank_queries, summarize
from toolbox.errors import Problem


class RetrievalRecall(Metric):
    """How well items of one class find each other, each item being a query against all others.

    - `ks`: the K of Recall@K; None for 1, 10, 100 and 1000, the protocol of Stanford Online Products.
    - `memory_mb`: cap on the working memory in MiB beyond the embeddings; changes speed, not results.
    - `lone`: what a query without any positive in the gallery does to Recall@K. "miss": it counts as a miss.
      "skip": it is left out. It is always left out of the other numbers.

    Reads `outputs["embeddings"]` (B, D), of any length; `batch["labels"]` (B,) and `batch["ids"]`, B ints or strings.
    A batch may carry `batch["roles"]`, B times "query" or "gallery": then queries are compared with the gallery only.
    An item is never found by itself, known by its id wherever it stands, and an id seen twice counts once.

    `compute` gives "recall@K" for each K, "map@r", "r_precision" and "mrr" (each 0 to 1; see toolbox/core/ranking.py),
    "queries", and "queries_without_positive". Every process gets the same numbers, for any number of processes.
    Raises ValueError for arguments that make no sense, and for batches without labels or ids.
    """

    def __init__(self, ks: list[int] | None = None, memory_mb: int = 512, lone: Literal["miss", "skip"] = "miss"):
        self.ks = [1, 10, 100, 1000] if ks is None else list(ks)
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks must be different numbers from 1 up, not {self.ks}: try ks=[1,10]")
        if memory_mb < 1:
            raise ValueError(f"memory_mb must be at least 1, not {memory_mb}: try 512")
        if lone not in ("miss", "skip"):
            raise ValueError(f"lone must be 'miss' or 'skip', not {lone!r}")
        self.memory_mb, self.lone = memory_mb, lone
        self.reset()

    def reset(self) -> None:
        self._embeddings: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._ids: list[int | str] = []
        self._indices: list[int] = []
        self._roles: list[str] = []

    def names(self) -> list[str]:
        recalls = [f"recall@{k}" for k in self.ks]
        return [*recalls, "map@r", "r_precision", "mrr", "queries", "queries_without_positive"]

    def check(self, dataset: Dataset) -> list[Problem]:
        if dataset.labels is None:
            message = "Recall@K needs labels, and this dataset has none."
            return [Problem(message, hint="Use a labelled dataset, or another metric.")]
        largest = len(dataset) - 1
        if len(set(map(int, dataset.labels))) > largest:
            message = "No two items of this dataset share a class, so no query has anything to find."
            return [Problem(message, hint="Use a dataset with several items in a class.")]
        fitting = [k for k in self.ks if k <= largest] or [largest]
        if fitting == self.ks:
            return []
        message = (
            f"Recall@{max(self.ks)} asks for more than the {largest} items that a query is compared with: "
            f"the largest K is {largest}."
        )
        return [Problem(message, "ks", f"use ks=[{','.join(map(str, fitting))}]")]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        labels, ids, roles = batch.get("labels"), batch.get("ids"), batch.get("roles")
        if "embeddings" not in outputs:
            raise ValueError(f"Recall@K reads the model's 'embeddings', and this model gives {sorted(outputs)}")
        if labels is None or ids is None:
            raise ValueError("Recall@K needs labels and ids, and this batch lacks them: use a labelled dataset")
        embeddings = outputs["embeddings"].detach().float()
        if not len(embeddings) == len(labels) == len(ids) == len(ids if roles is None else roles):
            raise ValueError(
                f"one label, id and role belong to each embedding, but there are {len(embeddings)} embeddings, "
                f"{len(labels)} labels and {len(ids)} ids" + ("" if roles is None else f" and {len(roles)} roles")
            )
        if unknown := set(roles or ()) - {"query", "gallery"}:
            raise ValueError(f"roles are 'query' or 'gallery', not {sorted(unknown)}")
        self._embeddings.append(embeddings)
        self._labels.append(labels.to(embeddings.device))
        self._ids += ids
        self._indices += batch.get("indices") or []
        self._roles += ["both"] * len(ids) if roles is None else roles

    def compute(self) -> dict[str, float]:
        embeddings, labels, ids, roles = self._gathered()
        if len(set(roles)) > 1 and "both" in roles:
            raise ValueError("some batches have roles and some have none: give roles for every item, or for none")
        # the same items in the same order, whichever process saw them and whatever was padded
        unique = {
            (role, type(name).__name__, name): row for row, (role, name) in enumerate(zip(roles, ids, strict=True))
        }
        order = [unique[key] for key in sorted(unique)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
        ids = torch.tensor([numbers[name] for name in ids], device=embeddings.device)

        def select(left_out: str) -> tuple[Tensor, Tensor, Tensor]:
            rows = torch.tensor([row for row in order if roles[row] != left_out], device=embeddings.device).long()
            return embeddings[rows], labels[rows], ids[rows]

        gallery = select("query")
        queries = gallery if "both" in roles else select("gallery")
        if not len(gallery[0]) or not len(queries[0]):
            raise ValueError(
                f"Recall@K needs queries and a gallery, and saw {len(queries[0])} and {len(gallery[0])} items"
            )
        rank, size = world()
        found = rank_queries(
            queries[0][rank::size], gallery[0], query_labels=queries[1][rank::size], gallery_labels=gallery[1],
            query_ids=queries[2][rank::size], gallery_ids=gallery[2], memory_mb=self.memory_mb,
        )  # fmt: skip
        if size > 1:
            shares = torch.cat([torch.arange(r, len(queries[0]), size) for r in range(size)])
            place = shares.argsort().to(embeddings.device)
            found = {name: gather(values)[place] for name, values in found.items()}
        return summarize(found, self.ks, lone=self.lone)

    def findings(self, dataset: Dataset) -> list[Finding]:
        return [Gallery("Queries and what was found", self._examples(24, 10))]

    def _examples(self, count: int, results: int) -> list[Example]:
        """Queries spread evenly over the data, about half of them missed; none when several processes share it."""
        if world()[1] > 1 or len(self._ids) < 2 or len(self._indices) != len(self._ids):
            return []
        embeddings, labels = normalize_rows(torch.cat(self._embeddings)), torch.cat(self._labels)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self._ids))}
        ids = torch.tensor([numbers[name] for name in self._ids], device=embeddings.device)
        gallery = torch.tensor([row for row, role in enumerate(self._roles) if role != "query"])
        queries = torch.tensor([row for row, role in enumerate(self._roles) if role != "gallery"])
        queries = queries[:: max(1, len(queries) // (10 * count))]
        similar = embeddings[queries] @ embeddings[gallery].T
        similar.masked_fill_(ids[queries][:, None] == ids[gallery][None], -torch.inf)
        scores, columns = similar.topk(min(results, len(gallery) - 1))
        right = labels[gallery[columns.cpu()]] == labels[queries][:, None]
        found = [
            Example(self._indices[query], list(zip(*rows, strict=True)))
            for query, *rows in zip(
                queries.tolist(),
                [[self._indices[row] for row in rows] for rows in gallery[columns.cpu()].tolist()],
                right.tolist(), scores.tolist(), strict=True,
            )
        ]  # fmt: skip
        missed = _spread([example for example in found if not example.results[0][1]], count // 2)
        hit = _spread([example for example in found if example.results[0][1]], count - len(missed))
        return sorted(missed + hit, key=lambda example: example.query)

    def _gathered(self) -> tuple[Tensor, Tensor, list[int | str], list[str]]:
        """Everything that all processes saw, in rank order; one of them may have seen nothing."""
        ids, roles, size = self._ids, self._roles, world()[1]
        width, device = 0, "cpu"
        if self._embeddings:
            self._embeddings, self._labels = [torch.cat(self._embeddings)], [torch.cat(self._labels)]
            width, device = self._embeddings[0].shape[1], self._embeddings[0].device.type
        if size > 1:
            parts: list = [None] * size
            dist.all_gather_object(parts, (ids, roles, width, device))
            ids, roles = ([row for part in parts for row in part[i]] for i in (0, 1))
            _, _, width, device = max(parts, key=lambda part: part[2])
        if not ids:
            raise ValueError("Recall@K saw no item at all")
        embeddings = self._embeddings[0] if self._embeddings else torch.empty(0, width, device=device)
        labels = self._labels[0] if self._labels else torch.empty(0, dtype=torch.long, device=device)
        return gather(embeddings), gather(labels.long()), ids, roles


def _spread(items: list[Example], count: int) -> list[Example]:
    """At most `count` of the items, evenly spaced."""
    return items[:: max(1, len(items) // max(1, count))][:count]
