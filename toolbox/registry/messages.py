"""Parts of messages about names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def add_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeio" else f"a {kind}"


def suggest_nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""


def list_names(title: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"{title}: {', '.join(names)}." if names else f"{title}: none."
