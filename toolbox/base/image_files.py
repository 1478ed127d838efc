"""Which files below a folder are its images: the one walk for training, embedding and predicting."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageFile

NOT_IMAGES = frozenset({"EPS", "MPEG"})
"""Formats of Pillow that are documents and films; so are those that it only recognises (HDF5, GRIB, BUFR, WMF)."""

SYSTEM_NAMES = frozenset(
    {
        "@eadir",
        "@recycle",
        "@tmp",
        "#recycle",
        "#snapshot",
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "lost+found",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "__pycache__",
        "icon\r",
    }
)
"""What operating systems, network storage and unpackers leave in folders of images, in lower case."""

_CLOCK_TICK = 2_000_000_000  # ns: a folder that changed just now may change again within one tick of its clock
_MAX_CACHED = 8


@dataclass(frozen=True)
class ImageFiles:
    """The images below a folder.

    - `paths`: relative to the folder, with forward slashes, in natural order (2 before 10).
    - `ignored`: {ending in lower case: how many files were left out for it}; "" for files that have none.
    - `repeated`: how many links were left out because what they lead to is among `paths` by another name.
    """

    paths: Sequence[str]
    ignored: Counter[str]
    repeated: int
    stamps: dict[str, tuple[int, int]] = field(repr=False, default_factory=dict)

    def notes(self) -> list[str]:
        """What was left out, with counts."""
        total = self.ignored.total()
        notes = [f"{total:,} other files ignored ({format_ending_counts(self.ignored)})"] if total else []
        return notes + self.describe_repeated()

    def describe_repeated(self) -> list[str]:
        """How many links were left out, if any."""
        return [f"{self.repeated:,} links left out: what they lead to is read by its own name"] if self.repeated else []


def get_image_suffixes() -> frozenset[str]:
    """The endings of image files in lower case: those of all formats that Pillow opens here.

    Pillow's own plugins count, and what others have registered with it, such as pillow_heif for .heic.
    """
    format_by_suffix = Image.registered_extensions()  # first, as it loads what fills Image.OPEN
    only_recognised = {
        name
        for name, (factory, _) in Image.OPEN.items()
        if isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    }
    formats = (Image.OPEN.keys() - only_recognised | {"MPO"}) - NOT_IMAGES
    return frozenset(suffix for suffix, name in format_by_suffix.items() if name in formats)


def format_ending_counts(ignored: Counter[str]) -> str:
    """Counts of endings in words: "3 .txt, 1 without ending"."""
    order = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {suffix or 'without ending'}" for suffix, count in order)


def is_ignored_name(name: str) -> bool:
    """Whether a file or folder of this name is hidden or the system's, and is left out without a note."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def list_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the folders in `folder` that may hold images, in natural order; none if it is no folder."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not is_ignored_name(entry.name) and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(names, key=natural_sort_key)


def find_images(
    folder: str | os.PathLike[str], *, suffixes: Collection[str] | None = None, only: Collection[str] | None = None
) -> ImageFiles:
    """All image files below `folder`, each once. Raises OSError naming a folder that cannot be read.

    - `suffixes`: what counts as an image, in lower case; None for `get_image_suffixes()`.
    - `only`: names of the folders in `folder` to look into; None for all of it.

    Links are followed after all that is there itself: one that leads to a file or folder that was seen, or to a folder
    above, adds nothing. A link to a file that is gone counts as an image, which then cannot be read. Hard links are
    files of their own. The result is cached until a folder changes, so that a process walks it once.
    """
    endings = get_image_suffixes() if suffixes is None else frozenset(suffixes)
    key = (os.path.realpath(folder), endings, None if only is None else frozenset(only))
    cached = _cache.get(key)
    if cached is not None and all(_read_stamp(path) == stamp for path, stamp in cached.stamps.items()):
        return cached
    _cache.pop(key, None)
    walk = _Walk(Path(folder), endings, only)
    paths = tuple(sorted(walk.paths, key=natural_sort_key))
    files = ImageFiles(paths, walk.ignored, walk.repeated, walk.stamps)
    if all(walk.started - max(stamp) > _CLOCK_TICK for stamp in walk.stamps.values()):
        while len(_cache) >= _MAX_CACHED:
            _cache.pop(next(iter(_cache)))
        _cache[key] = files
    return files


