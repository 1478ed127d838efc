"""Folders of classes: the images in each, in natural order."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple


class Listing(NamedTuple):
    """What lies below a folder of classes.

    - `files`: {class: paths of its images, relative to the dataset's root}.
    - `ignored`: {extension: how many files were left out for it}.
    """

    files: dict[str, list[str]]
    ignored: Counter[str]


def list_classes(root: Path, folder: Path, extensions: Sequence[str], only: Collection[str] | None = None) -> Listing:
    """All images of the class folders in `folder`, with paths relative to `root`.

    - `only`: names of the folders to look into; None for all.
    """
    files: dict[str, list[str]] = {}
    ignored: Counter[str] = Counter()
    for name in sorted(folders_in(folder), key=natural):
        if only is not None and name not in only:
            continue
        files[name] = []
        for parent, folders, names in os.walk(folder / name, followlinks=True):
            folders[:] = sorted((child for child in folders if not child.startswith(".")), key=natural)
            relative = Path(parent).relative_to(root).as_posix()
            for file in sorted((child for child in names if not child.startswith(".")), key=natural):
                extension = os.path.splitext(file)[1].lower()
                if extension in extensions:
                    files[name].append(f"{relative}/{file}")
                else:
                    ignored[extension] += 1
    return Listing(files, ignored)


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in `folder` that are not hidden; none if it is no folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts 2 before 10; ties by spelling."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(int(part), "") if part.isdecimal() else (sys.maxsize, part) for part in parts], name
