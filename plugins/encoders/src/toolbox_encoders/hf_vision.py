"""Any image encoder of the transformers library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from toolbox.base import ExportedBackbone, Features, check_images
from toolbox.utils.export_formats import save_processor
from toolbox_encoders import hf_source
from toolbox_encoders.hf_layout import ModelLayout, find_layout, to_pair
from toolbox_encoders.hf_projection import load_projection, make_projection, save_projection
from toolbox_encoders.library_backbone import LibraryBackbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HFVision(LibraryBackbone):
    """An image encoder of transformers: DINOv2, ViT, BEiT, MAE, the vision tower of CLIP or SigLIP, Swin, ConvNeXt ...

    Its tokens are those after the final norm (a norm that the net applies to its pooled output only is applied to each
    token). The first is the CLS token; in a net that has none it is the net's own pooled output: SigLIP's attention
    pooling, a hierarchical net's mean. Registers follow, then the patches, or the cells of the last map. What the
    library calls `pooler_output` is used in no other case, so `pool='mean'` is the mean of patches.

    - `name`: an id on the Hugging Face Hub (facebook/dinov2-base, google/siglip-base-patch16-224), or a local folder
      with config.json, preprocessor_config.json and weights. Of a model with a text tower, the vision tower is taken.
      The configuration of an id is read from the local cache, else downloaded, alone, when the backbone is built.
    - `size`: height and width of the images in pixels; None is what the model's processor makes. Learned positions are
      interpolated as transformers does, at every size that is not the model's.
    - `weights`: False leaves random weights, for a dry run or training from scratch.
    - `revision`: commit, tag or branch on the Hub; None is main.
    - `arch`: instead of a name (`name=None`), the `model_type` and fields of its configuration, e.g.
      `dict(model_type='dinov2', hidden_size=64, num_hidden_layers=2, num_attention_heads=2)`, for random weights.
    - `drop_path`: probability of skipping a residual branch per image in training mode, where the model has it.
    - `projection`: carry all tokens into the space that the tower of a pair shares with the other one, as CLIP does its
      first; what SigLIP gives is of that space either way.
    - `crop`: share of the sides of the largest centred part that is shown, where no augment cuts: 1 is all of it, 0.875
      the usual protocol on ImageNet (short side to 256, 224 of it cut out).

    Images are scaled and resized as the model's processor does (one that does something else is refused), but cut as
    those of every backbone here: the largest centred part of the wanted shape, nothing squashed. For DINOv3 there is
    dinov3.ViT, which keeps positions exact in training. Raises ValueError for values that fit nothing, OSError, with
    the steps to take, where a configuration cannot be had.
    """

    model: PreTrainedModel
    _layout: ModelLayout

    def __init__(
        self,
        name: str | None = "facebook/dinov2-base",
        size: int | None = None,
        weights: bool = True,
        revision: str | None = None,
        arch: dict[str, Any] | None = None,
        drop_path: float = 0.0,
        crop: float = 1.0,
        projection: bool = False,
    ):
        super().__init__(size=size, drop_path=drop_path, crop=crop)
        self._source = hf_source.find_source(name, revision, arch, size)
        config, self._images = self._source.config, self._source.images
        hf_source.set_drop_path(config, drop_path)
        if config.model_type == "vit_mae":
            config.mask_ratio = 0.0  # or it would drop patches in evaluation too
        own_size = to_pair(getattr(config, "image_size", 224))
        if size is None and arch is None and self._images.size is None:
            raise ValueError(
                f"The image processor of {name!r} leaves images at their own size: say to which they shall be resized, "
                f"for example size={own_size[0]}."
            )
        self.size = (size, size) if size is not None else self._images.size or own_size
        self.model, self._layout = self._build(
            lambda: hf_source.create_model(self._source),
            lambda draft: find_layout(draft, self._source.name, self.size, own_size),
        )
        self.weights_id = self._source.weights_id if weights else None
        self.projection = make_projection(self._source, self.dim) if projection else None
        if self.projection is not None:
            self.dim = self.projection.out_features

    def forward(self, inputs: Tensor, *, layers: int = 1, mask: Tensor | None = None) -> Features:
        """Encode (B, 3, H, W) normalized pixels.

        - `layers`: n > 1 also returns the last n blocks' tokens, through the final norm.
        - `mask`: (B, H/patch * W/patch) bool, row by row; True puts the mask token in a patch's place.
        """
        check_images(inputs)
        self._check_layers(layers)
        if mask is not None and "mask" not in self.abilities:
            raise ValueError(f"{self._source.name!r} has no mask token.")
        features = self._layout.encode(self.model, inputs, layers, mask)
        if self.projection is None:
            return features
        blocks = None if features.blocks is None else tuple(map(self.projection, features.blocks))
        return replace(features, tokens=self.projection(features.tokens), blocks=blocks)

    def find_weights(self) -> None:
        if self.weights_id is not None:
            hf_source.find_weights(self._source)

    def load_weights(self) -> None:
        if self.weights_id is not None:
            hf_source.load_weights(self.model, self._source)
            load_projection(self.projection, self._source, "visual_projection.weight")

    def export(self, folder: Path, *, as_base: bool = False) -> ExportedBackbone:
        pixels, notes = save_processor(folder, self.preprocess())
        hub = self._source.repository if as_base and self.weights_id is not None else None
        load = hf_source.save_model(self.model, self._source, folder if hub is None else None)
        loader = "AutoModel" if hub is None else type(self.model).__name__
        if self._layout.own_size is not None and self.size != self._layout.own_size:
            notes.append("The positions are interpolated to this size of images: ask for it as the lines above do.")
        imports = ["import torch", f"from transformers import AutoImageProcessor, {loader}"]
        loads, tokens = [load], self._layout.in_plain_torch(self.size)
        if self.projection is not None:
            imports.append("from safetensors.torch import load_file")
            loads.append(save_projection(self.projection, folder))
            tokens.append("tokens = tokens @ projection.T")
        return ExportedBackbone(
            library="transformers",
            imports=imports,
            load=loads,
            pixels=pixels,
            tokens=tokens,
            prefix=self.prefix,
            hub=hub,
            notes=notes,
        )

    def enable_checkpointing(self) -> None:
        super().enable_checkpointing()
        newer = getattr(self.model, "activation_checkpointing_enable", None)  # what transformers 5 renamed it to
        (newer or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
