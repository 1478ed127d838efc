"""DINOv3 ConvNeXts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.checkpoint import checkpoint as recompute

from toolbox.base import Features, check_rate
from toolbox_dinov3.encoder import TransformersBackbone
from toolbox_dinov3.source import find_source
from toolbox_dinov3.structure import build_model, check_pixels, check_size, find_trunk


class ConvNeXt(TransformersBackbone):
    """DINOv3 ConvNeXt (Siméoni et al. 2025, arXiv:2508.10104), as transformers' `DINOv3ConvNextModel`.

    Its tokens are the pooled last map, then the map itself, row by row: one a 32 x 32 pixel cell.

    - `name`: a short name (convnext-tiny, convnext-small, convnext-base, convnext-large), the id of one of these on the
      Hugging Face Hub, or a local folder with config.json and safetensors, in the format of transformers or of timm. A
      name of timm's (convnext_tiny.dinov3_lvd1689m) means timm's copy of the weights, for which no licence has to be
      accepted by click.
    - `checkpoint`: a file (.pth of tensors, or .safetensors) with weights for the encoder `name` or `arch`, under the
      names of the authors, of timm or of transformers.
    - `size`: height and width of the images in pixels, a multiple of 32 (4 x 2 for each stage after the first).
    - `weights`: False leaves random weights, for a dry run or training from scratch.
    - `revision`: commit, tag or branch on the Hub; None is main.
    - `arch`: instead of a name (`name=None`), fields of transformers' `DINOv3ConvNextConfig`, e.g.
      `dict(hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1])`, for a net of random weights. That net
      needs `layer_scale_init_value=1.0`: that library's 1e-6 nearly switches every block off, and trained from scratch
      for 600 steps it had a Recall@1 of 0.40 on unseen letters where 1.0 had 0.53 (docs/benchmarks.md).
    - `drop_path`: probability of skipping a residual branch per image in training mode, rising from 0 in the first
      block to this value in the last.
    - `crop`: share of the sides of the largest centred part that is shown, where no augment cuts: 1 is all of it, 0.875
      the usual protocol on ImageNet (short side to 256, 224 of it cut out).

    Raises ValueError for values that fit nothing, naming what does.
    """

    family = "convnext"
    abilities = frozenset({"checkpointing"})
    _recomputes = False

    def __init__(
        self,
        name: str | None = "convnext-tiny",
        size: int = 224,
        weights: bool = True,
        revision: str | None = None,
        arch: dict[str, Any] | None = None,
        drop_path: float = 0.0,
        crop: float = 1.0,
        checkpoint: str | None = None,
    ):
        from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

        super().__init__()
        origin = find_source("convnext", name, arch, revision, checkpoint)
        settings = {"drop_path_rate": check_rate("drop_path", drop_path), "image_size": size}
        self.model = build_model(DINOv3ConvNextModel, DINOv3ConvNextConfig, origin.fields, settings)
        widths = self.model.config.hidden_sizes
        self.patch, self.dim = 4 * 2 ** (len(widths) - 1), widths[-1]
        self.size = check_size(size, self.patch)
        self.prefix = 1
        self._set_source(origin, weights, crop)

    def forward(self, inputs: Tensor, *, layers: int = 1, mask: Tensor | None = None) -> Features:
        """Encode (B, 3, H, W) normalized pixels, H and W multiples of 32."""
        if layers != 1 or mask is not None:
            raise ValueError("dinov3.ConvNeXt gives its last layer only and takes no mask; dinov3.ViT does both.")
        grid = check_pixels(inputs, self.patch)
        if self._recomputes and self.training:
            tokens = self._encode_recomputing(inputs)
        else:
            tokens = self.model(pixel_values=inputs).last_hidden_state
        return Features(tokens, prefix=self.prefix, grid=grid)

    def layers(self) -> list[nn.Module]:
        return [layer for stage in find_trunk(self.model).stages for layer in stage.layers]

    def enable_checkpointing(self) -> None:
        self._recomputes = True

    def _encode_recomputing(self, pixels: Tensor) -> Tensor:
        """The tokens of `model`, whose blocks are run again in the backward pass: transformers' has no such option."""
        maps = pixels
        for stage in find_trunk(self.model).stages:
            for layer in stage.downsample_layers:
                maps = layer(maps)
            for layer in stage.layers:
                maps = recompute(layer, maps, use_reentrant=False)
        tokens = torch.cat([adaptive_avg_pool2d(maps, 1).flatten(2), maps.flatten(2)], dim=2)
        return self.model.get_submodule("layer_norm")(tokens.transpose(1, 2))
