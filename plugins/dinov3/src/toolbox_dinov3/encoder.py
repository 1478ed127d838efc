"""What the encoders of this family share: where their weights come from, and how images reach them."""

from __future__ import annotations

from torch import nn

from toolbox.base import Backbone
from toolbox_dinov3.preprocess import ImagePreprocess
from toolbox_dinov3.source import Source
from toolbox_dinov3.weights import find, load


class Encoder(Backbone):
    """A backbone around a transformers model.

    - `model`: that model; `size`: height and width of its images.
    - `source`: where its structure and weights are from; `revision`: of a download.
    """

    modality = "image"
    model: nn.Module
    size: int

    def _comes_from(self, source: Source, revision: str | None, weights: bool) -> None:
        self._source, self.revision = source, revision
        self.weights_id = source.weights_id if weights else None

    def preprocess(self) -> ImagePreprocess:
        return ImagePreprocess((self.size, self.size), self._source.mean, self._source.std)

    def find_weights(self) -> None:
        if self.weights_id is not None:
            find(self._source, self.revision)

    def load_weights(self) -> None:
        if self.weights_id is not None:
            load(self.model, self._source, self.revision)

    def adapter_root(self) -> nn.Module:
        return self.model
