"""The texts of an item: one or several, each a string that says something."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from toolbox.base import Batch, Model


def list_texts(value: Any) -> list[str]:
    """The texts of a sample's "text", a string or a list of strings. Raises ValueError where one is none or empty."""
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise ValueError("its list of texts is empty")
    for number, text in enumerate(texts):
        which = f"text {number} of {len(texts)}" if isinstance(value, list) else "its text"
        if not isinstance(text, str):
            raise ValueError(f"{which} is {text!r}, a {type(text).__name__} and no string")
        if not text.strip():
            raise ValueError(f"{which} is empty")
    return texts


def describe_cut(count: int, where: str) -> str:
    """The sentence on texts that are longer than a model reads; `where`: the data that have them, or a while."""
    what = "1 text is" if count == 1 else f"{count:,} texts are"
    return (
        f"{what} longer than the model reads, {where}: the end is cut off, the terminator kept. "
        "A larger max_length of the text encoder reads more."
    )


def digest_text(text: str) -> int:
    """A signed 64-bit number of a text, the same in every process and run."""
    digest = hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def make_example_batch(model: Model, inputs: Mapping[str, Any], **fields: Any) -> Batch:
    """A batch of given inputs, each item with one row of each; texts have owners and, each its own, digests."""
    batch = Batch.example(inputs, **fields)
    for name in inputs.keys() & {name for name, part in model.inputs.items() if part.modality == "text"}:
        device = next((value.device for value in tree_leaves(inputs[name]) if isinstance(value, torch.Tensor)), None)
        batch.owners[name] = batch.texts[name] = torch.arange(len(batch), device=device)
    return batch
