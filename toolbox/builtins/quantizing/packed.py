"""Weights in 4 or 8 bits as plain tensors: what a library packs, and how it is unpacked.

The tensors' names say the format, so that a checkpoint of one does not pass for another: `nf4`, `fp4` or `int8` holds
the values, `scale` the factors of blocks or rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Size, Tensor, nn

from toolbox.builtins.quantizing import libraries

BLOCK = 64
"""Weights that share a scale in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""
_BLOCK_OF_SCALES = 256  # scales that share a scale of their own; bitsandbytes knows no other
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def _functional() -> ModuleType:
    """The functions of bitsandbytes, looked for once: weights are unpacked in every step."""
    return libraries.import_bitsandbytes().functional


@dataclass(frozen=True)
class Format:
    """How a weight is packed.

    - `kind`: "nf4", "fp4" (two values a byte, in blocks of 64), or "int8" (one scale a row).
    - `nested`: of 4 bits: the blocks' scales are in 8 bits themselves.
    - `library`: "bitsandbytes" or "torchao", which packs it.
    """

    kind: str
    nested: bool
    library: str

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """The packed tensors of a weight (out, in), on its device; on torch's meta device their shapes.

        Raises ValueError for a weight that is not finite.
        """
        if weight.is_meta:
            return self._make_shapes(weight)
        weight = weight.detach().float()
        if not weight.isfinite().all():
            raise ValueError("a weight holds NaN or infinity, which has no place in fewer bits.")
        return self._pack_int8(weight) if self.kind == "int8" else self._pack_4bit(weight)

    def unpack(self, packed: Mapping[str, Tensor], shape: Size, dtype: torch.dtype) -> Tensor:
        """The weight of `shape` (out, in) that the packed tensors stand for, on their device."""
        values = packed[self.kind]
        if values.is_meta:
            return torch.empty(shape, dtype=dtype, device="meta")
        if dtype not in _DTYPES:
            return self.unpack(packed, shape, torch.float32).to(dtype)
        if self.kind == "int8":
            return (values * packed["scale"][:, None]).to(dtype)
        functional, scale = _functional(), packed["scale"]
        if self.nested:
            of_scales = packed["scale_of_scales"]
            scale = functional.dequantize_blockwise(scale, absmax=of_scales, blocksize=_BLOCK_OF_SCALES)
            scale = scale + packed["mean_scale"]
        # as whole blocks: the library's kernel for CPUs takes rows for blocks where a row is no multiple of one
        blocks = (values.numel() * 2 // BLOCK, BLOCK)
        weight = torch.ops.bitsandbytes.dequantize_4bit(values, scale, BLOCK, self.kind, blocks, dtype)
        return weight.flatten()[: shape.numel()].view(shape)

    def _pack_4bit(self, weight: Tensor) -> dict[str, Tensor]:
        functional = libraries.import_bitsandbytes().functional
        flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % BLOCK))
        values, state = functional.quantize_4bit(
            flat.view(-1, BLOCK), blocksize=BLOCK, compress_statistics=self.nested, quant_type=self.kind
        )
        packed = {self.kind: values, "scale": state.absmax}
        if self.nested:
            packed |= {"scale_of_scales": state.state2.absmax, "mean_scale": state.offset}
        return packed

    def _pack_int8(self, weight: Tensor) -> dict[str, Tensor]:
        if self.library == "bitsandbytes":
            values, largest, _ = libraries.import_bitsandbytes().functional.int8_vectorwise_quant(weight.half())
            packed = {"int8": values, "scale": largest.float() / 127}
        else:
            torchao = libraries.import_torchao()
            holder = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta"))
            holder[0].weight = nn.Parameter(weight.clone(), requires_grad=False)
            torchao.quantize_(holder, torchao.Int8WeightOnlyConfig())
            quantized: Any = holder[0].weight  # a tensor class of torchao
            packed = {"int8": quantized.qdata, "scale": quantized.scale.float().flatten()}
        if not packed["scale"].isfinite().all():
            raise ValueError("a weight is too large for 8 bits by bitsandbytes, which goes through float16.")
        return packed

    def _make_shapes(self, weight: Tensor) -> dict[str, Tensor]:
        def empty(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(size, dtype=dtype, device="meta")

        if self.kind == "int8":
            return {
                "int8": empty(*weight.shape, dtype=torch.int8),
                "scale": empty(weight.shape[0], dtype=torch.float32),
            }
        blocks = math.ceil(weight.numel() / BLOCK)
        shapes = {
            self.kind: empty(blocks * BLOCK // 2, 1, dtype=torch.uint8),
            "scale": empty(blocks, dtype=torch.uint8 if self.nested else torch.float32),
        }
        if self.nested:
            shapes["scale_of_scales"] = empty(math.ceil(blocks / _BLOCK_OF_SCALES), dtype=torch.float32)
            shapes["mean_scale"] = empty(dtype=torch.float32)
        return shapes
