"""DINOv3 vision transformers."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from toolbox.base import Features, check_rate
from toolbox_dinov3.encoder import TransformersBackbone
from toolbox_dinov3.source import find_source
from toolbox_dinov3.structure import build_model, check_pixels, check_size, find_trunk


class ViT(TransformersBackbone):
    """DINOv3 vision transformer (Siméoni et al. 2025, arXiv:2508.10104), as transformers' `DINOv3ViTModel`.

    - `name`: a short name (vits16, vits16plus, vitb16, vitl16, vith16plus, vit7b16, vitl16-sat, vit7b16-sat), the id of
      one of these on the Hugging Face Hub, or a local folder with config.json and safetensors, in the format of
      transformers or of timm. A name of timm's (vit_base_patch16_dinov3.lvd1689m) means timm's copy of the weights, for
      which no licence has to be accepted by click, and which has no mask token.
    - `checkpoint`: a file (.pth of tensors, or .safetensors) with weights for the encoder `name` or `arch`, under the
      names of the authors, of timm or of transformers.
    - `size`: height and width of the images in pixels, a multiple of the patch size (16). Rotary positions follow any.
    - `weights`: False leaves random weights, for a dry run or training from scratch.
    - `revision`: commit, tag or branch on the Hub; None is main.
    - `arch`: instead of a name (`name=None`), fields of transformers' `DINOv3ViTConfig`, e.g. `dict(hidden_size=64,
      num_hidden_layers=2, num_attention_heads=2)`, for a net of random weights. Fields left out have that library's
      defaults (no registers, 12 layers ...), except that `intermediate_size` is 4 x `hidden_size`.
    - `pos_embed_rescale`, `pos_embed_jitter`: in training mode, stretch the position coordinates by a random factor in
      [1/x, x], both axes alike or each its own; `pos_embed_shift`: move them by up to x. None, the default, keeps
      positions exact. (transformers' own default is a rescale by 2.0, which makes every training step see other
      positions; DINOv3's pretraining used it.)
    - `drop_path`: probability of skipping a residual branch per image in training mode, equal in all blocks.
    - `crop`: share of the sides of the largest centred part that is shown, where no augment cuts: 1 is all of it, 0.875
      the usual protocol on ImageNet (short side to 256, 224 of it cut out).
    - `attention`: "sdpa" (torch's fused kernels) or "eager" (plain matrix products).

    Raises ValueError for values that fit nothing, naming what does.
    """

    family = "vit"
    abilities = frozenset({"layers", "mask", "checkpointing"})

    def __init__(
        self,
        name: str | None = "vitb16",
        size: int = 224,
        weights: bool = True,
        revision: str | None = None,
        arch: dict[str, Any] | None = None,
        pos_embed_rescale: float | None = None,
        pos_embed_shift: float | None = None,
        pos_embed_jitter: float | None = None,
        drop_path: float = 0.0,
        attention: Literal["sdpa", "eager"] = "sdpa",
        crop: float = 1.0,
        checkpoint: str | None = None,
    ):
        from transformers import DINOv3ViTConfig, DINOv3ViTModel

        super().__init__()
        for key, value, least in (
            ("pos_embed_rescale", pos_embed_rescale, 1.0),
            ("pos_embed_jitter", pos_embed_jitter, 1.0),
            ("pos_embed_shift", pos_embed_shift, 0.0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{key} must be None or at least {least}, not {value}.")
        if attention not in ("sdpa", "eager"):
            raise ValueError(f"attention must be 'sdpa' or 'eager', not {attention!r}.")
        origin = find_source("vit", name, arch, revision, checkpoint)
        fields = dict(origin.fields)
        if "hidden_size" in fields:
            fields.setdefault("intermediate_size", 4 * fields["hidden_size"])
        positions = {"rescale": pos_embed_rescale, "shift": pos_embed_shift, "jitter": pos_embed_jitter}
        settings = {
            **{f"pos_embed_{key}": value for key, value in positions.items()},
            "drop_path_rate": check_rate("drop_path", drop_path),
            "image_size": size,
            "attn_implementation": attention,
        }
        self.model = build_model(DINOv3ViTModel, DINOv3ViTConfig, fields, settings)
        self.patch: int = self.model.config.patch_size
        self.dim: int = self.model.config.hidden_size
        self.prefix: int = 1 + self.model.config.num_register_tokens
        self.size = check_size(size, self.patch)
        self._set_source(origin, weights, crop)

    def forward(self, inputs: Tensor, *, layers: int = 1, mask: Tensor | None = None) -> Features:
        """Encode (B, 3, H, W) normalized pixels, H and W multiples of the patch size.

        - `layers`: n > 1 also returns the last n blocks' tokens, through the final norm.
        - `mask`: (B, H/16 * W/16) bool, row by row; True puts the mask token in a patch's place. Not by timm's copies.
        """
        grid = check_pixels(inputs, self.patch)
        depth = len(self.layers())
        if not 1 <= layers <= depth:
            raise ValueError(f"layers must be between 1 and {depth}, the number of blocks, not {layers}.")
        if mask is not None and "mask" not in self.abilities:
            raise ValueError("timm's copies of DINOv3 have no mask token: masked input needs the authors' weights.")
        if mask is not None and mask.shape != (len(inputs), grid[0] * grid[1]):
            raise ValueError(
                f"mask must have shape {(len(inputs), grid[0] * grid[1])}, one value a patch, not {tuple(mask.shape)}."
            )
        out = self.model(
            pixel_values=inputs,
            bool_masked_pos=None if mask is None else mask.bool(),
            output_hidden_states=layers > 1,
        )
        tokens, blocks = out.last_hidden_state, None
        if layers > 1:
            # transformers 4 gives the last block with, 5 without the final norm; `tokens` is the same in both
            norm = self.model.get_submodule("norm")
            blocks = (*(norm(hidden) for hidden in out.hidden_states[-layers:-1]), tokens)
        return Features(tokens, prefix=self.prefix, grid=grid, blocks=blocks)

    def layers(self) -> list[nn.Module]:
        return list(find_trunk(self.model).layer)

    def enable_checkpointing(self) -> None:
        newer = getattr(self.model, "activation_checkpointing_enable", None)  # what transformers 5 renamed it to
        (newer or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
