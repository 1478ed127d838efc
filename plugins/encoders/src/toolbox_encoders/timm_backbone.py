"""Any image encoder of the timm library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolbox.base import ExportedBackbone, Features, check_images
from toolbox.utils.export_formats import save_timm, write_timm_code
from toolbox.utils.image_processor import read_timm_images
from toolbox.utils.messages import shorten_error
from toolbox_encoders import timm_source
from toolbox_encoders.find_blocks import list_outer_parts
from toolbox_encoders.library_backbone import LibraryBackbone, TokenLayout

if TYPE_CHECKING:
    from toolbox_encoders.timm_source import TimmNet


class Timm(LibraryBackbone):
    """An image encoder of timm (https://github.com/huggingface/pytorch-image-models), without its classifier.

    Its tokens are those after the final norm (that of a net which norms only after pooling is applied to each token).
    The first is the CLS token; in a net that has none, or that pools by attention, it is the net's own pooled output,
    timm's embedding. Registers follow, then the patches. For a convolutional or hierarchical net the patches are the
    cells of its last map, each sent through what timm has between the map and the classifier.

    - `name`: timm's name, with or without the tag of its weights (vit_base_patch14_dinov2.lvd142m, convnext_tiny,
      resnet50), or a local folder in timm's format (config.json, model.safetensors).
    - `size`: height and width of the images in pixels; None is the net's own. Learned positions are resampled to it.
    - `weights`: False leaves random weights, for a dry run or training from scratch.
    - `checkpoint`: a file (.safetensors, or .pth of tensors) with weights for the net `name`, instead of timm's.
    - `revision`: commit, tag or branch on the Hub; None is main.
    - `arch`: keywords of timm's constructor, e.g. `dict(depth=2, embed_dim=64)`; what changes the structure needs
      `weights=False`.
    - `drop_path`: probability of skipping a residual branch per image in training mode, rising from 0 in the first
      block to this value in the last, where the net follows timm's rule.
    - `crop`: share of the sides of the largest centred part that is shown, where no augment cuts: 1 is all of it, 0.875
      the usual protocol on ImageNet (short side to 256, 224 of it cut out).

    Images are scaled by the mean, std and interpolation of timm's description, but cut as those of every backbone here:
    the largest centred part of the wanted shape. timm's own `crop_pct` and squashing are not followed, so that encoders
    are compared on the same pixels; `crop` says otherwise. With gradient checkpointing, batch norms count
    each batch twice. Raises ValueError for values that fit nothing, naming what does.
    """

    model: TimmNet
    _layout: NetLayout

    def __init__(
        self,
        name: str,
        size: int | None = None,
        weights: bool = True,
        checkpoint: str | None = None,
        revision: str | None = None,
        arch: dict[str, Any] | None = None,
        drop_path: float = 0.0,
        crop: float = 1.0,
    ):
        super().__init__(size=size, drop_path=drop_path, crop=crop)
        if checkpoint is not None and not weights:
            raise ValueError("weights=False would leave the checkpoint unread: remove one.")
        self._source = timm_source.find_source(name, checkpoint, revision, arch)
        cfg = self._source.cfg
        self._images = read_timm_images(cfg.to_dict())
        _, height, width = cfg.input_size
        self.size = (height, width) if size is None else (size, size)
        self._built_for = self.size if cfg.fixed_input_size else None
        if weights and self._source.weights_id is None:
            raise ValueError(f"timm has no weights of {name!r}: set weights=False, or give a checkpoint.")
        self.model, self._layout = self._build(
            lambda: timm_source.create_model(self._source, self._built_for, drop_path),
            lambda draft: _find_layout(draft, name, self.size, (height, width)),
        )
        self.weights_id = self._source.weights_id if weights else None

    def forward(self, inputs: Tensor, *, layers: int = 1, mask: Tensor | None = None) -> Features:
        """Encode (B, 3, H, W) normalized pixels; nets with learned positions take their own H and W only."""
        if mask is not None:
            raise ValueError("nets of timm have no mask token: encoders.HFVision and dinov3.ViT take masked input.")
        self._check_layers(layers)
        check_images(inputs)
        try:
            if layers == 1:
                return self._layout.features(self.model, self.model.forward_features(inputs), inputs)
            return self._encode_blocks(inputs, layers)
        except AssertionError as error:  # of a net that was built for another size
            raise ValueError(f"{self._source.name!r} does not take these images: {error}.") from error

    def layers(self) -> list[nn.Module]:
        return super().layers() or list_outer_parts(self.model)

    def find_weights(self) -> None:
        if self.weights_id is not None:
            timm_source.find_weights(self._source)

    def load_weights(self) -> None:
        if self.weights_id is not None:
            timm_source.load_weights(self.model, self._source, self._built_for)

    def export(self, folder: Path, *, as_base: bool = False) -> ExportedBackbone:
        source, tokens = self._source, self._layout.in_plain_torch()
        arguments = {**source.arguments, **({} if self._built_for is None else {"img_size": list(self._built_for)})}
        hub = source.published if as_base and self.weights_id is not None else None
        if hub is None:
            cfg = source.cfg.to_dict(remove_source=True, remove_null=True)
            cfg["fixed_input_size"] = self._built_for is not None
            save_timm(self.model, folder, source.architecture, arguments, cfg, self.preprocess())
        exported = write_timm_code(self.preprocess(), tokens, self.prefix, hub, arguments)
        if self.weights_id is not None and source.cfg.license not in (None, "apache-2.0", "mit"):
            exported.notes.append(f"LICENSE: timm's description of these weights says {source.cfg.license!r}.")
        return exported

    def enable_checkpointing(self) -> None:
        super().enable_checkpointing()
        self.model.set_grad_checkpointing(True)

    def _encode_blocks(self, inputs: Tensor, layers: int) -> Features:
        output, pairs = self.model.forward_intermediates(
            inputs, indices=layers, norm=True, output_fmt="NLC", return_prefix_tokens=True
        )
        features = self._layout.features(self.model, output, inputs)
        earlier = [pair if isinstance(pair, Tensor) else torch.cat(pair[::-1], dim=1) for pair in pairs[:-1]]
        blocks = [self._layout.features(self.model, tokens, inputs).tokens for tokens in earlier]
        features.blocks = (*blocks, features.tokens)
        return features


@dataclass(frozen=True)
class NetLayout(TokenLayout):
    """How the output of a net's `forward_features` becomes tokens.

    - `cells`: "NCHW" or "NHWC" for a map, None for tokens.
    - `reduction`: pixels a side of a patch.
    """

    cells: str | None = None
    reduction: int = 1

    @property
    def patch(self) -> int:
        """The number of pixels that sizes are a multiple of; a map is padded to any."""
        return self.reduction if self.cells is None else 1

    def features(self, net: TimmNet, output: Tensor, inputs: Tensor) -> Features:
        """From the output of `forward_features` for `inputs`."""
        grid = self.grid(output, inputs)
        if self.cells is None:
            norm = getattr(net, "fc_norm", None)
            tokens = output if norm is None else norm(output)
        else:
            height, width = grid
            maps = output.permute(0, 2, 3, 1) if self.cells == "NCHW" else output
            single = maps.reshape(-1, *((maps.shape[3], 1, 1) if self.cells == "NCHW" else (1, 1, maps.shape[3])))
            tokens = net.forward_head(single, pre_logits=True).view(output.shape[0], height * width, -1)
        if self.pooled:
            tokens = torch.cat([net.forward_head(output, pre_logits=True).unsqueeze(1), tokens], dim=1)
        return Features(tokens, prefix=self.prefix, grid=grid)

    def in_plain_torch(self) -> list[str]:
        """Lines from `model` and `pixels` to `tokens`, as `features` makes them."""
        lines = ["out = model.forward_features(pixels)"]
        if self.cells is None:
            lines.append('tokens = getattr(model, "fc_norm", torch.nn.Identity())(out)')
        else:
            lines.append("maps = out.permute(0, 2, 3, 1)" if self.cells == "NCHW" else "maps = out")
            cell = "maps.shape[3], 1, 1" if self.cells == "NCHW" else "1, 1, maps.shape[3]"
            lines.append(f"cells = model.forward_head(maps.reshape(-1, {cell}), pre_logits=True)")
            lines.append("tokens = cells.view(len(pixels), -1, cells.shape[-1])")
        if self.pooled:
            lines.append("first = model.forward_head(out, pre_logits=True)")
            lines.append("tokens = torch.cat([first[:, None], tokens], dim=1)")
        return lines

    def grid(self, output: Tensor, inputs: Tensor) -> tuple[int, int]:
        """(rows, columns) of patches. Raises ValueError where the output has another number of them."""
        if self.cells is not None:
            return (output.shape[2], output.shape[3]) if self.cells == "NCHW" else (output.shape[1], output.shape[2])
        height, width = inputs.shape[-2:]
        for extra in (0, self.reduction - 1):  # most nets cut a remainder off, some pad it
            rows, columns = (height + extra) // self.reduction, (width + extra) // self.reduction
            if rows * columns + self.prefix_tokens == output.shape[1]:
                return rows, columns
        raise ValueError(
            f"encoders.Timm cannot read {self.name!r}: it makes {output.shape[1] - self.prefix_tokens} patch tokens of "
            f"{height} x {width} pixels, and its patches have {self.reduction} x {self.reduction}."
        )


def _find_layout(net: TimmNet, name: str, size: tuple[int, int], own_size: tuple[int, int]) -> NetLayout:
    """Find out the layout of a net on the meta device, by sending an empty image through it."""
    pixels = torch.empty(2, 3, *size, device="meta")
    net.eval()
    try:
        with torch.no_grad():
            output = net.forward_features(pixels)
            pooled = net.forward_head(output, pre_logits=True)
    except (AssertionError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{name!r} does not take images of {size[0]} x {size[1]} pixels ({shorten_error(error)}); its own size is "
            f"{own_size[0]} x {own_size[1]}."
        ) from error
    if not isinstance(output, Tensor) or output.ndim not in (3, 4) or pooled.ndim != 2:
        raise ValueError(f"encoders.Timm cannot read {name!r}: its features are neither one map nor one row of tokens.")
    abilities = {"checkpointing"} if _can_checkpoint(net) else set()
    if output.ndim == 4:
        cells = getattr(net, "output_fmt", "NCHW")
        layout = NetLayout(name, pooled.shape[1], pooled=True, abilities=frozenset(abilities), cells=cells)
    else:
        classed = any(key.rpartition(".")[2].startswith("cls_token") for key, _ in net.named_parameters())
        if _gives_blocks(net):
            abilities.add("layers")
        layout = NetLayout(
            name,
            output.shape[2],
            prefix_tokens=getattr(net, "num_prefix_tokens", int(classed)),
            pooled=not classed or getattr(net, "attn_pool", None) is not None,
            abilities=frozenset(abilities),
            reduction=net.feature_info[-1]["reduction"],
        )
    with torch.no_grad():
        features = layout.features(net, output, pixels)
    rows, columns = layout.grid(output, pixels)
    if features.tokens.shape[-1] != layout.dim or rows * columns < 1:
        raise ValueError(f"encoders.Timm cannot read {name!r}: its pooled output and its tokens differ in width.")
    patch = layout.patch
    if size[0] % patch and size != own_size:
        below = max(size[0] // patch, 1) * patch
        raise ValueError(
            f"{name!r} reads patches of {patch} pixels: size must be a multiple of it, not {size[0]}: try {below} or "
            f"{below + patch}."
        )
    net.train()
    return layout


def _gives_blocks(net: nn.Module) -> bool:
    """Whether the final norm of the last block's tokens is all that comes after the blocks."""
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(net, Beit | Eva | VisionTransformer)


def _can_checkpoint(net: TimmNet) -> bool:
    try:
        net.set_grad_checkpointing(True)
        net.set_grad_checkpointing(False)
    except (AssertionError, AttributeError, TypeError, RuntimeError):
        return False
    return True
