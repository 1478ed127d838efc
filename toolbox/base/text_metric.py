"""The base of metrics that compare items with texts of their own, such as the prompts of classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from toolbox.base.dataset import Dataset


class TextMetric:
    """A metric that may ask for texts: the model encodes them once at the beginning of each evaluation.

        class FirstName(Metric):
            def list_texts(self, dataset):
                return [f"a photo of a {name}" for name in dataset.classes]
            def update(self, outputs, batch):
                self.predicted.append((outputs["embeddings"] @ self.text_embeddings.T).argmax(dim=1))

    - `text_embeddings`: (N, D) float32 rows of length 1, of the N texts of `list_texts`, on the device of the model;
      None where the model reads no texts alone. They are there when the outputs are checked (`check_outputs`).
    """

    text_embeddings: Tensor | None = None

    def list_texts(self, dataset: Dataset) -> Sequence[str]:
        """The texts to encode before `dataset` is evaluated; none by default."""
        return ()
