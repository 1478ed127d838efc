"""The texts of an item: one or several, each a string that says something."""

from __future__ import annotations

import hashlib
from typing import Any


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


def digest_text(text: str) -> int:
    """A signed 64-bit number of a text, the same in every process and run."""
    digest = hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
