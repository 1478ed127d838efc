"""From texts to what a text encoder reads: token ids and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from toolbox.base import Preprocess
from toolbox.utils.tokenizer import Tokenizer


class TokenIds(NamedTuple):
    """The tokens of one text.

    - `ids`: (L,) int64; `cut`: whether the text was longer and its end is left out.
    """

    ids: Tensor
    cut: bool


class TextPreprocess(Preprocess):
    """A text -> token ids; a batch is padded to its longest text, and the mask says what is padding.

    The mask comes from the lengths of the texts. A comparison of ids with that of padding would hide the end of each
    text where both are one token, as in Qwen3-Embedding and CLIP.

    - `tokenizer`: None for an encoder of which nothing but the structure is here: it gives an `example` alone.
    - `max_length`: tokens of a text at most, the end that the tokenizer adds included; the rest of a text is cut off.
    - `rows`: of the model's embedding table.
    - `prefix`: what is put before each text.
    - `fixed_length`: pad every text to `max_length`, and attend to padding, as in the training of SigLIP.
    - `side`: where padding stands.
    """

    size = None

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        max_length: int,
        rows: int,
        prefix: str = "",
        fixed_length: bool = False,
        side: Literal["right", "left"] = "right",
    ):
        self.tokenizer, self.max_length, self.rows, self.prefix = tokenizer, max_length, rows, prefix
        self.fixed_length, self.side = fixed_length, side

    def __call__(self, value: str) -> TokenIds:
        if self.tokenizer is None:
            raise ValueError("only the structure of this encoder is here, without a tokenizer")
        if not isinstance(value, str):
            raise ValueError(f"a text encoder reads strings, not {type(value).__name__}")
        ids, cut = self.tokenizer.encode(self.prefix + value, self.max_length)
        if max(ids) >= self.rows:
            token = self.tokenizer.open().id_to_token(max(ids))
            raise ValueError(
                f"{value[:60]!r} has the token {token!r} of id {max(ids)}, and the embedding table has {self.rows} rows"
            )
        return TokenIds(torch.tensor(ids), cut)

    def is_cut(self, item: TokenIds) -> bool:
        return item.cut

    def collate(self, items: Sequence[TokenIds]) -> dict[str, Tensor]:
        length = self.max_length if self.fixed_length else max(len(item.ids) for item in items)
        pad = 0 if self.tokenizer is None else self.tokenizer.pad
        ids = torch.full((len(items), length), pad, dtype=torch.long)
        mask = torch.ones_like(ids) if self.fixed_length else torch.zeros_like(ids)
        for row, item in enumerate(items):
            count = len(item.ids)
            place = slice(0, count) if self.side == "right" else slice(length - count, length)
            ids[row, place], mask[row, place] = item.ids, 1
        return {"input_ids": ids, "attention_mask": mask}

    def example(self, rows: int) -> dict[str, Tensor]:
        ids = torch.zeros(rows, self.max_length, dtype=torch.long, device="meta")
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
