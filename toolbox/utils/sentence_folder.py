"""Folders of sentence-transformers: how an encoder pools, read from one; and an encoder written as one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from toolbox.base import ExportedBackbone
from toolbox.utils.hf_logging import quiet_transformers
from toolbox.utils.text_backbone import TextPooling
from toolbox.utils.tokenizer import Tokenizer
from toolbox.utils.weight_files import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "*/config.json")
"""The files beside those of transformers that say how an encoder pools, as patterns."""

_KEYS: dict[str, TextPooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, TextPooling] = {"lasttoken": "last", "mean_sqrt_len_tokens": "mean_sqrt_len"}
_MODULES = "sentence_transformers.models"


@dataclass(frozen=True)
class SentenceSettings:
    """What the files of sentence-transformers say of an encoder.

    - `pooling`: None where they say nothing; `max_length`: tokens of a text at most, None for no limit of theirs.
    - `lowercase`: whether texts are made lower case first; `prompt`: what is put before each text by default.
    """

    pooling: TextPooling | None = None
    max_length: int | None = None
    lowercase: bool = False
    prompt: str = ""


def read_sentence_settings(folder: Path) -> SentenceSettings:
    """The settings in a folder, which may have none.

    Raises ValueError for modules after the pooling that change its result, which are not read, and for damaged files.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return SentenceSettings()
    try:
        modules = [(str(item["type"]).rpartition(".")[2], str(item["path"])) for item in json.loads(file.read_text())]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} lists no modules of sentence-transformers ({error!r}). Download it again.") from error
    others = [kind for kind, _ in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    if others:
        raise ValueError(
            f"{file} has {', '.join(others)} after the pooling, which is not read here: embeddings would be others. "
            "Remove the file to use its tokens, pooled by their mean."
        )
    pooling = next((_read_pooling(folder / path / "config.json") for kind, path in modules if kind == "Pooling"), None)
    first = next((path for kind, path in modules if kind == "Transformer"), "")
    limits = _read_optional(folder / first / "sentence_bert_config.json")
    described = _read_optional(folder / "config_sentence_transformers.json")
    prompts, default = described.get("prompts") or {}, described.get("default_prompt_name")
    return SentenceSettings(
        pooling,
        limits.get("max_seq_length"),
        bool(limits.get("do_lower_case")),
        str(prompts.get(default, "")) if default else "",
    )


def _read_optional(file: Path) -> dict[str, Any]:
    return read_config(file, "") if file.is_file() else {}


def _read_pooling(file: Path) -> TextPooling:
    content = read_config(file, ", as sentence-transformers writes it.")
    mode = content.get("pooling_mode")
    if mode is not None:
        names = [mode] if isinstance(mode, str) else list(mode)
    else:
        names = [name for key, name in _KEYS.items() if content.get(key)]
    known = [pooling for pooling in _KEYS.values() if pooling in [_NAMES.get(name, name) for name in names]]
    if len(names) != 1 or not known:
        raise ValueError(
            f"{file} pools by {' and '.join(names) or 'nothing that is known here'}, and one of "
            f"{', '.join(_KEYS.values())} is read: say it as pooling='mean', for example."
        )
    return known[0]


def write_sentence_folder(
    model: PreTrainedModel,
    folder: Path,
    tokenizer: Tokenizer,
    *,
    pooling: TextPooling,
    max_length: int,
    prompt: str = "",
    project: Tensor | None = None,
) -> ExportedBackbone:
    """Write an encoder of texts as sentence-transformers reads it; returns the lines that use it.

    - `prompt`: what is put before each text, by default.
    - `project`: (D', D), what the pooled vector is multiplied with; None for nothing.
    """
    with quiet_transformers():
        model.save_pretrained(folder)
    write_tokenizer(folder, tokenizer, max_length)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    width = int(model.config.hidden_size)
    described = {"word_embedding_dimension": width, **{key: name == pooling for key, name in _KEYS.items()}}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write_json(folder / "1_Pooling" / "config.json", {**described, "include_prompt": True})
    prompts = {"prompts": {"default": prompt}, "default_prompt_name": "default"} if prompt else {"prompts": {}}
    _write_json(folder / "config_sentence_transformers.json", {**prompts, "similarity_fn_name": "cosine"})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write_json(folder / "modules.json", [_describe(number, *module) for number, module in enumerate(modules)])
    if project is not None:
        append_dense(folder, project)
    return ExportedBackbone(
        library="sentence-transformers",
        imports=["from sentence_transformers import SentenceTransformer"],
        load=['model = SentenceTransformer(folder, device="cpu")'],
        pixels=[],
        tokens=[],
        texts=["pooled = model.encode(texts, convert_to_tensor=True)"],
        prefix=1,
    )


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, as transformers reads them, padding on the right."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.content, encoding="utf-8")
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": tokenizer.open().id_to_token(tokenizer.pad),
        "padding_side": "right",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", content)


def append_dense(folder: Path, weight: Tensor, bias: Tensor | None = None) -> None:
    """Add a linear layer to a folder's modules: `weight` is (out, in), `bias` (out,) or None."""
    from safetensors.torch import save_file

    place = _append(folder, "Dense")
    (folder / place).mkdir()
    content = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write_json(folder / place / "config.json", content)
    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / place / "model.safetensors", metadata={"format": "pt"})


def append_normalize(folder: Path) -> None:
    """Add a module that makes vectors of length 1 to a folder's modules."""
    (folder / _append(folder, "Normalize")).mkdir()


def _append(folder: Path, kind: str) -> str:
    file = folder / "modules.json"
    modules = json.loads(file.read_text(encoding="utf-8"))
    place = f"{len(modules)}_{kind}"
    _write_json(file, [*modules, _describe(len(modules), place, kind)])
    return place


def _describe(number: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"}


def _write_json(file: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
