"""Parts of messages about names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def add_article(kind: str) -> str:
    """ "a head", "an optimizer"."""
    return f"an {kind}" if kind[0] in "aeio" else f"a {kind}"


def suggest_nearest(word: str, words: Iterable[str]) -> str:
    """A question with the nearest of some words; empty where none is near."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""


def list_names(title: str, names: Iterable[str]) -> str:
    """The names after a title, as a sentence."""
    return f"{title}: {', '.join(names) or 'none'}."
