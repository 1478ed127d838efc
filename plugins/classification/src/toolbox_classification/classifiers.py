"""Classifiers that metrics fit to the training set, as modules from embeddings to logits; a model may keep one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from toolbox.base import l2_normalize, without_autocast
from toolbox.utils.neighbours import find_nearest, make_unit_rows
from toolbox.utils.ranking import full_precision

LEAST = -100.0
"""The logit of a class without any vote: e^-100 is nothing beside the others, and it is finite."""


class FittedClassifier(nn.Module, ABC):
    """A module from embeddings (B, D) of any length to logits (B, C), with all that was fitted in its buffers.

    - `number`: the name of the number that tells how good it is.
    """

    number: str

    @classmethod
    @abstractmethod
    def with_shapes(cls, shapes: dict[str, torch.Size], device: torch.device) -> FittedClassifier:
        """A module whose buffers have these shapes, to load a state into."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name for people, with the chosen setting."""

    @abstractmethod
    def in_plain_torch(self, name: str, embedding: str) -> list[str]:
        """Lines of Python from `embedding`, a variable, to `logits`.

        - `name`: of this module in the state dict `head`, which holds its tensors.
        """


class NearestNeighbours(FittedClassifier):
    """k-NN with a weighted vote, the protocol of `KNN`: logits are the logarithms of the shares of votes.

    - `memory`: (N, D) training embeddings of length 1; `labels`: (N,) their classes, from 0.
    - `k`: how many neighbours vote; `temperature`: of their weights.
    - `memory_mb`: cap on the working memory in MiB beyond the embeddings.
    """

    number = "knn"
    memory: Tensor
    labels: Tensor
    settings: Tensor

    def __init__(self, memory: Tensor, labels: Tensor, k: int, temperature: float, *, memory_mb: int = 512) -> None:
        super().__init__()
        self.memory_mb = memory_mb
        self.register_buffer("memory", memory)
        self.register_buffer("labels", labels)
        self.register_buffer("settings", torch.tensor([k, temperature], device=memory.device))

    @classmethod
    def with_shapes(cls, shapes: dict[str, torch.Size], device: torch.device) -> NearestNeighbours:
        memory = torch.empty(shapes["memory"], device=device)
        return cls(memory, torch.zeros(shapes["labels"], dtype=torch.long, device=device), 1, 1.0)

    @property
    def name(self) -> str:
        return "k-NN" if self.settings.is_meta else f"k-NN, k = {int(self.settings[0])}"

    def forward(self, embeddings: Tensor) -> Tensor:
        k, temperature = (1, 1.0) if self.settings.is_meta else self.settings.tolist()
        classes = int(self.labels.max()) + 1
        device = embeddings.device
        no_rows = torch.full((len(embeddings),), -1, device=device)
        with without_autocast(device):
            queries, ks, memory_mb = make_unit_rows(embeddings.float()), [int(k)], self.memory_mb
            chunks = count_votes(
                queries, no_rows, self.memory, self.labels, classes, ks, temperature, memory_mb=memory_mb, device=device
            )
            # shares of the largest, so that which class is first cannot be lost in rounding
            logits = [(votes / votes.amax(dim=1, keepdim=True)).log().clamp(min=LEAST) for _, _, votes in chunks]
        return torch.cat(logits) if logits else embeddings.new_zeros(0, classes, dtype=torch.float32)

    def in_plain_torch(self, name: str, embedding: str) -> list[str]:
        k, temperature = self.settings.tolist()
        classes = int(self.labels.max()) + 1
        return [
            f'cosines, places = ({embedding} @ head["{name}.memory"].T).topk({int(k)}, dim=1)',
            f"weights = ((cosines - cosines[:, :1]) / {temperature}).exp()",
            f"votes = torch.zeros(len(weights), {classes})",
            f'votes = votes.scatter_add(1, head["{name}.labels"][places], weights)',
            f"logits = (votes / votes.amax(dim=1, keepdim=True)).log().clamp(min={LEAST})",
        ]


class LinearLogits(FittedClassifier):
    """The logits of a logistic regression on embeddings of length 1.

    - `weights`: (C, D); `biases`: (C,), both float32; `c`: the inverse strength of its penalty.
    """

    number = "logistic"
    weights: Tensor
    biases: Tensor
    c: Tensor

    def __init__(self, weights: Tensor, biases: Tensor, c: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("biases", biases)
        self.register_buffer("c", torch.tensor(c, device=weights.device))

    @classmethod
    def with_shapes(cls, shapes: dict[str, torch.Size], device: torch.device) -> LinearLogits:
        weights, biases = (torch.empty(shapes[name], device=device) for name in ("weights", "biases"))
        return cls(weights, biases, 1.0)

    @property
    def name(self) -> str:
        return "logistic regression" if self.c.is_meta else f"logistic regression, C = {float(self.c):g}"

    def forward(self, embeddings: Tensor) -> Tensor:
        device = embeddings.device
        with without_autocast(device), full_precision():
            return torch.addmm(self.biases.to(device), l2_normalize(embeddings.float()), self.weights.to(device).T)

    def in_plain_torch(self, name: str, embedding: str) -> list[str]:
        return [f'logits = F.linear({embedding}, head["{name}.weights"], head["{name}.biases"])']


def count_votes(
    queries: Tensor,
    gallery_rows: Tensor,
    gallery: Tensor,
    index: Tensor,
    classes: int,
    ks: list[int],
    temperature: float,
    *,
    memory_mb: int,
    device: torch.device,
) -> Iterator[tuple[slice, int, Tensor]]:
    """Yield (rows of queries, which of `ks`, (rows, classes) votes of their k nearest); the votes are overwritten.

    The weight of a neighbour is exp((its cosine - that of the nearest) / temperature).

    - `queries`: (Q, D), `gallery`: (G, D), rows of length 1; `index`: (G,) classes of the gallery from 0.
    - `gallery_rows`: (Q,) the gallery row that a query is itself, which has no vote; -1 for none.
    - `ks`: ascending; `memory_mb`: cap on the working memory in MiB; `device`: where to compute.
    """
    # half for the neighbours; of a query: its row, its neighbours with weights, places and classes, its votes
    bytes_per_query = 4 * queries.shape[1] + 32 * max(ks) + 8 * classes
    rows = max(1, memory_mb * 2**19 // bytes_per_query)
    for start in range(0, len(queries), rows):
        chunk = slice(start, min(start + rows, len(queries)))
        chunk_queries, chunk_rows = queries[chunk].to(device), gallery_rows[chunk].to(device)
        neighbour_memory = max(memory_mb / 2, 0.5)
        cosines, places = find_nearest(chunk_queries, gallery, chunk_rows, max(ks), memory_mb=neighbour_memory)
        weights = cosines.sub_(cosines[:, :1].clone()).div_(temperature).exp_()  # nothing overflows
        voters = index[places.to(index.device)].to(device)
        votes = weights.new_zeros(len(weights), classes)
        for number, (first, last) in enumerate(zip([0, *ks], ks, strict=False)):
            votes.scatter_add_(1, voters[:, first:last], weights[:, first:last])
            yield chunk, number, votes
