"""The files of a run, as pages write and read them."""

from __future__ import annotations

from pathlib import Path

from toolbox.base import files


def write_text(path: Path, text: str, *, hint: str) -> None:
    """Replace a text file in one step, as `toolbox.base.files.write_text`."""
    # file names that are no valid UTF-8 reach us as surrogates, which utf-8 refuses
    files.write_text(path, text, hint=hint, errors="xmlcharrefreplace")


def read_text(path: Path) -> str:
    """A file's text, empty where there is none to be had."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
