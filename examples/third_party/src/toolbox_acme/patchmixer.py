"""A small image encoder without attention."""

from __future__ import annotations

import copy

import torch
from PIL import Image
from torch import Tensor, nn

from toolbox.base import Backbone, Features, Preprocess
from toolbox_acme.token_mixers import TokenMixer, TokenMLP


class ToTensor(Preprocess):
    """A PIL image -> (3, H, W) in [-1, 1], resized where it has another size."""

    def __init__(self, size: int):
        self.size = (size, size)

    def __call__(self, value: Image.Image) -> Tensor:
        height, width = self.size
        if value.size != (width, height):
            value = value.resize((width, height), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8).view(height, width, 3)
        return pixels.permute(2, 0, 1) / 127.5 - 1


class Mixer(nn.Module):
    """One block: a token mixer across patches, then an MLP over the channels of each patch."""

    def __init__(self, across: TokenMixer, patches: int, dim: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.across = across
        self.across.connect(patches)
        self.within = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm2(x))


class PatchMixer(Backbone):
    """MLP-Mixer (Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", NeurIPS 2021).

    - `dim`: width of the tokens.
    - `depth`: number of blocks.
    - `patch`: height and width of a patch in pixels.
    - `size`: height and width of the images in pixels, a multiple of `patch`; the number of patches is built in.
    - `mixer`: mixes across patches, each block with a copy of its own; None means `acme.TokenMLP`.

    It has no CLS token: pool with "mean". Raises ValueError for sizes that do not fit each other.
    """

    abilities = frozenset({"layers"})

    def __init__(self, dim: int = 128, depth: int = 4, patch: int = 4, size: int = 32, mixer: TokenMixer | None = None):
        super().__init__()
        if min(dim, depth, patch) < 1:
            raise ValueError(f"dim={dim}, depth={depth} and patch={patch} must be at least 1")
        if size < patch or size % patch:
            raise ValueError(f"size={size} is no multiple of patch={patch}; try size={max(size // patch, 1) * patch}")
        self.dim, self.size = dim, size
        self.grid = (size // patch, size // patch)
        self.embed = nn.Conv2d(3, dim, patch, patch)
        patches, mixer = self.grid[0] * self.grid[1], TokenMLP() if mixer is None else mixer
        self.blocks = nn.ModuleList(Mixer(copy.deepcopy(mixer), patches, dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, inputs: Tensor, *, layers: int = 1, mask: Tensor | None = None) -> Features:
        if mask is not None:
            raise ValueError("PatchMixer takes no mask")
        if inputs.shape[2:] != (self.size, self.size):
            raise ValueError(f"PatchMixer was built for size={self.size}, and gets {tuple(inputs.shape[2:])} pixels")
        x = self.embed(inputs).flatten(2).transpose(1, 2)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        if layers == 1:
            return Features(self.norm(x), grid=self.grid)
        blocks = tuple(self.norm(output) for output in outputs[-layers:])
        return Features(blocks[-1], grid=self.grid, blocks=blocks)

    def preprocess(self) -> ToTensor:
        return ToTensor(self.size)

    def layers(self) -> list[nn.Module]:
        return list(self.blocks)
