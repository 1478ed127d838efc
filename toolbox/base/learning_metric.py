"""The base of metrics that learn from the training set, or choose settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from toolbox.base.batch import Batch


class LearningMetric:
    """A metric that may learn from the training set before it measures, or choose settings such as the k of k-NN.

    - `keeps_learned`: whether `reset` leaves what was learned, which `forget` drops. The training set is then read once
      for a model whose embeddings do not change in training (`Model.fixed_embeddings`).
    - `settings`: names of those of its numbers that are settings it chose and no measurements: reports and tables name
      them beside the numbers, and draw no curve of them.
    - `has_choice`: whether it chooses settings. On a validation set, where the engine sets `chooses`, it does so by the
      items that it evaluates, and gives them among its numbers. On a test set it takes them from `chosen`, the numbers
      of the validation; where that is None, nothing has chosen them, and the test set never does.
    """

    keeps_learned: bool = False
    settings: tuple[str, ...] = ()
    has_choice: bool = False
    chooses: bool = False
    chosen: Mapping[str, float] | None = None

    def share(self, shared: dict[str, Any]) -> None:
        """Called before anything else, with a dictionary that all metrics of a run have in common."""

    def wants_training(self) -> bool:
        """Whether `fit` must see the training set, without augmentation, before `compute`."""
        return False

    def fit(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take in the model's `predict` of a batch of the training set; `reset` forgets it, or `forget`."""

    def forget(self) -> None:
        """Drop what was learned from the training set; only where it `keeps_learned`."""

    def classifier(self) -> nn.Module | None:
        """After `compute`: the classifier fitted to the training set, a module from embeddings (B, D) to logits (B, C).

        Its attribute `number` is the name of the number that tells how good it is. None where nothing was fitted.
        """
        return None
