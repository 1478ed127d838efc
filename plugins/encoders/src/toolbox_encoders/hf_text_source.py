"""Text encoders of transformers: the part of a configuration, positions, pooling settings and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from toolbox.base import ExportedBackbone
from toolbox.utils import hub
from toolbox.utils.hf_logging import quiet_transformers
from toolbox.utils.sentence_folder import SENTENCE_FILES, SentenceSettings, read_sentence_settings, write_tokenizer
from toolbox.utils.tokenizer import TOKENIZER_FILES, Tokenizer, build_byte_tokenizer, read_tokenizer
from toolbox_encoders import hf_source
from toolbox_encoders.hf_source import HFSource

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

COMPONENT = "encoders.HFText"
_EXAMPLE = "sentence-transformers/all-mpnet-base-v2"
_PAD, _BEGIN, _END = "<pad>", "<s>", "</s>"
_SCRATCH = {"vocab_size": 259, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 258}
"""Of an encoder that reads bytes: padding as RoBERTa and MPNet have it, the end the largest, as CLIP looks for it."""


def find_source(name: str | None, revision: str | None, arch: Mapping[str, Any] | None) -> HFSource:
    """Decide between `name` and `arch`; the configuration of a name on the Hub is downloaded if it is not cached.

    Raises ValueError for contradictory or unknown values, OSError, with the steps to take, for files that are missing.
    """
    if arch is not None:
        hf_source.check_arch_alone(COMPONENT, name, revision)
        config = hf_source.make_config(_fill_in(arch), None, "'bert', 'mpnet' or 'clip_text_model'")
        shared = hf_source.get_shared_width(config)
        part = get_text_part(config, "arch")
        if part.vocab_size < _SCRATCH["vocab_size"]:
            raise ValueError(f"vocab_size must be at least {_SCRATCH['vocab_size']}, bytes and three tokens more.")
        return HFSource("arch", part, component=COMPONENT, shared=shared)
    folder, on_hub = hf_source.find_folder(name, revision, COMPONENT, _EXAMPLE, ("config.json", *SENTENCE_FILES))
    config, name = hf_source.read_config(folder), str(name)
    return HFSource(
        name,
        get_text_part(config, name),
        folder=None if on_hub else folder,
        repository=name if on_hub else None,
        revision=revision,
        component=COMPONENT,
        shared=hf_source.get_shared_width(config),
        files=folder,
    )


def _fill_in(arch: Mapping[str, Any]) -> dict[str, Any]:
    """`arch` with the vocabulary of bytes, where it says no other."""
    if isinstance(part := arch.get("text_config"), Mapping):
        return {**arch, "text_config": {**_SCRATCH, **part}}
    known = hf_source.list_fields(arch.get("model_type"))
    return {**{key: value for key, value in _SCRATCH.items() if key in known}, **arch}


def get_text_part(config: PretrainedConfig, name: str) -> PretrainedConfig:
    """The part of a configuration that describes the text encoder. Raises ValueError where transformers has none."""
    config = getattr(config, "text_config", None) or config
    if hf_source.find_model_class(config) is None or not hasattr(config, "vocab_size"):
        raise ValueError(
            f"{name!r} ({config.model_type}) has no text encoder that transformers builds alone: for images use "
            "encoders.HFVision."
        )
    return config


def read_settings(source: HFSource, *, own_pooling: bool) -> SentenceSettings:
    """What its files of sentence-transformers say; nothing where it has none.

    - `own_pooling`: whether the recipe says how to pool, so that modules which are not read do not matter.
    """
    if source.files is None:
        return SentenceSettings()
    try:
        return read_sentence_settings(source.files)
    except ValueError:
        if own_pooling:
            return SentenceSettings()
        raise


def count_positions(model: PreTrainedModel) -> int | None:
    """How many tokens of a text have positions, None where they are not limited.

    RoBERTa's kind counts from the id of padding on, so that so many positions are never used.
    """
    count = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(count, int) or count < 1:
        return None
    for path, table in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(table, nn.Embedding) and table.padding_idx is not None:
            return table.num_embeddings - table.padding_idx - 1
    return count


def load_tokenizer(source: HFSource, settings: SentenceSettings, rows: int, *, ends: bool) -> Tokenizer:
    """The tokenizer, downloaded if need be, for an embedding table of so many `rows`.

    - `ends`: whether the model looks for the end of a text, so that there must be one.

    Raises OSError, with the steps to take, or ValueError where it is of another model.
    """
    if source.folder is None and source.repository is None:
        return build_byte_tokenizer([_BEGIN, _PAD], [_END], first=_BEGIN, last=_END, pad=_PAD)
    pad = getattr(source.config, "pad_token_id", None)
    tokenizer = read_tokenizer(_find_files(source), pad if isinstance(pad, int) else None)
    if settings.lowercase:
        tokenizer = _make_lowercase(tokenizer)
    tokenizer.check_vocabulary(rows, source.name)
    if ends:
        _check_end(tokenizer, source)
    return tokenizer


def _check_end(tokenizer: Tokenizer, source: HFSource) -> None:
    """Raise ValueError where a text does not end as CLIP looks for it: with its token, or the largest of all ids."""
    ids, end = tokenizer.encode("a")[0], source.config.eos_token_id
    if ids[-1] != (max(ids) if end == 2 else end):
        raise ValueError(
            f"The tokenizer of {source.name!r} ends texts with the id {ids[-1]}, and the model reads them at {end}: it "
            "belongs to another model, or has no end. Download tokenizer.json again."
        )


def _make_lowercase(tokenizer: Tokenizer) -> Tokenizer:
    fields = json.loads(tokenizer.content)
    steps = [{"type": "Lowercase"}, *([fields["normalizer"]] if fields.get("normalizer") else [])]
    fields["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return Tokenizer(json.dumps(fields), tokenizer.pad)


def write_siglip(
    model: PreTrainedModel, folder: Path, tokenizer: Tokenizer, max_length: int, prompt: str
) -> ExportedBackbone:
    """Write the text tower of SigLIP for transformers, since sentence-transformers pads to the longest text alone."""
    with quiet_transformers():
        model.save_pretrained(folder)
    write_tokenizer(folder, tokenizer, max_length)
    name, texts = type(model).__name__, f"[{prompt!r} + text for text in texts]" if prompt else "texts"
    options = f'padding="max_length", max_length={max_length}, truncation=True, return_tensors="pt"'
    return ExportedBackbone(
        library="transformers",
        imports=[f"from transformers import PreTrainedTokenizerFast, {name}"],
        load=[
            f"model = {name}.from_pretrained(folder, trust_remote_code=False).eval()",
            "tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)",
        ],
        pixels=[],
        tokens=[],
        texts=[
            f"inputs = tokenizer({texts}, {options})",
            'pooled = model(input_ids=inputs["input_ids"]).pooler_output',
        ],
        prefix=1,
    )


def _find_files(source: HFSource) -> Path:
    if source.folder is not None:
        return source.folder
    repository = str(source.repository)

    def list_steps(reason: str) -> str:
        return hub.format_download_steps(
            f"The tokenizer of {COMPONENT} {repository!r} is",
            repository,
            f"weights/{repository.rpartition('/')[2]}",
            reason,
            revision=source.revision,
        )

    def is_complete(folder: Path) -> bool:
        return any(any(folder.glob(pattern)) for pattern in ("tokenizer.json", "vocab.*", "*.model"))

    return hub.snapshot(repository, ["config.json", *TOKENIZER_FILES], is_complete, list_steps, source.revision)
