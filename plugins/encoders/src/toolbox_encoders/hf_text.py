"""Any text encoder of the transformers library."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from toolbox.base import ExportedBackbone, Features
from toolbox.utils.sentence_folder import write_sentence_folder
from toolbox.utils.text_backbone import (
    TextBackbone,
    TextPooling,
    check_pooling,
    choose_length,
    move_padding_right,
    pool_texts,
)
from toolbox.utils.tokenizer import Tokenizer
from toolbox_encoders import hf_source, hf_text_source
from toolbox_encoders.find_blocks import find_blocks
from toolbox_encoders.hf_projection import load_projection, make_projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HFText(TextBackbone):
    """A text encoder of transformers: BERT, MPNet, E5, BGE, the text tower of CLIP or SigLIP, T5's encoder ...

    Its first token is the vector of the whole text, as its own files have it: pooled as those of sentence-transformers
    say, for the tower of a pair as that pair does; else by the mean of all tokens. So the pool "cls", the default
    everywhere, gives that vector and no token called CLS. The tokens of the text follow.

    - `name`: an id on the Hugging Face Hub (sentence-transformers/all-mpnet-base-v2, openai/clip-vit-base-patch32), or
      a local folder with config.json, tokenizer.json and weights. Of a model with an image tower, the text tower is
      taken. The configuration of an id is read from the local cache, else downloaded, alone, when it is built.
    - `max_length`: tokens of a text at most; None: 512, or what the model has positions for, or what its files say, if
      that is less. A longer text loses its end; what the tokenizer puts after it is kept.
    - `pooling`: another pooling than its own: "mean", "cls" (the first token), "last", "max", "mean_sqrt_len" or
      "weightedmean".
    - `prompt`: what is put before each text, such as "query: "; None: the default of its files, often nothing.
    - `projection`: carry all tokens into the space that the tower of a pair shares with the other one, as CLIP does its
      last; what SigLIP gives is of that space either way.
    - `weights`: False leaves random weights.
    - `revision`: commit, tag or branch on the Hub; None is main.
    - `arch`: instead of a name (`name=None`), the `model_type` and fields of its configuration, e.g.
      `dict(model_type='bert', hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)`, for
      random weights over bytes, which need no file.

    Raises ValueError for values that fit nothing, OSError, with the steps to take, where a configuration cannot be had.
    """

    takes_any_name = True
    model: PreTrainedModel

    def __init__(
        self,
        name: str | None = "sentence-transformers/all-mpnet-base-v2",
        max_length: int | None = None,
        pooling: TextPooling | None = None,
        prompt: str | None = None,
        projection: bool = False,
        weights: bool = True,
        revision: str | None = None,
        arch: dict[str, Any] | None = None,
    ):
        super().__init__()
        self._source = hf_text_source.find_source(name, revision, arch)
        config = self._source.config
        self._settings = hf_text_source.read_settings(self._source, own_pooling=pooling is not None)
        self.model = hf_source.create_model(self._source)
        table: Any = self.model.get_input_embeddings()
        self.rows, self.dim = table.num_embeddings, int(config.hidden_size)
        if not self.layers() or "input_ids" not in (takes := inspect.signature(self.model.forward).parameters):
            raise ValueError(
                f"encoders.HFText cannot use {self._source.name!r} ({type(self.model).__name__}): it must read "
                "input_ids, its blocks in a list called layer, layers or blocks."
            )
        self._takes_cache = "use_cache" in takes
        self._is_tower = config.model_type.endswith("_text_model")
        self.fixed_length = config.model_type.startswith("siglip")
        self._pooling = check_pooling(pooling) if pooling is not None else self._settings.pooling
        if self._pooling is None and not self._is_tower:
            self._pooling = "mean"
        positions = hf_text_source.count_positions(self.model)
        self.max_length = positions if self.fixed_length and positions is not None else 0
        if not self.fixed_length or max_length is not None:
            limit = self._settings.max_length if max_length is None else None
            largest = min((value for value in (positions, limit) if value is not None), default=None)
            self.max_length = choose_length(max_length, largest, self._source.name)
        self.prompt_prefix = self._settings.prompt if prompt is None else prompt
        self.abilities = frozenset({"checkpointing"} if self.model.supports_gradient_checkpointing else ())
        self.weights_id = self._source.weights_id if weights else None
        self.projection = self._find_projection(projection)
        if arch is not None:
            self.require_tokenizer()

    def _find_projection(self, asked: bool) -> nn.Module | None:
        """What carries tokens into a shared space: CLIP's projection if asked for, SigLIP's head in any case."""
        if self.fixed_length:
            self.dim = self._head().out_features
            return None
        projection = make_projection(self._source, self.dim) if asked else None
        if projection is not None:
            self.dim = projection.out_features
        return projection

    def forward(self, inputs: dict[str, Tensor], *, layers: int = 1, mask: Tensor | None = None) -> Features:
        """Encode {"input_ids": (B, N), "attention_mask": (B, N)}, padding on either side."""
        self.check_layers(layers, mask)
        ids, valid = move_padding_right(inputs)
        # SigLIP attends to padding; transformers reads values of a mask, which the meta device does not have
        seen = None if self.fixed_length or ids.is_meta else valid.long()
        out = self.model(input_ids=ids, attention_mask=seen, **({"use_cache": False} if self._takes_cache else {}))
        tokens = out.last_hidden_state
        own = out.pooler_output if self._pooling is None else pool_texts(tokens, valid, self._pooling)
        if self.fixed_length:
            head = self._head()
            tokens = head(tokens)
            own = own if self._pooling is None else head(own)
        if self.projection is not None:
            tokens, own = self.projection(tokens), self.projection(own)
        return self.join(tokens, own, valid)

    def _head(self) -> Any:
        """The linear layer that ends SigLIP's text tower."""
        return next(part for path, part in self.model.named_modules() if path.rpartition(".")[2] == "head")

    def read_tokenizer(self) -> Tokenizer:
        ends = self._is_tower and not self.fixed_length and self._pooling is None
        return hf_text_source.load_tokenizer(self._source, self._settings, self.rows, ends=ends)

    def find_weights(self) -> None:
        if self.weights_id is not None:
            hf_source.find_weights(self._source)
        self.read_tokenizer()

    def load_weights(self) -> None:
        if self.weights_id is not None:
            hf_source.load_weights(self.model, self._source)
            if isinstance(self.projection, nn.Linear):
                load_projection(self.projection, self._source, "text_projection.weight")
        self.require_tokenizer()

    def layers(self) -> list[nn.Module]:
        return find_blocks(self.model)

    def enable_checkpointing(self) -> None:
        if "checkpointing" not in self.abilities:
            raise ValueError(f"{self._source.name!r} has no gradient checkpointing.")
        newer = getattr(self.model, "activation_checkpointing_enable", None)  # what transformers 5 renamed it to
        (newer or self.model.gradient_checkpointing_enable)({"use_reentrant": False})

    def export(self, folder: Path, *, as_base: bool = False) -> ExportedBackbone:
        tokenizer = self.require_tokenizer()
        if self.fixed_length:
            if self._pooling is not None:
                raise ValueError("transformers pools SigLIP by its last token only: leave pooling out to export it")
            return hf_text_source.write_siglip(self.model, folder, tokenizer, self.max_length, self.prompt_prefix)
        weight = self.projection.weight if isinstance(self.projection, nn.Linear) else None
        return write_sentence_folder(
            self.model,
            folder,
            tokenizer,
            pooling=self._pooling or "last",  # where the tower of a pair finds the end of a text
            max_length=self.max_length,
            prompt=self.prompt_prefix,
            project=weight,
        )
