"""The base of DINOv3 encoders: the source of their weights, and the preprocessing of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from toolbox.base import Backbone, ExportedBackbone, ImagePreprocess, check_crop
from toolbox_dinov3.export import export
from toolbox_dinov3.ids import Family
from toolbox_dinov3.source import Source
from toolbox_dinov3.weights import find, load

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TransformersBackbone(Backbone):
    """A backbone around a model of transformers.

    - `family`: which of the two this is.
    - `model`: that model; `size`: height and width of its images; `crop`: share of the sides that they show.
    - `revision`: of a download.
    """

    modality = "image"
    family: Family
    model: PreTrainedModel
    prefix: int
    weights_id: str | None
    size: int
    crop: float

    def _set_source(self, source: Source, revision: str | None, weights: bool, crop: float) -> None:
        if source.file is not None and not weights:
            raise ValueError("weights=False would leave the checkpoint unread: remove one.")
        self._source, self.revision, self.crop = source, revision, check_crop(crop)
        self.weights_id = source.weights_id if weights else None
        if weights and source.by_timm:
            self._drop_mask_ability()

    def _drop_mask_ability(self) -> None:
        self.abilities = self.abilities - {"mask"}

    def preprocess(self) -> ImagePreprocess:
        return self._source.images.preprocess((self.size, self.size), self.crop)

    def find_weights(self) -> None:
        if self.weights_id is not None:
            find(self._source, self.revision)

    def load_weights(self) -> None:
        if self.weights_id is not None and not load(self.model, self.family, self._source, self.revision):
            self._drop_mask_ability()

    def export(self, folder: Path, *, as_base: bool = False) -> ExportedBackbone:
        return export(self, folder, as_base=as_base)

    def adapter_root(self) -> nn.Module:
        return self.model
