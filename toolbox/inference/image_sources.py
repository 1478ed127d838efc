"""Pictures without labels: those below a folder, one file, or those that a list names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from toolbox.base import Dataset, Sample, find_images, get_image_suffixes, read_image, read_label
from toolbox.base.image_files import format_ending_counts
from toolbox.errors import Problem, ToolboxError
from toolbox.inference.list_file import read_list

LISTS = (".txt", ".jsonl")
_FIELDS = ("image", "path", "query_image")


class ImageSource(Dataset):
    """Image files, in the order given; an item has no label.

    - `root`: what `names` are relative to.
    - `names`: their paths; `ids`: their ids, all different; None for the paths.
    - `notes`: what a user should know of how they were found.
    """

    def __init__(
        self, root: Path, names: list[str], ids: list[str] | None = None, notes: list[str] | None = None
    ) -> None:
        self.root, self.names, self.ids, self._notes = root, names, ids or names, notes or []

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        path = self.root / self.names[index]
        return {"image": read_image(path), "id": self.ids[index], "path": str(path)}

    def notes(self) -> list[str]:
        return self._notes

    def missing(self) -> list[str]:
        """Those of `names` that do not exist."""
        return [name for name in self.names if not (self.root / name).exists()]


def find_image_sources(*sources: str | Path) -> ImageSource:
    """The images that one or several `sources` mean; each of these is

    - a folder: all image files below it, by their paths, each once (`toolbox.base.find_images`).
    - an image file: that one.
    - a text file (.txt), a path a line, or a JSON Lines file (.jsonl), each line a path or a dict with "image", "path"
      or "query_image" and perhaps "id". Paths are relative to the list's folder. A line that returns counts once.

    Ids are the paths relative to the folder, or as the list has them; of several sources they are the whole paths, as
    far as these were given, and a picture that several name counts once. Raises ToolboxError, naming all sources that
    make no sense, and where there is no picture.
    """
    image_sources: list[ImageSource] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            image_sources.append(_in_source(Path(source).expanduser()))
        except ToolboxError as error:
            problems += error.problems
    if problems:
        raise ToolboxError.from_problems(problems)
    return image_sources[0] if len(image_sources) == 1 else _together(image_sources)


def _in_source(path: Path) -> ImageSource:
    try:
        if path.is_dir():
            return _in_folder(path)
        if not path.exists():
            raise ToolboxError(f"{path} does not exist.", hint="Give a folder of images, an image, or a list of them.")
        if path.suffix.lower() in LISTS:
            return _in_list(path)
    except OSError as error:
        raise ToolboxError(f"{path} cannot be read: {error.strerror or error}.") from error
    if path.suffix.lower() not in get_image_suffixes():
        known = f"Images end in {_endings()}, lists in {' or '.join(LISTS)}."
        raise ToolboxError(f"{path} is neither a folder, an image nor a list.", hint=known)
    return ImageSource(path.parent, [path.name])


def _together(parts: list[ImageSource]) -> ImageSource:
    """The images of several sources."""
    names: dict[str, str] = {}  # by id
    files: set[str] = set()
    repeated = 0
    for part in parts:
        for name, key in zip(part.names, part.ids, strict=True):
            path = str(part.root / name)
            key = path if key == name else key
            file = os.path.realpath(path)
            if file in files and names.get(key, path) == path:
                repeated += 1
                continue
            if names.setdefault(key, path) != path:
                message = f"The id {key!r} belongs to {names[key]} and to {path}."
                raise ToolboxError(message, hint="Give every picture an id of its own.")
            files.add(file)
    notes = [note for part in parts for note in part.notes()]
    notes += [f"{repeated:,} images that are named again are counted once"] if repeated else []
    return ImageSource(Path(), list(names.values()), list(names), notes)


def _in_folder(root: Path) -> ImageSource:
    found = find_images(root)
    if not found.paths:
        what = f" Other files there: {format_ending_counts(found.ignored)}." if found.ignored else ""
        raise ToolboxError(f"There is no image below {root}.{what}", hint=f"Images end in {_endings()}.")
    return ImageSource(root, sorted(found.paths), notes=found.notes())


def _endings() -> str:
    return ", ".join(sorted(get_image_suffixes()))


def _in_list(path: Path) -> ImageSource:
    def read_line(line: str, where: str) -> tuple[str, str]:
        name, key = _line(line, where) if path.suffix.lower() == ".jsonl" else (line, line)
        return os.path.expanduser(name), key

    found, repeated = read_list(path, read_line, describe=str, hint="Give every picture an id of its own.")
    if not found:
        raise ToolboxError(f"{path} names no picture.", hint="Write one path a line, relative to the list's folder.")
    notes = [f"{repeated} lines that return are counted once"] if repeated else []
    return ImageSource(path.parent, list(found.values()), list(found), notes)


def _line(line: str, where: str) -> tuple[str, str]:
    """The path and the id of a line of JSON."""
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise ToolboxError(f"The line is no JSON: {error}.", where=where) from error
    if isinstance(value, str):
        return value, value
    fields = [field for field in _FIELDS if isinstance(value, dict) and isinstance(value.get(field), str)]
    if not fields:
        wanted = ", ".join(f'"{field}"' for field in _FIELDS)
        raise ToolboxError("The line names no picture.", where=where, hint=f"It takes one of {wanted}.")
    name, key = value[fields[0]], value.get("id")
    try:
        return name, (key if isinstance(key, str) and key.strip() else read_label(key)) or name
    except ValueError as error:
        raise ToolboxError(f"'id' {error}.", where=where) from error
