"""The base of text encoders: their tokens whatever side padding is on, their own pooling, their tokenizer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from toolbox.base import Backbone, Features, average_patches, take_last_token
from toolbox.errors import ToolboxError
from toolbox.utils.text_preprocess import TextPreprocess
from toolbox.utils.tokenizer import Tokenizer

TextPooling = Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean"]
"""How the tokens of a text become one vector, in the words of sentence-transformers, where "last" is "lasttoken"."""

LENGTH = 512
"""Tokens of a text at most, unless a recipe says otherwise."""


class TextBackbone(Backbone):
    """A text encoder whose first token is its own vector of the whole text, followed by the tokens of the text.

    So the pool "cls", the default everywhere, gives the vector that the encoder was trained for, by whatever pooling;
    "mean" and "last" read the tokens of the text.

    - `prefix`: 1, that vector.
    - `max_length`, `prompt_prefix`, `fixed_length`: as of `TextPreprocess`.
    - `rows`: of its embedding table.
    """

    modality = "text"
    prefix = 1
    max_length: int
    rows: int
    prompt_prefix: str = ""
    fixed_length: bool = False
    tokenizer_digest: Tensor

    def __init__(self) -> None:
        super().__init__()
        # in checkpoints and in what identifies frozen weights: with another tokenizer the same weights mean nothing
        self.register_buffer("tokenizer_digest", torch.zeros(1, dtype=torch.long))
        self._tokenizer: Tokenizer | None = None

    @abstractmethod
    def read_tokenizer(self) -> Tokenizer:
        """Its tokenizer, checked. Raises OSError or ValueError, with the steps that mend it, when it cannot be had."""

    def require_tokenizer(self) -> Tokenizer:
        """Its tokenizer, read once; the digest of it becomes part of the encoder's state."""
        if self._tokenizer is None:
            self._tokenizer = self.read_tokenizer()
            if not self.tokenizer_digest.is_meta:
                with torch.no_grad():
                    self.tokenizer_digest.fill_(self._tokenizer.digest)
        return self._tokenizer

    def preprocess(self) -> TextPreprocess:
        tokenizer = self._tokenizer
        if not self.tokenizer_digest.is_meta:  # a dry run reads and downloads nothing
            try:
                tokenizer = self.require_tokenizer()
            except (OSError, ValueError) as error:
                raise ToolboxError(str(error), where="model") from error
        return TextPreprocess(tokenizer, self.max_length, self.rows, self.prompt_prefix, self.fixed_length)

    def join(self, tokens: Tensor, pooled: Tensor, valid: Tensor, blocks: tuple[Tensor, ...] | None = None) -> Features:
        """Features of tokens (B, N, D) and of the vectors (B, D) of whole texts; `blocks` without the last one."""
        first = pooled.to(tokens.dtype)[:, None]
        tokens = torch.cat([first, tokens], dim=1)
        if blocks is not None:
            blocks = (*(torch.cat([first, block.to(tokens.dtype)], dim=1) for block in blocks), tokens)
        valid = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
        return Features(tokens, prefix=self.prefix, valid=valid, blocks=blocks)

    def check_layers(self, layers: int, mask: Tensor | None) -> None:
        """Raise ValueError for a number of blocks that there is not, and for masked input."""
        depth = len(self.layers()) if "layers" in self.abilities else 1
        if not 1 <= layers <= depth:
            raise ValueError(f"layers must be between 1 and {depth}, not {layers}.")
        if mask is not None:
            raise ValueError("a text encoder has no mask token.")

    def adapter_root(self) -> nn.Module:
        return self.get_submodule("model")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}tokenizer_digest")
        if saved is not None and not saved.is_meta and saved.any() and not self.tokenizer_digest.is_meta:
            try:
                here = self.require_tokenizer().digest
            except (OSError, ValueError) as error:
                raise ToolboxError(str(error), where="model") from error
            if int(saved) != here:
                raise ToolboxError(
                    f"The tokenizer of {self.weights_id or type(self).__name__} is not the one that the checkpoint was "
                    "trained with: its ids mean other words.",
                    where=f"model.{prefix.rstrip('.')}",
                    hint="Give the folder or revision with the original tokenizer.json.",
                )
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def move_padding_right(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, N) ids and bool mask of texts with padding on either side, moved to the right of each text.

    Positions then count from the first token, and in a causal model no text sees padding.
    """
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    return ids.gather(1, order), valid.gather(1, order)


def pool_texts(tokens: Tensor, valid: Tensor, pooling: TextPooling) -> Tensor:
    """(B, D): the vectors of whole texts from tokens (B, N, D), padding (`valid` (B, N) False) left out."""
    features = Features(tokens, valid=valid)
    if pooling == "mean":
        return average_patches(features)
    if pooling == "last":
        return take_last_token(features)
    if pooling == "cls":
        return tokens[torch.arange(len(tokens), device=tokens.device), valid.to(torch.uint8).argmax(dim=1)]
    weight = valid.to(tokens.dtype).unsqueeze(-1)
    if pooling == "max":
        return tokens.masked_fill(~valid.unsqueeze(-1), -torch.inf).amax(dim=1)
    if pooling == "mean_sqrt_len":
        return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1).sqrt()
    weight = weight * torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=tokens.dtype)[:, None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)


def check_pooling(pooling: str) -> TextPooling:
    """`pooling` itself. Raises ValueError for one that does not exist."""
    for name in get_args(TextPooling):
        if pooling == name:
            return name
    raise ValueError(f"pooling must be one of {', '.join(get_args(TextPooling))}, not {pooling!r}.")


def choose_length(max_length: int | None, largest: int | None, name: str) -> int:
    """How many tokens of a text are read: `max_length`, by default `LENGTH` or the most that the model reads.

    - `largest`: that most, None for a model without positions.

    Raises ValueError for a length that the model has no positions for.
    """
    if max_length is None:
        return LENGTH if largest is None else min(LENGTH, largest)
    if max_length < 2 or (largest is not None and max_length > largest):
        limit = "" if largest is None else f" and at most {largest}, the positions that {name!r} has"
        raise ValueError(f"max_length must be at least 2{limit}, not {max_length}.")
    return max_length
