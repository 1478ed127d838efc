"""Recall@K of images by texts and of texts by images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from toolbox.base import Batch, Dataset, Metric, ReportItem
from toolbox.plugin import Problem
from toolbox.utils.components import find_components
from toolbox.utils.ranking import normalize_rows
from toolbox.utils.resampling import ClusteredOutcomes, bootstrap_clusters
from toolbox_alignment.pair_accumulator import ImageTextPairs, PairAccumulator
from toolbox_alignment.pair_ranking import PairRanking, rank_pairs
from toolbox_alignment.pair_report import make_pair_items


class ImageTextRecall(Metric):
    """How often an image finds one of its texts among all texts, and a text one of its images among all images.

    - `ks`: the K of Recall@K; those above the number of texts, or of images, are left out, with a remark.
    - `dims`: widths at which the first dimensions are evaluated alone (Matryoshka), e.g. [256,512].
    - `intervals`: how many times to resample for 95 % confidence intervals, e.g. 1000; 0 for none. Images are drawn
      with all their texts, those that share a text together.
    - `image`, `text`: the name of one of several towers, to be evaluated alone instead of the mean of all of its side.
    - `memory_mb`: cap on the working memory in MiB beyond the embeddings; changes speed, not results.

    Reads `outputs["embeddings"]` (B, D) and `outputs["text_embeddings"]` (R, D), or those of a tower, whose each row
    belongs to the item that `batch.owners` says. Any number of texts an item; equal texts are one text, which is right
    for all their images. What does not match but is as similar as what does, within rounding, stands before it.

    `compute` gives "mean_recall", the mean of the recalls that follow, "i2t_recall@K" over images and "t2i_recall@K"
    over texts that differ, and the mean cosine of pairs that match, "similarity_matching", and of all others,
    "similarity_other". Then, where asked for, bounds such as "i2t_recall@1_low" and the same numbers once more as
    "dim256/i2t_recall@1". Numbers of single towers begin with their names, "vits16/i2t_recall@1". With five captions an
    image and the splits of Karpathy they are those of papers on COCO and Flickr30k, apart from ties and repeated
    captions, which are often counted in favour of a model. Raises ValueError for arguments that make no sense.
    """

    def __init__(
        self,
        ks: list[int] | None = None,
        dims: list[int] | None = None,
        intervals: int = 0,
        image: str | None = None,
        text: str | None = None,
        memory_mb: int = 256,
    ):
        self.ks, self.dims, self.intervals, self.memory_mb = (
            sorted(ks or [1, 5, 10]),
            list(dims or []),
            intervals,
            memory_mb,
        )
        for name, numbers, example in (("ks", self.ks, "[1,5,10]"), ("dims", self.dims, "[256,512]")):
            if any(number < 1 for number in numbers) or len(set(numbers)) < len(numbers):
                raise ValueError(f"{name} must be different numbers from 1 up, not {numbers}: try {name}={example}")
        if intervals < 0 or 0 < intervals < 20:
            raise ValueError(f"intervals must be 0 for none, or at least 20 resamples, not {intervals}: try 1000")
        if memory_mb < 1:
            raise ValueError(f"memory_mb must be at least 1, not {memory_mb}: try 256")
        self.image_output = "embeddings" + (f"_{image}" if image else "")
        self.text_output = "text_embeddings" + (f"_{text}" if text else "")
        self.tower = "-".join(name for name in (image, text) if name)
        self.prefix = f"{self.tower}/" if self.tower else ""
        variants = ["", *(f"dim{width}/" for width in self.dims)]
        self.better = {f"{self.prefix}{variant}similarity_other": "less" for variant in variants}
        self.reset()

    def reset(self) -> None:
        self._accumulator = PairAccumulator("Recall", self.image_output, self.text_output)
        self._pairs: ImageTextPairs | None = None
        self._ranking: PairRanking | None = None

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        if problems := self._find_missing("Recall", outputs):
            return problems
        images, texts = outputs[self.image_output], outputs[self.text_output]
        if images.shape[1] != texts.shape[1]:
            message = f"Embeddings of images are {images.shape[1]} wide here, and those of texts {texts.shape[1]}."
            return [Problem(message, hint="Heads of the same dim bring them into one space.")]
        if wide := [width for width in self.dims if width > images.shape[1]]:
            message = f"dims asks for {wide[0]} dimensions, and the embeddings have {images.shape[1]}."
            return [Problem(message, "dims")]
        return []

    def _find_missing(self, metric: str, outputs: dict[str, Tensor]) -> list[Problem]:
        """What a model does not give of what `metric` reads."""
        missing = next((name for name in (self.image_output, self.text_output) if name not in outputs), None)
        if missing is None:
            return []
        hint = "Use a dual encoder such as alignment.DualEncoder, and items with texts."
        if self.tower:
            hint = "Name a tower of a side that has several, or leave it out."
        there = ", ".join(sorted(outputs)) or "nothing"
        return [Problem(f"{metric} reads the model's '{missing}', and it gives {there} for these items.", hint=hint)]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        self._accumulator.add(outputs, Batch.from_fields(batch))

    def compute(self) -> dict[str, float]:
        self._pairs = pairs = self._accumulator.pairs()
        self._ranking = self._rank(pairs)
        numbers = self._summarize(self._ranking, self.prefix)
        for width in self.dims:
            numbers |= self._summarize(self._rank(pairs, width), f"{self.prefix}dim{width}/")
        return numbers

    def _rank(self, pairs: ImageTextPairs, width: int | None = None) -> PairRanking:
        images, texts = pairs.images, pairs.texts
        if width is not None:
            images, texts = (normalize_rows(rows[:, :width].clone()) for rows in (images, texts))
        return rank_pairs(images, texts, pairs.image_of, pairs.text_of, memory_mb=self.memory_mb)

    def _summarize(self, ranking: PairRanking, prefix: str) -> dict[str, float]:
        recalls = compute_recalls(self._list_ranks(ranking), self.ks)
        numbers = {"mean_recall": sum(recalls.values()) / len(recalls)} if recalls else {}
        numbers |= recalls | {"similarity_matching": ranking.matching}
        if ranking.other is not None:
            numbers["similarity_other"] = ranking.other
        if self.intervals and recalls:
            for name, bounds in self._estimate_intervals(ranking).items():
                numbers |= {f"{name}_{end}": bound for end, bound in zip(("low", "high"), bounds, strict=True)}
        return {f"{prefix}{name}": value for name, value in numbers.items()}

    def _list_ranks(self, ranking: PairRanking) -> dict[str, tuple[Tensor, int]]:
        """{direction: (the ranks, how many candidates there are)}."""
        return {"i2t": (ranking.texts.cpu(), len(ranking.images)), "t2i": (ranking.images.cpu(), len(ranking.texts))}

    def _estimate_intervals(self, ranking: PairRanking) -> dict[str, tuple[float, float]]:
        assert self._pairs is not None
        images, texts = len(ranking.texts), len(ranking.images)
        of_images, of_texts = self._pairs.image_of.cpu().numpy(), self._pairs.text_of.cpu().numpy()
        roots = find_components(images + texts, of_images, images + of_texts)
        _, numbered = np.unique(roots, return_inverse=True)
        cluster = torch.from_numpy(numbered)
        parts = {"i2t": cluster[:images], "t2i": cluster[images:]}
        outcomes = {
            f"{way}_recall@{k}": ClusteredOutcomes(ranks <= k, torch.ones(len(ranks)), parts[way])
            for way, (ranks, candidates) in self._list_ranks(ranking).items()
            for k in self.ks
            if k <= candidates
        }
        return bootstrap_clusters(outcomes, int(cluster.max()) + 1, self.intervals)

    def remarks(self) -> list[str]:
        if self._ranking is None:
            return []
        candidates = {"texts": len(self._ranking.images), "images": len(self._ranking.texts)}
        return [
            f"{self.prefix}Recall@{k} of {kind} is left out: there are {count:,}."
            for kind, count in candidates.items()
            for k in self.ks
            if k > count
        ]

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if self._pairs is None or self._ranking is None:
            return []
        return make_pair_items(self._pairs, self._ranking, dataset, self.ks, self.tower)


def compute_recalls(ranks: Mapping[str, tuple[Tensor, int]], ks: list[int]) -> dict[str, float]:
    """{"i2t_recall@1": share of ranks of 1 or better, ...}, without K above the number of candidates.

    - `ranks`: {direction: ((Q,) the rank of each query's first match, how many candidates it was compared with)}.
    """
    return {
        f"{way}_recall@{k}": float((values <= k).double().mean())
        for way, (values, candidates) in ranks.items()
        for k in ks
        if k <= candidates
    }
