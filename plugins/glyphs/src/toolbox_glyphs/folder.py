"""A folder of images that is there completely or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MARKER = ".complete.json"


def publish_folder(
    out: Path,
    options: Mapping[str, Any],
    files: Mapping[str, Callable[[Path], object]],
) -> bool:
    """Make `out` hold exactly these files. Returns False if it did already, True if they were written now.

    - `options`: what the files depend on; kept in `.complete.json`, the last file to be written.
    - `files`: {path below `out`: what writes the file, given where}.

    The files are written into a sibling folder, which is then renamed. What a killed process left behind is removed.
    Raises ValueError if `out` holds files of someone else, or of other options.
    """
    out, expected = out.resolve(), set(files)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose another --out")
    present = list_files(out)
    if present:
        require_same_options(out, options)
        strangers = {path for path in present - expected if not Path(path).name.startswith(".")}
        if strangers:
            raise ValueError(
                f"{out} holds {len(strangers)} files that this command did not write ({sorted(strangers)[0]} ...): "
                "choose another --out or move them away"
            )
        if expected <= present:
            return False
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        for path, write in files.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            write(partial / path)
        (partial / MARKER).write_text(json.dumps(dict(options), indent=2) + "\n", encoding="utf-8")
        if expected <= list_files(out):  # another process has made it meanwhile, and somebody may be reading it
            require_same_options(out, options)
            return False
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def list_files(folder: Path) -> set[str]:
    """Paths of all files below `folder`, relative to it and with forward slashes."""
    return {Path(root, name).relative_to(folder).as_posix() for root, _, names in os.walk(folder) for name in names}


def require_same_options(out: Path, options: Mapping[str, Any]) -> None:
    """Raise ValueError unless `out` was written by this command, with these options."""
    try:
        written = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{out} is not empty and was not made by this command: choose another --out") from None
    if written != dict(options):
        names = [name for name in options if not isinstance(written, dict) or written.get(name) != options[name]]
        differing = ", ".join(f"{name} {written.get(name) if isinstance(written, dict) else '?'}" for name in names)
        raise ValueError(
            f"{out} was made with other options ({differing or 'unknown ones'}): "
            "choose another --out, or delete that folder first"
        )


def remove_leftovers(out: Path) -> None:
    """Remove the unfinished folders next to `out` whose process has ended."""
    prefix, suffix = f".{out.name}.", ".partial"
    for sibling in out.parent.iterdir():
        process = sibling.name.removeprefix(prefix).removesuffix(suffix)
        if sibling.name == f"{prefix}{process}{suffix}" and process.isdecimal() and not is_running(int(process)):
            shutil.rmtree(sibling)


def is_running(process: int) -> bool:
    """Whether another process of that number exists. True where that cannot be asked without harm (Windows)."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
