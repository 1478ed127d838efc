"""How the output of a model of transformers becomes tokens, found out on the meta device."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolbox.base import Features
from toolbox.utils.messages import shorten_error
from toolbox_encoders.find_blocks import find_blocks
from toolbox_encoders.library_backbone import TokenLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NormCall = tuple[str, Tensor, Tensor]
"""The path of a norm, its input and its output."""


@dataclass(frozen=True)
class ModelLayout(TokenLayout):
    """How the output of a model of transformers becomes tokens.

    - `own_size`: the size of images that its positions are for, None where it takes any without being told.
    - `patch`: pixels a side of a patch, None for a map.
    - `norm`: the path of a norm that the model applies to its pooled output only.
    - `final`: the path of the norm between the last block and the tokens.
    - `noise`: whether the model shuffles its patches unless it is told their order.
    """

    own_size: tuple[int, int] | None = None
    patch: tuple[int, int] | None = None
    norm: str | None = None
    final: str | None = None
    noise: bool = False

    def encode(self, model: nn.Module, inputs: Tensor, layers: int, mask: Tensor | None) -> Features:
        """The tokens of `inputs`, arguments as of `Backbone.forward`. Raises ValueError for sizes that do not fit."""
        if self.patch is not None:
            grid = self.grid(inputs, self.patch)
            if mask is not None and mask.shape != (len(inputs), grid[0] * grid[1]):
                shape = len(inputs), grid[0] * grid[1]
                raise ValueError(f"mask must have shape {shape}, one value a patch, not {tuple(mask.shape)}.")
        out = self.run(model, inputs, layers, mask)
        hidden = out.last_hidden_state
        if self.patch is None:
            grid = (hidden.shape[2], hidden.shape[3])
            hidden = hidden.flatten(2).transpose(1, 2)
        elif hidden.shape[1] != self.prefix_tokens + grid[0] * grid[1]:
            raise ValueError(
                f"{self.name!r} makes {hidden.shape[1]} tokens of {inputs.shape[-2]} x {inputs.shape[-1]} pixels, not "
                f"{self.prefix_tokens} + {grid[0]} * {grid[1]}: give images of {self.own_size} pixels."
            )
        tokens = self.apply_norm(model, hidden, self.norm)
        blocks = None
        if layers > 1:
            earlier = [self.apply_norm(model, state, self.final) for state in out.hidden_states[-layers:-1]]
            blocks = (*earlier, tokens)
        if self.pooled:
            pooled = getattr(out, "pooler_output", None)
            first = hidden.mean(dim=1) if pooled is None else pooled.flatten(1)
            tokens = torch.cat([first.unsqueeze(1), tokens], dim=1)
        return Features(tokens, prefix=self.prefix, grid=grid, blocks=blocks)

    def run(self, model: nn.Module, inputs: Tensor, layers: int, mask: Tensor | None) -> Any:
        extra: dict[str, Any] = {}
        if self.own_size is not None and tuple(inputs.shape[-2:]) != self.own_size:
            extra["interpolate_pos_encoding"] = True
        if mask is not None:
            extra["bool_masked_pos"] = mask.bool()
        if layers > 1:
            extra["output_hidden_states"] = True
        if self.noise and self.patch is not None:  # by which the model sorts patches
            rows, columns = self.grid(inputs, self.patch)
            order = torch.arange(rows * columns, device=inputs.device, dtype=torch.float32)
            extra["noise"] = order.expand(inputs.shape[0], -1)
        return model(pixel_values=inputs, **extra)

    def in_plain_torch(self, size: tuple[int, int]) -> list[str]:
        """Lines from `model` and `pixels` of `size` to `tokens`, as `encode` makes them."""
        extra, lines = "", []
        if self.own_size is not None and size != self.own_size:
            extra += ", interpolate_pos_encoding=True"
        if self.noise and self.patch is not None:
            count = (size[0] // self.patch[0]) * (size[1] // self.patch[1])
            lines.append(f"order = torch.arange({count}.0).expand(len(pixels), -1)  # or it would shuffle the patches")
            extra += ", noise=order"
        lines += [f"out = model(pixel_values=pixels{extra})", "tokens = out.last_hidden_state"]
        if self.patch is None:
            lines.append("tokens = tokens.flatten(2).transpose(1, 2)")
        if self.pooled:
            lines.append('pooled = out.get("pooler_output")')
            lines.append("first = tokens.mean(dim=1) if pooled is None else pooled.flatten(1)")
        if self.norm is not None:
            lines.append(f"tokens = model.{self.norm}(tokens)")
        if self.pooled:
            lines.append("tokens = torch.cat([first[:, None], tokens], dim=1)")
        return lines

    def grid(self, inputs: Tensor, patch: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches. Raises ValueError for images that are no multiple of a patch."""
        height, width = inputs.shape[-2:]
        if (height % patch[0] or width % patch[1]) and (height, width) != self.own_size:
            raise ValueError(
                f"{self.name!r} reads patches of {patch[0]} x {patch[1]} pixels: image height and width must be "
                f"multiples of it, not {height} x {width}."
            )
        return height // patch[0], width // patch[1]

    @staticmethod
    def apply_norm(model: nn.Module, tokens: Tensor, norm: str | None) -> Tensor:
        return tokens if norm is None else model.get_submodule(norm)(tokens)


