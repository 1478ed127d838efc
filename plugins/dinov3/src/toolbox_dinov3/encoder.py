"""The base of DINOv3 encoders: their weights, the preprocessing of images, and their export for transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from toolbox.base import Backbone, ExportedBackbone, ImagePreprocess, check_crop
from toolbox.utils.export_formats import save_processor
from toolbox.utils.hf_logging import quiet_transformers
from toolbox_dinov3.ids import Family
from toolbox_dinov3.source import Source
from toolbox_dinov3.weights import find_weights, load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LICENSE = (
    "LICENSE: these weights derive from DINOv3, copyright Meta Platforms. The DINOv3 License applies to them, whatever "
    "the licence of the code that trained them: https://ai.meta.com/resources/models-and-libraries/dinov3-license/. "
    "Whoever passes them on passes on a copy of that licence with them."
)


class TransformersBackbone(Backbone):
    """A backbone around a model of transformers.

    - `family`: which of the two this is.
    - `model`: that model; `size`: height and width of its images; `crop`: share of the sides that they show.
    """

    modality = "image"
    family: Family
    model: PreTrainedModel
    prefix: int
    weights_id: str | None
    size: int
    crop: float

    def _set_source(self, source: Source, weights: bool, crop: float) -> None:
        if source.file is not None and not weights:
            raise ValueError("weights=False would leave the checkpoint unread: remove one.")
        self._source, self.crop = source, check_crop(crop)
        self.weights_id = source.weights_id if weights else None
        if weights and source.by_timm:
            self.abilities -= {"mask"}

    def preprocess(self) -> ImagePreprocess:
        return self._source.images.preprocess((self.size, self.size), self.crop)

    def find_weights(self) -> None:
        if self.weights_id is not None:
            find_weights(self._source)

    def load_weights(self) -> None:
        if self.weights_id is not None and not load_weights(self.model, self.family, self._source):
            self.abilities -= {"mask"}

    def export(self, folder: Path, *, as_base: bool = False) -> ExportedBackbone:
        hub = self._source.hub_id if as_base and self.weights_id is not None else None
        pixels, notes = save_processor(folder, self.preprocess())
        source = "folder"
        if hub is None:
            with quiet_transformers():
                self.model.save_pretrained(folder)
        else:
            revision = self._source.revision
            source = repr(hub) + ("" if revision is None else f", revision={revision!r}")
        if self.weights_id is not None:
            notes.append(_LICENSE)
        return ExportedBackbone(
            library="transformers",
            imports=["import torch", "from transformers import AutoImageProcessor, AutoModel"],
            load=[f"model = AutoModel.from_pretrained({source}, trust_remote_code=False).eval()"],
            pixels=pixels,
            tokens=["tokens = model(pixel_values=pixels).last_hidden_state"],
            prefix=self.prefix,
            hub=hub,
            notes=notes,
        )

    def adapter_root(self) -> nn.Module:
        return self.model
