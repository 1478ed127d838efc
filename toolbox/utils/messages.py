"""Parts of messages."""

from __future__ import annotations


def shorten_error(error: BaseException, most: int = 300) -> str:
    """What an error of another library says, within a sentence: at most `most` characters, without a last dot."""
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__
