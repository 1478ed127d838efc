"""How far images and texts agree before any training: a linear map in closed form, then recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from toolbox.base import Batch, l2_normalize, split_by_hash
from toolbox.plugin import Problem
from toolbox.utils.ranking import normalize_rows
from toolbox_alignment.image_text_recall import ImageTextRecall
from toolbox_alignment.pair_accumulator import ImageTextPairs
from toolbox_alignment.ridge import RidgeSums

HELD_OUT = 0.1
"""The share of the training items by which alpha is chosen."""


class AlignmentProbe(ImageTextRecall):
    """Recall of images mapped into the space of texts by ridge regression, learned in closed form.

    It needs one pass over the training set and no training, so `tools/test.py RECIPE` ranks pairs of frozen towers
    before any is trained, and a result has something honest to be compared with: what a linear map reaches.

    - `alphas`: strengths of the ridge penalty, of which the one with the smallest error on a tenth of the training
      items is taken, held out by a hash of their places; then all are fitted. That of scikit-learn's Ridge.
    - `ks`, `intervals`, `image`, `text`, `memory_mb`: as of alignment.Recall.

    Learns to predict the mean of an item's text embeddings from that of its image, all of length 1, of any two widths.
    `compute` gives the numbers of alignment.Recall with "probe/" before them, and the setting "probe/alpha". It learns
    anew at each evaluation: on a validation set that is evaluated often, each time with a pass over the training set.
    Raises ValueError for arguments that make no sense and for embeddings that hold NaN or infinity.
    """

    def __init__(
        self,
        alphas: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
        ks: list[int] | None = None,
        intervals: int = 0,
        image: str | None = None,
        text: str | None = None,
        memory_mb: int = 256,
    ):
        super().__init__(ks, None, intervals, image, text, memory_mb)
        if isinstance(alphas, (int, float)) or not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas must be a list of numbers above 0, not {alphas}: try alphas=[0.1,1.0,10.0]")
        self.alphas = sorted(alphas)
        self.prefix = f"probe/{self.prefix}"
        self.settings = (f"{self.prefix}alpha",)
        self.better = {f"{self.prefix}similarity_other": "less"}

    def reset(self) -> None:
        super().reset()
        self._sums = {"train": RidgeSums(), "val": RidgeSums()}

    def wants_training(self) -> bool:
        return True

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        return self._find_missing("Probe", outputs)

    def fit(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        batch = Batch.from_fields(batch)
        x = l2_normalize(outputs[self.image_output].float()).cpu()
        texts = l2_normalize(outputs[self.text_output].float()).cpu()
        owners = next(iter(batch.owners.values())).cpu()
        counts = torch.bincount(owners, minlength=len(x))
        y = torch.zeros(len(x), texts.shape[1]).index_add_(0, owners, texts) / counts[:, None]
        for split, rows in divide_items(batch.indices).items():
            if len(rows):
                self._sums[split].add(x[rows], y[rows])

    def compute(self) -> dict[str, float]:
        kept, held_out = self._sums["train"].gather(), self._sums["val"].gather()
        alpha = self._choose_alpha(kept, held_out)
        weight, bias = (kept + held_out).solve(alpha)
        self._pairs = pairs = map_images(self._accumulator.pairs(), weight, bias)
        self._ranking = self._rank(pairs)
        return self._summarize(self._ranking, self.prefix) | {f"{self.prefix}alpha": alpha}

    def _choose_alpha(self, kept: RidgeSums, held_out: RidgeSums) -> float:
        """The alpha with the smallest error on held-out items, of equals the largest; the middle one without any."""
        if not kept.count or not held_out.count or len(self.alphas) == 1:
            return self.alphas[len(self.alphas) // 2]
        return min(reversed(self.alphas), key=lambda alpha: held_out.compute_error(*kept.solve(alpha)))


def divide_items(indices: Sequence[int]) -> dict[str, np.ndarray]:
    """{"train": places of these items that are fitted, "val": those that alpha is chosen by}, each by its own hash."""
    parts = split_by_hash(list(map(str, indices)), val_share=HELD_OUT, least=0)
    return {split: parts[split] for split in ("train", "val")}


def map_images(pairs: ImageTextPairs, weight: Tensor, bias: Tensor) -> ImageTextPairs:
    """The pairs with images mapped by weight (D, E) and bias (E,), float64 on the CPU; rows of length 1."""
    parts = [(rows.cpu().double() @ weight + bias).float() for rows in pairs.images.split(4096)]
    return replace(pairs, images=normalize_rows(torch.cat(parts)).to(pairs.texts.device))
