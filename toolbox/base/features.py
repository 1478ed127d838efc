"""What a backbone returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Features:
    """Tokens of a batch.

    - `tokens`: (B, N, D) after the final norm; prefix tokens (CLS, registers) first.
    - `prefix`: how many of the N are prefix tokens. A ConvNeXt has 1: its pooled output.
    - `grid`: (h, w) of the remaining image tokens, None for text.
    - `valid`: (B, N) bool, False where a token is padding; None when all are valid.
    - `blocks`: with `layers=n > 1`, the normed tokens of the last n blocks, earliest first; else None.
    """

    tokens: Tensor
    prefix: int = 0
    grid: tuple[int, int] | None = None
    valid: Tensor | None = None
    blocks: tuple[Tensor, ...] | None = None
