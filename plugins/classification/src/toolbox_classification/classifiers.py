"""What metrics fit to the training set, as modules from embeddings to logits: a model may take one over."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from toolbox.base import l2_normalize, without_autocast
from toolbox.utils.neighbours import nearest, unit_rows
from toolbox.utils.ranking import full_precision

LEAST = -100.0
"""The logit of a class without any vote: e^-100 is nothing beside the others, and it is finite."""


class NearestNeighbours(nn.Module):
    """k-NN with a weighted vote, the protocol of `KNN`: logits are the logarithms of the shares of votes.

    - `memory`: (N, D) training embeddings of length 1; `labels`: (N,) their classes, from 0.
    - `k`: how many neighbours vote; `temperature`: of their weights.
    - `memory_mb`: cap on the working memory in MiB beyond the embeddings.
    """

    number = "knn"

    def __init__(self, memory: Tensor, labels: Tensor, k: int, temperature: float, *, memory_mb: int = 512) -> None:
        super().__init__()
        self.memory_mb = memory_mb
        self.register_buffer("memory", memory)
        self.register_buffer("labels", labels)
        self.register_buffer("settings", torch.tensor([k, temperature], device=memory.device))

    @classmethod
    def shaped(cls, shapes: dict[str, torch.Size], device: torch.device) -> NearestNeighbours:
        """One whose buffers have these shapes, to load into."""
        memory = torch.empty(shapes["memory"], device=device)
        return cls(memory, torch.zeros(shapes["labels"], dtype=torch.long, device=device), 1, 1.0)

    @property
    def name(self) -> str:
        """For people, with what was chosen."""
        return "k-NN" if self.settings.is_meta else f"k-NN, k = {int(self.settings[0])}"

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D) of any length -> (B, C)."""
        k, temperature = (1, 1.0) if self.settings.is_meta else self.settings.tolist()
        classes = int(self.labels.max()) + 1
        alone = torch.full((len(embeddings),), -1, device=embeddings.device)
        with without_autocast(embeddings.device):
            chunks = count_votes(
                unit_rows(embeddings.float()),
                alone,
                self.memory,
                self.labels,
                classes,
                [int(k)],
                temperature,
                memory_mb=self.memory_mb,
                device=embeddings.device,
            )
            # shares of the largest, so that which class is first cannot be lost in rounding
            logits = [(votes / votes.amax(dim=1, keepdim=True)).log().clamp(min=LEAST) for _, _, votes in chunks]
        return torch.cat(logits) if logits else embeddings.new_zeros(0, classes, dtype=torch.float32)

    def in_plain_torch(self, name: str, embedding: str) -> list[str]:
        """Lines from `embedding`, a variable, to `logits`; `name`: of this module's tensors in `head`."""
        k, temperature = self.settings.tolist()
        classes = int(self.labels.max()) + 1
        return [
            f'cosines, places = ({embedding} @ head["{name}.memory"].T).topk({int(k)}, dim=1)',
            f"weights = ((cosines - cosines[:, :1]) / {temperature}).exp()",
            f"votes = torch.zeros(len(weights), {classes})",
            f'votes = votes.scatter_add(1, head["{name}.labels"][places], weights)',
            f"logits = (votes / votes.amax(dim=1, keepdim=True)).log().clamp(min={LEAST})",
        ]


class LinearLogits(nn.Module):
    """The logits of a logistic regression on embeddings of length 1.

    - `weights`: (C, D); `biases`: (C,), both float32; `c`: the inverse strength of its penalty.
    """

    number = "logistic"

    def __init__(self, weights: Tensor, biases: Tensor, c: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("biases", biases)
        self.register_buffer("c", torch.tensor(c, device=weights.device))

    @classmethod
    def shaped(cls, shapes: dict[str, torch.Size], device: torch.device) -> LinearLogits:
        """One whose buffers have these shapes, to load into."""
        weights, biases = (torch.empty(shapes[name], device=device) for name in ("weights", "biases"))
        return cls(weights, biases, 1.0)

    @property
    def name(self) -> str:
        """For people, with what was chosen."""
        return "logistic regression" if self.c.is_meta else f"logistic regression, C = {float(self.c):g}"

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D) of any length -> (B, C)."""
        with without_autocast(embeddings.device), full_precision():
            place = embeddings.device
            return torch.addmm(self.biases.to(place), l2_normalize(embeddings.float()), self.weights.to(place).T)

    def in_plain_torch(self, name: str, embedding: str) -> list[str]:
        """Lines from `embedding`, a variable, to `logits`; `name`: of this module's tensors in `head`."""
        return [f'logits = F.linear({embedding}, head["{name}.weights"], head["{name}.biases"])']


def count_votes(
    queries: Tensor,
    own: Tensor,
    gallery: Tensor,
    index: Tensor,
    classes: int,
    ks: list[int],
    temperature: float,
    *,
    memory_mb: int,
    device: torch.device,
) -> Iterator[tuple[slice, int, Tensor]]:
    """(rows of queries, which of `ks`, (rows, classes) votes of their k nearest), overwritten afterwards.

    The weight of a neighbour is exp((its cosine - that of the nearest) / temperature).

    - `queries`: (Q, D), `gallery`: (G, D), rows of length 1; `index`: (G,) classes of the gallery from 0.
    - `own`: (Q,) the gallery row that a query is itself, which has no vote; -1 for none.
    - `ks`: ascending; `memory_mb`: cap on the working memory in MiB; `device`: where to compute.
    """
    # half for the neighbours; of a query: its row, its neighbours with weights, places and classes, its votes
    a_row = 4 * queries.shape[1] + 32 * max(ks) + 8 * classes
    rows = max(1, memory_mb * 2**19 // a_row)
    for start in range(0, len(queries), rows):
        chunk = slice(start, min(start + rows, len(queries)))
        cosines, places = nearest(
            queries[chunk].to(device), gallery, own[chunk].to(device), max(ks), memory_mb=max(memory_mb / 2, 0.5)
        )
        weights = cosines.sub_(cosines[:, :1].clone()).div_(temperature).exp_()  # nothing overflows
        voters = index[places.to(index.device)].to(device)
        votes = weights.new_zeros(len(weights), classes)
        for number, (first, last) in enumerate(zip([0, *ks], ks, strict=False)):
            votes.scatter_add_(1, voters[:, first:last], weights[:, first:last])
            yield chunk, number, votes
