"""Classification by the names of classes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from toolbox.base import Batch, Dataset, Metric, Outcomes, ReportItem
from toolbox.plugin import Problem
from toolbox.utils.accumulators import EmbeddingAccumulator, Items, check_labelled
from toolbox_alignment.prompts import DEFAULT_PROMPTS, average_prompts, check_prompts, make_prompts


class ZeroShot(Metric):
    """The share of images whose class has the text most similar to them, with no training on the classes.

    - `prompts`: texts with a `{}` for the name of a class. The embeddings of a class's prompts are averaged to one
      direction (prompt ensembling). How a text encoder reads them, as query or document, is a key of the encoder.
    - `names`: the names of the classes as people say them, in the order of `dataset.classes`; None takes those of the
      dataset. Underscores become spaces.
    - `ks`: the K of top-K; those not below the number of classes are left out, as any answer would be right.

    Reads `outputs["embeddings"]` (B, D), `batch.labels` (B,) and `batch.ids`, and has the model encode the prompts. An
    image's rank is 1 + the number of other classes with as large a cosine or a larger one: a tie counts against it.
    `compute` gives "zero_shot_top1", "zero_shot_top5" and "zero_shot_balanced_accuracy", the mean over classes. Raises
    ValueError for prompts without `{}`, for other than one name a class, and for K below 1.
    """

    def __init__(
        self, prompts: Sequence[str] = DEFAULT_PROMPTS, names: list[str] | None = None, ks: list[int] | None = None
    ):
        self.prompts, self.class_names = check_prompts(prompts), names
        self.ks = sorted(ks or [1, 5])
        if self.ks[0] < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks must be different numbers from 1 up, not {ks}: try ks=[1,5].")
        self.reset()

    def reset(self) -> None:
        self._ranks = EmbeddingAccumulator("ZeroShot", "ranks")
        self._items: Items | None = None
        self._prototypes: Tensor | None = None

    def check(self, dataset: Dataset) -> list[Problem]:
        if problems := check_labelled("ZeroShot", dataset):
            return problems
        if self.class_names is None:
            if dataset.classes is None or not dataset.has_class_names:
                return [Problem("The classes of this dataset have no names.", "names", "Give a name for each class.")]
        elif dataset.classes is not None and len(self.class_names) != len(dataset.classes):
            message = f"There are {len(self.class_names)} names for {len(dataset.classes)} classes."
            return [Problem(message, "names", "Give one name a class, in the order of the dataset's classes.")]
        names = self._list_names(dataset)
        if len(names) < 2:
            return [Problem(f"ZeroShot chooses between classes, and this dataset has {len(names)}.")]
        if empty := [number for number, name in enumerate(names) if not name.replace("_", " ").strip()]:
            return [Problem(f"The class number {empty[0]} has an empty name.", "names", "Give a name for each class.")]
        counts = Counter(make_prompts(names, self.prompts[:1]))
        text, count = counts.most_common(1)[0]
        if count > 1:
            message = f"{count} classes have the same prompt, {text!r}, so nothing can tell them apart."
            return [Problem(message, "names", "Give names that differ.")]
        return []

    def _list_names(self, dataset: Dataset) -> list[str]:
        return list(self.class_names) if self.class_names is not None else [str(name) for name in dataset.classes or ()]

    def list_texts(self, dataset: Dataset) -> list[str]:
        return make_prompts(self._list_names(dataset), self.prompts)

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        images, texts = outputs.get("embeddings"), self.text_embeddings
        if images is None:
            message = (
                f"ZeroShot reads the model's 'embeddings', and it gives {', '.join(sorted(outputs)) or 'nothing'}."
            )
        elif texts is None:
            message = "ZeroShot compares images with texts, and this model encodes no texts."
        elif images.shape[1] != texts.shape[1]:
            message = f"Embeddings of images are {images.shape[1]} wide here, and those of texts {texts.shape[1]}."
        else:
            return []
        return [Problem(message, hint="Use a dual encoder such as alignment.DualEncoder, or another metric.")]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        batch = Batch.from_fields(batch)
        images = outputs["embeddings"].float()
        if batch.labels is None or self.text_embeddings is None:
            raise ValueError("ZeroShot needs labelled images, and a model that encodes the prompts of their classes")
        if self._prototypes is None:
            self._prototypes = average_prompts(self.text_embeddings, len(self.prompts))
        classes, labels = len(self._prototypes), batch.labels.to(images.device)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"there are labels from {int(labels.min())} to {int(labels.max())} for {classes} names")
        cosines = images @ self._prototypes.T
        ranks = (cosines >= cosines.gather(1, labels[:, None])).sum(dim=1)
        ranks = torch.where(cosines.isfinite().all(dim=1), ranks, -1)
        # every image is classified, whatever roles retrieval would give it
        self._ranks.add({"ranks": ranks.float()[:, None]}, replace(batch, roles=None))

    def compute(self) -> dict[str, float]:
        self._items = items = self._ranks.items()
        ranks, labels = items.values[:, 0].cpu(), items.labels.cpu()
        if (bad := ranks < 0).any():
            raise ValueError(f"embeddings of {int(bad.sum())} of {len(ranks)} images hold NaN or infinity")
        classes = self._count_classes()
        numbers = {f"zero_shot_top{k}": float((ranks <= k).double().mean()) for k in self.ks if k < classes}
        right, counts = torch.zeros(classes).double(), torch.bincount(labels, minlength=classes)
        right.index_add_(0, labels, (ranks == 1).double())
        return numbers | {"zero_shot_balanced_accuracy": float((right / counts)[counts > 0].mean())}

    def _count_classes(self) -> int:
        assert self.text_embeddings is not None
        return len(self.text_embeddings) // len(self.prompts)

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if self._items is None:
            return []
        right = (self._items.values[:, 0] == 1).double().tolist()
        mean = "zero_shot_top1" if 1 in self.ks else ""
        return [Outcomes("right zero-shot answers", list(map(str, self._items.names)), right, mean=mean)]
