"""Classification by the nearest neighbours in the training set."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import gather, get_dist_info
from toolbox_classification.classifiers import NearestNeighbours, count_votes
from toolbox_classification.intervals import estimate_item_interval
from toolbox_classification.training_set_metric import TrainingSetMetric


class KNN(TrainingSetMetric):
    """Accuracy of k-NN: the share of items whose class their k nearest training items give by a weighted vote.

    The protocol of DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021), which
    DINOv2 and DINOv3 keep: cosines to all training items, exactly; each of the k nearest votes for its class with the
    weight exp(cosine / temperature). Nothing is trained.

    - `ks`: how many neighbours; a k that is not below the number of training items is left out, as a note says.
      Default: [10, 20, 100, 200], the protocol's.
    - `temperature`: of the weights; the lower, the more the very nearest count.
    - `choose_by`: how many items of the training set choose k where no validation set does, at most: the best k on them
      is taken, each item being classified by the others (leave one out). They are drawn by a fixed seed.
    - `memory_mb`: cap on the working memory in MiB beyond the embeddings; changes speed, not results.

    On a validation set the k of the result is the one with the highest accuracy, of equals the smallest; a test set
    takes that k over (`chosen`). Without one, leaving one out of the training set chooses, which a remark says.

    Reads `outputs["embeddings"]` (B, D), of any length, and labels and ids of the batches. Training embeddings are kept
    in float32 on the CPU, once for all metrics of a run, and go to the device in parts.

    `compute` gives "knn", the accuracy at the chosen k; "knn_low" and "knn_high", within which it would be for other
    items (95 %, bootstrap over items); "knn_k"; and the accuracy at each k, "knn@10". Every process gets the same
    numbers, for any number of processes. Raises ValueError for arguments that make no sense, without labels, and where
    every k is too large.
    """

    name, symbol, title = "k-NN", "k", "k-NN by the number of neighbours"
    settings = ("knn_k",)

    def __init__(
        self,
        ks: list[int] | None = None,
        temperature: float = 0.07,
        choose_by: int = 10_000,
        memory_mb: int = 512,
    ):
        self.ks = [10, 20, 100, 200] if ks is None else sorted(ks)
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks must be different numbers from 1 up, not {self.ks}: try ks=[10,20]")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, not {temperature}: try 0.07")
        if choose_by < 1 or memory_mb < 1:
            raise ValueError(f"choose_by and memory_mb must be at least 1, not {choose_by} and {memory_mb}")
        self.temperature, self.choose_by, self.memory_mb = temperature, choose_by, memory_mb
        self.reset()

    def notes(self, training: int | None) -> list[str]:
        large = [] if training is None else [k for k in self.ks if k >= training]
        if training is None or not large:
            return []
        return [f"k-NN leaves out k = {', '.join(map(str, large))}: there are {training:,} training items."]

    def compute(self) -> dict[str, float]:
        gallery, classes, queries, labels = self.rows()
        possible = {k for k in self.ks if k < len(gallery)}
        if not possible:
            raise ValueError(f"k-NN needs more training items than neighbours: {len(gallery)} for ks={self.ks}")
        chosen = None if self.chosen is None or self.chooses else self.chosen.get("knn_k")
        if chosen is not None:
            possible |= {min(int(chosen), len(gallery) - 1)}
        ks = sorted(possible)
        no_rows = torch.full((len(queries),), -1)
        right = self._count_right(queries, labels, no_rows, gallery, classes, ks)
        accuracies = {k: count / len(queries) for k, count in zip(ks, right, strict=True)}
        self._lines, self._remarks = {"evaluated": list(accuracies.items())}, []
        if chosen is not None:
            k, how = min(int(chosen), len(gallery) - 1), "chosen on the validation set"
        elif self.chooses:
            k, how = _find_best(accuracies), "chosen here: the best on these items"
        else:
            k, how = self._leave_one_out(gallery, classes, ks)
            self._remarks = [f"k = {k} of k-NN is {how}; no validation set has chosen it."]
        low, high = estimate_item_interval([len(queries) - right[ks.index(k)], right[ks.index(k)]])
        self._note = " ".join([f"k = {k} is {how}.", *self.notes(len(gallery))])
        self._fitted = NearestNeighbours(gallery, classes, k, self.temperature, memory_mb=self.memory_mb)
        by_k = {f"knn@{k}": accuracy for k, accuracy in accuracies.items()}
        return {"knn": accuracies[k], "knn_low": low, "knn_high": high, "knn_k": k} | by_k

    def _leave_one_out(self, gallery: Tensor, classes: Tensor, ks: list[int]) -> tuple[int, str]:
        """The best k on the training set, of equals the smallest, and how it was chosen."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(gallery), generator=generator)[: self.choose_by].sort().values
        right = self._count_right(gallery[rows], classes[rows], rows, gallery, classes, ks)
        accuracies = {k: count / len(rows) for k, count in zip(ks, right, strict=True)}
        self._lines["training, leave one out"] = list(accuracies.items())
        how = f"the best on the training set, {len(rows):,} of its items classified by the others"
        return _find_best(accuracies), how

    def _count_right(
        self, queries: Tensor, labels: Tensor, gallery_rows: Tensor, gallery: Tensor, classes: Tensor, ks: list[int]
    ) -> list[int]:
        """How many queries get their label, for each k; this process classifies its share of them."""
        rank, size = get_dist_info()
        share = slice(rank, None, size)
        queries, rows, memory_mb, device = queries[share], gallery_rows[share], self.memory_mb, self._device
        predicted = classify_by_vote(
            queries, rows, gallery, classes, ks, self.temperature, memory_mb=memory_mb, device=device
        )
        right = (predicted == labels[share]).sum(dim=1)
        return gather(right[None]).sum(dim=0).tolist()


def _find_best(accuracies: dict[int, float]) -> int:
    """The k with the highest accuracy, of equals the first."""
    return max(accuracies, key=lambda k: accuracies[k])


def classify_by_vote(
    queries: Tensor,
    gallery_rows: Tensor,
    gallery: Tensor,
    classes: Tensor,
    ks: list[int],
    temperature: float,
    *,
    memory_mb: int = 512,
    device: torch.device | None = None,
) -> Tensor:
    """(len(ks), Q): the predicted class of each query by its k nearest; of equal votes the first class.

    - `queries`: (Q, D), `gallery`: (G, D), rows of length 1; `classes`: (G,) of the gallery.
    - `gallery_rows`: (Q,) the gallery row that a query is itself, which has no vote; -1 for none.
    - `device`: where to compute, default: where the queries are. The result lies where they are.
    """
    names, index = torch.unique(classes, return_inverse=True)
    predicted = torch.zeros(len(ks), len(queries), dtype=torch.long, device=queries.device)
    count, device = len(names), device or queries.device
    chunks = count_votes(
        queries, gallery_rows, gallery, index, count, ks, temperature, memory_mb=memory_mb, device=device
    )
    for chunk, number, votes in chunks:
        predicted[number, chunk] = names[votes.argmax(dim=1).to(names.device)].to(predicted.device)
    return predicted
