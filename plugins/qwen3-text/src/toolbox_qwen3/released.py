"""The public Qwen3-Embedding encoders, with all that is needed to build their structure without reading anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TERMINATOR = "<|endoftext|>"
"""What ends each text (151643 of the public encoders); it is their padding too, so no mask can be told from ids."""


@dataclass(frozen=True)
class ReleasedEmbedding:
    """One released encoder.

    - `short`: its name in a recipe; `id`: its repository on the Hugging Face Hub.
    - `arch`: the fields of its configuration in transformers.
    """

    short: str
    id: str
    arch: dict[str, Any]


def _make_model(
    size: str, width: int, hidden: int, depth: int, heads: int, words: int, positions: int
) -> ReleasedEmbedding:
    arch = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": positions,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
    }
    return ReleasedEmbedding(size.lower(), f"Qwen/Qwen3-Embedding-{size}", arch)


RELEASED = (
    _make_model("0.6B", 1024, 3072, 28, 16, 151669, 32768),
    _make_model("4B", 2560, 9728, 36, 32, 151665, 40960),
    _make_model("8B", 4096, 12288, 36, 32, 151665, 40960),
)

BY_NAME = {name: model for model in RELEASED for name in (model.short, model.id, model.id.rpartition("/")[2])}