_cache: dict[tuple[str, frozenset[str], frozenset[str] | None], ImageFiles] = {}


def _read_stamp(folder: str) -> tuple[int, int]:
    """What changes when a file or folder comes into a folder, or leaves it."""
    try:
        status = os.stat(folder)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ctime_ns


class _Walk:
    """First what lies in the folder itself, then what linked folders hold, then linked files."""

    def __init__(self, root: Path, suffixes: frozenset[str], only: Collection[str] | None) -> None:
        self.root, self.suffixes, self.started = root, suffixes, time.time_ns()
        self.paths: list[str] = []
        self.ignored: Counter[str] = Counter()
        self.repeated = 0
        self.stamps: dict[str, tuple[int, int]] = {}  # by real path: the folders that were seen
        self._prefix_of: dict[str, str] = {}  # real path of a folder: how its files are called
        self._links: list[str] = []
        real = os.path.realpath(root)
        self._above = {real[:end] or os.sep for end in range(len(real)) if real[end] == os.sep}
        self._add_folder("", real, only)
        file_links: list[tuple[str, str]] = []
        while self._links:
            links, self._links = sorted(self._links, key=natural_sort_key), []
            for name in links:
                target = os.path.realpath(root / name)
                if not os.path.isdir(target):
                    file_links.append((name, target))
                elif target in self._above or target in self.stamps:
                    self.repeated += 1
                else:
                    self._add_folder(f"{name}/", target)
        items = set(self.paths) if file_links else set()
        linked: set[str] = set()
        for name, target in sorted(file_links, key=lambda link: natural_sort_key(link[0])):
            parent, base = os.path.split(target)
            is_item = parent in self._prefix_of and self._prefix_of[parent] + base in items
            if _get_ending(name) not in self.suffixes:  # so what it leads to may still be read by another link
                self._add_file(name, is_file=True)
            elif is_item or target in linked:
                self.repeated += 1
            else:
                linked.add(target)
                self._add_file(name, is_file=True)

    def _add_folder(self, prefix: str, real: str, only: Collection[str] | None = None) -> None:
        if real in self.stamps:  # by a link to a folder above it
            return
        self.stamps[real] = _read_stamp(real)
        self._prefix_of[real] = prefix
        with os.scandir(self.root / prefix) as entries:
            for entry in entries:
                if is_ignored_name(entry.name) or (only is not None and entry.name not in only):
                    continue
                if entry.is_symlink():
                    self._links.append(prefix + entry.name)
                elif entry.is_dir():
                    self._add_folder(f"{prefix}{entry.name}/", os.path.join(real, entry.name))
                else:
                    self._add_file(prefix + entry.name, is_file=entry.is_file())

    def _add_file(self, name: str, *, is_file: bool) -> None:
        suffix = _get_ending(name)
        if suffix in self.suffixes and is_file:
            self.paths.append(name)
        else:
            self.ignored[suffix] += 1


def _get_ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def identify_files(files: Iterable[str | os.PathLike[str]], names: Iterable[str]) -> list[str]:
    """Identities of files (`Dataset.identities`): the `names` of items with the sizes of their `files` in bytes."""
    identities = []
    for file, name in zip(files, names, strict=True):
        try:
            size = os.stat(file).st_size
        except OSError:
            size = -1
        identities.append(f"{name}:{size}")
    return identities


def natural_sort_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts 2 before 10; ties by spelling."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(int(part), "") if part.isdecimal() else (sys.maxsize, part) for part in parts], name


def compose_unicode(name: str) -> str:
    """A name in Unicode's composed form (NFC): file systems of Apple spell 'é' as two characters, others as one."""
    return unicodedata.normalize("NFC", name)
