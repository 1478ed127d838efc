"""The source of a Qwen3 encoder: a released name, a folder, or sizes in the recipe; and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.utils import hub, weight_files
from toolbox.utils.messages import shorten_error
from toolbox.utils.tokenizer import TOKENIZER_FILES, Tokenizer, build_byte_tokenizer, read_tokenizer
from toolbox_qwen3.released import BY_NAME, RELEASED, TERMINATOR, ReleasedEmbedding

if TYPE_CHECKING:
    from transformers import Qwen3Model

_SCRATCH = {"vocab_size": 257, "eos_token_id": 256, "bos_token_id": 256}
"""Of an encoder that reads bytes."""


@dataclass(frozen=True)
class EmbeddingSource:
    """A resolved encoder.

    - `name`: as the user wrote it; `fields`: of its configuration in transformers.
    - `released`, `folder`: what has its weights and tokenizer; neither for an encoder of bytes, built from sizes.
    - `revision`: of a download, None for main.
    """

    name: str
    fields: dict[str, Any]
    released: ReleasedEmbedding | None = None
    folder: Path | None = None
    revision: str | None = None

    @property
    def weights_id(self) -> str | None:
        if self.folder is not None:
            return str(self.folder)
        return None if self.released is None else self.released.id


def find_source(name: str | None, arch: Mapping[str, Any] | None, revision: str | None) -> EmbeddingSource:
    """Decide between `name` and `arch`. Reads config.json of a folder, and nothing else from anywhere.

    Raises ValueError for contradictory or unknown values, OSError or ValueError for a folder that is none.
    """
    if arch is not None:
        if name is not None or revision is not None:
            raise ValueError("qwen3.Embedding takes either name or arch: with arch, set name=None and no revision.")
        return EmbeddingSource("arch", _SCRATCH | _check_fields(arch))
    if not name:
        raise ValueError("qwen3.Embedding needs a name such as '0.6b', a folder, or arch with its sizes.")
    released = BY_NAME.get(name) or BY_NAME.get(name.lower())
    path = Path(name).expanduser()
    if released is not None and not path.is_dir():
        return EmbeddingSource(name, dict(released.arch), released, revision=revision)
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision belongs to the Hugging Face Hub, and {name!r} is a folder: remove revision.")
        return EmbeddingSource(name, _read_fields(path), folder=path)
    near = get_close_matches(name, BY_NAME, 1)
    known = ", ".join(f"{model.short!r}" for model in RELEASED)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {known}, or give a folder in Hugging Face format."
    raise ValueError(f"qwen3.Embedding has no {name!r}, and there is no such folder. {hint}")


def create_model(source: EmbeddingSource) -> Qwen3Model:
    """The structure with random weights. Raises ValueError for sizes that do not fit each other."""
    from transformers import Qwen3Config, Qwen3Model

    try:
        config = Qwen3Config(**source.fields, use_cache=False)
        return Qwen3Model._from_config(config, attn_implementation="sdpa")  # which is causal by itself
    except Exception as error:  # the types of transformers' own complaints differ by version
        raise ValueError(f"These sizes make no Qwen3 encoder: {shorten_error(error)}.") from error


def find_files(source: EmbeddingSource, *, weights: bool) -> Path | None:
    """The folder with the tokenizer, and the `weights` if asked, downloaded if need be; None for an encoder of bytes.

    Raises OSError, with the steps to take.
    """
    folder = source.folder if source.released is None else _download(source.released, source, weights)
    if folder is not None and weights:
        weight_files.check_weight_files(folder)
    return folder


def load_weights(model: Qwen3Model, source: EmbeddingSource) -> None:
    """Replace all values of `model` by those of its weights, in its own precision.

    Raises OSError when they cannot be had or read, ValueError, naming the keys, when they do not fit.
    """
    folder = find_files(source, weights=True)
    if folder is None:
        return
    tensors = {
        key.removeprefix("model."): tensor
        for key, tensor in weight_files.read_weights(folder).items()
        if key != "lm_head.weight"  # which embeddings do not need
    }
    weight_files.fill_module(model, tensors, folder, "Download it again, or correct its config.json.")


def load_tokenizer(source: EmbeddingSource) -> Tokenizer:
    """The tokenizer, which ends each text with the terminator. Raises OSError or ValueError where it cannot."""
    folder = find_files(source, weights=False)
    if folder is None:
        return build_byte_tokenizer(after=[TERMINATOR], last=TERMINATOR)
    tokenizer = read_tokenizer(folder).append_terminator(TERMINATOR, source.name)
    tokenizer.check_vocabulary(source.fields["vocab_size"], source.name)
    return tokenizer


def _download(released: ReleasedEmbedding, source: EmbeddingSource, weights: bool) -> Path:
    subject = f"The {'weights' if weights else 'tokenizer'} of qwen3.Embedding {released.short!r} ({released.id})"
    steps = partial(
        hub.format_download_steps,
        f"{subject} {'are' if weights else 'is'}",
        released.id,
        f"weights/{released.id.rpartition('/')[2]}",
        revision=source.revision,
        alternatives=["Or try the recipe with a small encoder of bytes: name=None, arch=dict(hidden_size=64, ...)"],
    )
    patterns = [*TOKENIZER_FILES, "config.json"]
    patterns += ["model*.safetensors", "model.safetensors.index.json"] if weights else []

    def is_complete(folder: Path) -> bool:
        has_weights = not weights or any(folder.glob("model*.safetensors"))
        return (folder / "tokenizer.json").is_file() and has_weights

    return hub.snapshot(released.id, patterns, is_complete, steps, source.revision)


def _read_fields(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    content = weight_files.read_config(
        file, f", tokenizer.json and model.safetensors: hf download ID --local-dir {folder}"
    )
    weight_files.check_config(content, file)
    if content.get("model_type") != "qwen3":
        raise ValueError(
            f"{folder} holds a {content.get('model_type')!r} model, not 'qwen3': use encoders.HFText for other texts."
        )
    known = _list_fields() | {"rope_theta"}
    return {key: value for key, value in content.items() if key in known}


def _check_fields(arch: Mapping[str, Any]) -> dict[str, Any]:
    known = (_list_fields() | {"rope_theta"}) - {"pad_token_id", "use_cache"}
    for key in arch:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"For example {', '.join(sorted(known)[:4])}."
            raise ValueError(f"arch has no field {key!r}. {hint}")
    if arch.get("vocab_size", 257) < 257:
        raise ValueError(f"vocab_size must be at least 257, 256 bytes and an end, not {arch['vocab_size']}.")
    return dict(arch)


def _list_fields() -> set[str]:
    """The fields of the configuration that describe the structure."""
    from transformers import Qwen3Config

    return {
        key
        for key in vars(Qwen3Config())
        if key.split("_")[0] in ("attention", "head", "hidden", "initializer", "intermediate", "num")
        or key
        in (
            "bos_token_id",
            "max_position_embeddings",
            "eos_token_id",
            "rms_norm_eps",
            "rope_parameters",
            "rope_scaling",
            "vocab_size",
        )
    }
