"""Qwen3-Embedding: a causal text encoder that is read at the end of each text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from toolbox.base import ExportedBackbone, Features
from toolbox.utils.sentence_folder import write_sentence_folder
from toolbox.utils.text_backbone import TextBackbone, choose_length, move_padding_right, pool_texts
from toolbox.utils.tokenizer import Tokenizer
from toolbox_qwen3 import source
from toolbox_qwen3.released import RELEASED

if TYPE_CHECKING:
    from transformers import Qwen3Model

TASK = "Given a web search query, retrieve relevant passages that answer the query"
"""The instruction of the model's own examples."""


class Embedding(TextBackbone):
    """Qwen3-Embedding (Zhang et al., "Qwen3 Embedding: Advancing Text Embedding and Reranking Through Foundation
    Models", 2025).

    The vector of a text is the token that ends it, <|endoftext|>, whatever side padding is on: the pools "cls" (the
    default) and "last" both give it. Padding is the same token in the public encoders, so the mask is the tokenizer's.

    - `name`: "0.6b", "4b" or "8b", their full ids, or a folder with config.json, tokenizer.json and safetensors.
    - `dim`: the first so many numbers of each token (Kusupati et al., "Matryoshka Representation Learning", 2022); a
      model normalizes after that. At most the width of the encoder: 1024, 2560, 4096. None: all.
    - `prompt`: what its texts are: "document" leaves them as they are, "query" puts an instruction before each. It
      holds wherever the encoder is used: in training, evaluation, `encode_text`, and exports.
    - `task`: the instruction of a query, a sentence in English; None: that of the authors' examples.
    - `max_length`: tokens of a text at most, instruction and end included; None: 512. Longer ones lose their end, and
      keep the terminator.
    - `weights`: False leaves random weights, with the tokenizer of `name`.
    - `revision`: commit, tag or branch on the Hub; None is main.
    - `arch`: instead of a name (`name=None`), fields of the configuration of transformers, e.g. `dict(hidden_size=64,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=128)`: random
      weights over bytes, which need no file.

    Raises ValueError for values that fit nothing, and for a tokenizer of another model.
    """

    abilities = frozenset({"layers", "checkpointing"})
    model: Qwen3Model

    def __init__(
        self,
        name: str | None = "0.6b",
        dim: int | None = None,
        prompt: Literal["document", "query"] = "document",
        task: str | None = None,
        max_length: int | None = None,
        weights: bool = True,
        revision: str | None = None,
        arch: dict[str, Any] | None = None,
    ):
        super().__init__()
        if prompt not in ("document", "query"):
            raise ValueError(f"prompt must be 'document' or 'query', not {prompt!r}.")
        if task is not None and prompt == "document":
            raise ValueError("task is the instruction of a query, and documents have none: set prompt='query'.")
        self.prompt_prefix = f"Instruct: {task or TASK}\nQuery:" if prompt == "query" else ""
        self._source = source.find_source(name, arch, revision)
        self.model = source.create_model(self._source)
        config: Any = self.model.config
        self._width, self.rows = config.hidden_size, config.vocab_size
        self.dim = self._width if dim is None else dim
        if not 1 <= self.dim <= self._width:
            raise ValueError(_refuse_dim(self.dim, self._source))
        self.max_length = choose_length(max_length, config.max_position_embeddings, self._source.name)
        self.weights_id = self._source.weights_id if weights else None
        if arch is not None:
            self.require_tokenizer()

    def forward(self, inputs: dict[str, Tensor], *, layers: int = 1, mask: Tensor | None = None) -> Features:
        """Encode {"input_ids": (B, N), "attention_mask": (B, N)}, padding on either side.

        - `layers`: n > 1 also returns the last n blocks' tokens, through the final norm.
        """
        self.check_layers(layers, mask)
        ids, valid = move_padding_right(inputs)
        # no token sees the padding after it: torch's causal kernel needs no mask, and nothing waits for its values
        out = self.model(
            input_ids=ids, attention_mask={"full_attention": None}, output_hidden_states=layers > 1, use_cache=False
        )
        tokens = out.last_hidden_state[..., : self.dim]
        blocks = None
        if layers > 1:
            blocks = tuple(self.model.norm(state)[..., : self.dim] for state in out.hidden_states[-layers:-1])
        return self.join(tokens, pool_texts(tokens, valid, "last"), valid, blocks)

    def read_tokenizer(self) -> Tokenizer:
        return source.load_tokenizer(self._source)

    def find_weights(self) -> None:
        source.find_files(self._source, weights=self.weights_id is not None)
        self.read_tokenizer()

    def load_weights(self) -> None:
        if self.weights_id is not None:
            source.load_weights(self.model, self._source)
        self.require_tokenizer()

    def layers(self) -> list[nn.Module]:
        return list(self.model.layers)

    def enable_checkpointing(self) -> None:
        newer = getattr(self.model, "activation_checkpointing_enable", None)  # what transformers 5 renamed it to
        (newer or self.model.gradient_checkpointing_enable)({"use_reentrant": False})

    def export(self, folder: Path, *, as_base: bool = False) -> ExportedBackbone:
        project = None if self.dim == self._width else torch.eye(self.dim, self._width)
        return write_sentence_folder(
            self.model,
            folder,
            self.require_tokenizer(),
            pooling="last",
            max_length=self.max_length,
            prompt=self.prompt_prefix,
            project=project,
        )


def _refuse_dim(dim: int, origin: source.EmbeddingSource) -> str:
    widths = ", ".join(f"{model.short}: {model.arch['hidden_size']}" for model in RELEASED)
    return (
        f"dim={dim} is not between 1 and {origin.fields.get('hidden_size', 4096)}, the width of {origin.name!r}; an "
        f"encoder of another size is wider ({widths})."
    )
