"""Files that are either whole or as they were: write beside, flush to disk, rename."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolbox.errors import ToolboxError


@contextmanager
def new_file(path: Path, *, hint: str = "") -> Iterator[Path]:
    """A file to write to; it stands at `path`, whole and on disk, when the block ends without an error.

    - `hint`: what to try when the disk refuses. Raises ToolboxError then.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise ToolboxError(f"{path} cannot be written: {error.strerror or error}.", hint=hint) from error
    finally:
        with suppress(OSError):  # a disk that refuses this too has been named above
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, hint: str = "", errors: str = "strict") -> None:
    """Replace a text file in one step, so that no reader ever sees half of one; in UTF-8.

    - `hint`: as of `new_file`; `errors`: what to make of characters that UTF-8 refuses, as in `open`.
    """
    with new_file(path, hint=hint) as beside:
        beside.write_text(text, encoding="utf-8", errors=errors)


def to_json(value: Any, **options: Any) -> str:
    """JSON that every reader takes: NaN and infinities, which it does not have, are null.

    - `options`: of `json.dumps`.
    """
    return json.dumps(_replace_nonfinite(value), allow_nan=False, **options)


def _replace_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _replace_nonfinite(item) for key, item in value.items()}
    return [_replace_nonfinite(item) for item in value] if isinstance(value, list | tuple) else value


def resolve_run_link(path: Path) -> Path:
    """The folder that `best` or `last` of a run leads to; any other path as it is.

    - `path`: a symbolic link, or a text file that holds the name of a folder beside it, as runs write it where there
      are no symbolic links.
    """
    try:
        if path.name in ("best", "last") and path.is_file() and path.stat().st_size < 256:
            target = path.parent / path.read_text(encoding="utf-8").strip()
            return target if target.parent == path.parent and target.is_dir() else path
    except (OSError, ValueError):  # whoever opens the path says why
        pass
    return path


def check_file(path: Path, *, overwrite: bool = False) -> None:
    """Raise ToolboxError where `new_file` could not write; call it before long work.

    - `overwrite`: whether a file that is there may be replaced.
    """
    if path.is_dir():
        raise ToolboxError(f"{path} is a folder.", hint="Give the name of a file in it.")
    if path.exists() and not overwrite:
        raise ToolboxError(f"{path} is there already.", hint="Choose another name, or replace it with overwrite=True.")
    check_folder(path.parent)


def check_folder(folder: Path, *, hint: str = "") -> None:
    """Create a folder, if need be, and raise ToolboxError where nothing can be written to it.

    - `hint`: what to try then.
    """
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_text("x")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise ToolboxError(f"Nothing can be written to {folder}: {error.strerror or error}.", hint=hint) from error