def find_layout(model: PreTrainedModel, name: str, size: tuple[int, int], own_size: tuple[int, int]) -> ModelLayout:
    """Find out the layout of a model on the meta device, by sending an empty image through it."""
    takes = inspect.signature(model.forward).parameters
    patch = to_pair(getattr(model.config, "patch_size", 1))
    position_size = own_size if "interpolate_pos_encoding" in takes else None
    layout = ModelLayout(name, own_size=position_size, patch=patch, noise=model.config.model_type == "vit_mae")
    pixels = torch.empty(2, 3, *size, device="meta")
    blocks = find_blocks(model)
    if "pixel_values" not in takes or not blocks:
        parts = ", ".join(child for child, _ in model.named_children())
        raise ValueError(
            f"encoders.HFVision cannot use {name!r} ({type(model).__name__}): it must read pixel_values, its blocks in "
            f"a list called layer, layers, blocks or stages; its parts are {parts}."
        )
    model.eval()
    with torch.no_grad(), _record_norms(model, blocks[-1]) as (norms, last):
        layout = _complete_layout(model, layout, pixels, norms, last, own_size)
    model.train()
    return layout


def _complete_layout(
    model: nn.Module,
    layout: ModelLayout,
    pixels: Tensor,
    norms: list[NormCall],
    last: list[Tensor],
    own_size: tuple[int, int],
) -> ModelLayout:
    name, (height, width) = layout.name, pixels.shape[-2:]
    try:
        hidden = layout.run(model, pixels, 1, None).last_hidden_state
    except Exception as error:  # every model has its own way to refuse
        raise ValueError(
            f"{name!r} does not take images of {height} x {width} pixels ({shorten_error(error)}); its own size is "
            f"{own_size[0]} x {own_size[1]}."
        ) from error
    fields = {"dim": hidden.shape[1 if hidden.ndim == 4 else 2], "patch": None, "pooled": True}
    if hidden.ndim == 3 and layout.patch is not None:
        fields |= _divide_tokens(model, layout.name, layout.patch, hidden.shape[1], height, width)
    of_pooled = [path for path, inputs, _ in norms if inputs.ndim == 2]
    if len(of_pooled) > 1:
        raise ValueError(
            f"encoders.HFVision cannot tell the final norm of {name!r}: {', '.join(of_pooled)} see pooled outputs."
        )
    norm = of_pooled[0] if of_pooled else None
    final = next((path for path, _, output in norms if output is hidden), norm if last and last[-1] is hidden else None)
    abilities = {"checkpointing"} if getattr(model, "supports_gradient_checkpointing", False) else set()
    layout = replace(layout, **fields, norm=norm, final=final)
    if not layout.pooled:
        states = layout.run(model, pixels, 2, None).hidden_states if final is not None else None
        if states is not None and len(states) == len(find_blocks(model)) + 1 and states[-2].shape == hidden.shape:
            abilities.add("layers")
        masked = "bool_masked_pos" in inspect.signature(model.forward).parameters
        if masked and any(key.endswith("mask_token") for key, _ in model.named_parameters()):
            abilities.add("mask")
    layout = replace(layout, abilities=frozenset(abilities))
    features = layout.encode(model, pixels, 1, None)
    if features.tokens.shape[-1] != layout.dim:
        raise ValueError(f"encoders.HFVision cannot read {name!r}: its pooled output and its tokens differ in width.")
    return layout


def _divide_tokens(
    model: nn.Module, name: str, first_patch: tuple[int, int], count: int, height: int, width: int
) -> dict[str, Any]:
    """Fields of the layout by a row of `count` tokens: the last are patches, of a size that later stages may double."""
    for factor in (1, 2, 4, 8, 16, 32):
        patch = (first_patch[0] * factor, first_patch[1] * factor)
        patches = (height // patch[0]) * (width // patch[1])
        if count == patches or (factor == 1 and count > patches > 0):
            break
    else:
        raise ValueError(f"encoders.HFVision cannot read {name!r}: {count} tokens of {height} x {width} pixels.")
    extra, keys = count - patches, [key for key, _ in model.named_parameters()]
    classed = any(re.search(r"(cls|class)_(token|embedding)s?$", key) for key in keys)
    if extra and (not classed or any("detection_tokens" in key for key in keys)):
        raise ValueError(f"encoders.HFVision cannot tell what the first {extra} tokens of {name!r} are.")
    return {"patch": patch, "prefix_tokens": extra, "pooled": extra == 0}


@contextmanager
def _record_norms(model: nn.Module, block: nn.Module) -> Iterator[tuple[list[NormCall], list[Tensor]]]:
    """While the model runs: (path, input, output) of its norms, and the outputs of one block."""
    norms: list[NormCall] = []
    outputs: list[Tensor] = []

    def note(path: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs and all(path != recorded for recorded, _, _ in norms):
                norms.append((path, inputs[0], output))

        return hook

    handles = [
        module.register_forward_hook(note(path))
        for path, module in model.named_modules()
        if re.search(r"(Layer|RMS)_?Norm$", type(module).__name__)
    ]

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles.append(block.register_forward_hook(keep))
    try:
        yield norms, outputs
    finally:
        for handle in handles:
            handle.remove()


def to_pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[-2]), int(value[-1]))
