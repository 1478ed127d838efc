"""Files that are either whole or as they were, and reading what may be absent."""

from __future__ import annotations

import os
from pathlib import Path

from toolbox.errors import ToolboxError


def replace_text(path: Path, text: str, *, hint: str) -> None:
    """Replace a file in one step, so that no reader ever sees half of one.

    - `hint`: what to try when the disk refuses. Raises ToolboxError then.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # file names that are no valid UTF-8 reach us as surrogates, which utf-8 refuses
        with beside.open("w", encoding="utf-8", errors="xmlcharrefreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ToolboxError(f"{path} cannot be written: {error.strerror or error}.", hint=hint) from error


def read_text(path: Path) -> str:
    """A file's text, empty where there is none to be had."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
