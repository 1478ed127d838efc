"""Choices that a model makes by the validation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn


class ValidationChoice:
    """A model that chooses by the numbers of its validation, a head of several say."""

    def on_validation_end(self, numbers: dict[str, float], classifiers: Sequence[nn.Module] | None = None) -> None:
        """Called after every evaluation on the validation set, before that step is saved: the place to choose by it.

        - `classifiers`: those that metrics have fitted to the training set (`Metric.classifier`), where
          `fixed_embeddings`.

        What it keeps belongs into buffers: they are saved. Of several processes each gets the same numbers.
        """

    def fit_buffers(self, shapes: Mapping[str, torch.Size]) -> None:
        """Called before a checkpoint is loaded: give buffers whose number or size the data decide those `shapes`.

        - `shapes`: of the checkpoint's tensors that are wanted, by their names in `state_dict`.
        """

    @property
    def predictor(self) -> str:
        """What "logits" come from, for people, where a model chooses among several ways: "k-NN, k = 10"; else empty."""
        return ""
