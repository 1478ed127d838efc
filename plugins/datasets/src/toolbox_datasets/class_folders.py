"""Folders of classes: which folders below a root are classes, which are splits, and the images in each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from toolbox.base import (
    ImageFiles,
    composed,
    find_images,
    folders_in,
    image_suffixes,
    is_passed_over,
    natural,
)

__all__ = ["Layout", "Listing", "find_layout", "folders_in", "list_classes", "natural"]

SPLIT_NAMES = {
    "train": ("train", "training"), "val": ("validation", "val", "valid", "dev"), "test": ("test", "testing"),
}  # fmt: skip
"""{split: how its folder, or split at Hugging Face, may be called, in upper or lower case; the usual name first}."""

_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_FEW = 8
_NOTHING = ImageFiles((), Counter(), 0)


class Listing(NamedTuple):
    """What lies below a folder of classes.

    - `files`: {class: paths of its images, relative to the dataset's root}; the classes in natural order.
    - `images`: what the walk found and left out; `loose`: how many images lie in no class folder.
    """

    files: dict[str, list[str]]
    images: ImageFiles
    loose: int

    @property
    def ignored(self) -> Counter[str]:
        """{ending: how many files were left out for it}."""
        return self.images.ignored


class Layout(NamedTuple):
    """Where the classes of a folder are.

    - `base`: the folder that holds the splits or classes, relative to the root: "", or "Dataset/" of one that wraps it.
    - `splits`: {split: its folder in `base`}; empty where `base` holds classes.
    - `notes`: what was decided that a user may see otherwise.
    """

    base: str
    splits: dict[str, str]
    notes: list[str]


def list_classes(
    root: Path, folder: Path, suffixes: Collection[str] | None = None, only: Collection[str] | None = None
) -> Listing:
    """All images of the class folders in `folder`, with paths relative to `root`. Raises OSError as `find_images`.

    - `suffixes`: as of `find_images`; `only`: names of the folders to look into; None for all.

    Names of classes are composed as Unicode has it (NFC), so that a folder is the same class wherever it was unpacked.
    """
    prefix = folder.relative_to(root).as_posix() + "/" if folder != root else ""
    names = folders_in(folder)
    files: dict[str, list[str]] = {composed(name): [] for name in names if only is None or name in only}
    # a loose file is left out, so it must not keep a link in a class folder from being read
    found = find_images(folder, suffixes=suffixes, only=names if only is None else only) if names else _NOTHING
    loose = _loose_files(folder) if names and only is None else Counter()
    wanted = image_suffixes() if suffixes is None else suffixes
    ignored = Counter({ending: count for ending, count in loose.items() if ending not in wanted})
    class_of = {name: composed(name) for name in names}
    for path in found.paths:
        name, _, _ = path.partition("/")
        files[class_of[name]].append(prefix + path)
    found = replace(found, ignored=found.ignored + ignored)
    return Listing({name: files[name] for name in sorted(files, key=natural)}, found, loose.total() - ignored.total())


def _loose_files(folder: Path) -> Counter[str]:
    """{ending: how many files lie in the folder itself}."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_passed_over(entry.name) and not entry.is_dir()]
    return Counter(os.path.splitext(name)[1].lower() for name in names)


def find_layout(root: Path) -> Layout:
    """Whether a folder holds classes or splits of them, itself or in one folder that wraps them.

    A folder called as in `SPLIT_NAMES` is a split if it holds folders itself. Raises ValueError where two folders say
    they are the same split, where one folder could be a split or a class, and where several hold splits themselves.
    """
    base, notes = _unwrapped(root)
    top = root / base
    names = folders_in(top)
    called = [name for name in names if name.lower() in _SPLIT_OF]
    found: dict[str, str] = {}
    for name in called:
        if folders_in(top / name):
            split = _SPLIT_OF[name.lower()]
            if split in found:
                raise ValueError(
                    f"{top} has {found[split]}/ and {name}/, both of which are called like '{split}': rename or move "
                    "one of them"
                )
            found[split] = name
    if not found:
        _refuse_several(top, names)
        notes += [f"{name}/ in {top} is taken for a class: it holds no class folders" for name in called]
        return Layout(base, {}, notes if len(names) > 1 else notes[: len(notes) - len(called)])
    flat = [name for name in called if name not in found.values()]
    others = [name for name in names if name not in called]
    if len(found) == 1 and any(find_images(top / name).paths for name in others):
        (name,) = found.values()
        beside = ", ".join(f"{other}/" for other in others[:3]) + (" ..." if len(others) > 3 else "")
        raise ValueError(
            f"{top}: {name}/ holds folders as a split does, and {beside} beside it would be classes. If {name}/ is a "
            f"split, set root='{top / name}'; if it is a class, rename it, such as {name}_class/"
        )
    if flat:
        notes.append(f"{', '.join(f'{name}/' for name in flat)} in {top} holds no class folders and is left out")
    if others:
        splits = ", ".join(f"{name}/" for name in found.values())
        notes.append(f"left out beside {splits} in {top}: {', '.join(f'{name}/' for name in others)}")
    return Layout(base, {split: found[split] for split in SPLIT_NAMES if split in found}, notes)


def _unwrapped(root: Path) -> tuple[str, list[str]]:
    """The folder in which there is more than one, below folders that hold nothing but the next."""
    base = ""
    while True:
        names = folders_in(root / base)
        is_split = any(name.lower() in _SPLIT_OF for name in names)
        if base and (len(names) > 1 or is_split) and not _holds_pictures(root / base):
            return base, [f"the classes are looked for in {root / base}, the only folder there"]
        if len(names) != 1 or is_split or _holds_pictures(root / base):
            return "", []
        base += f"{names[0]}/"


def _holds_pictures(folder: Path) -> bool:
    """Whether an image lies in a folder itself."""
    suffixes = image_suffixes()
    return any(os.path.splitext(name)[1].lower() in suffixes for name in os.listdir(folder) if not is_passed_over(name))


def _refuse_several(top: Path, names: list[str]) -> None:
    """Raise ValueError where the folders in `top` are datasets with splits of their own."""
    for name in names if len(names) <= _FEW else ():
        inside = [child for child in folders_in(top / name) if _SPLIT_OF.get(child.lower()) == "train"]
        if any(folders_in(top / name / child) for child in inside):
            raise ValueError(
                f"{top / name} has {inside[0]}/ with class folders: {top} is one level too high. Set "
                f"root='{top / name}'"
            )


def only_case_differs(names: Collection[str]) -> list[str]:
    """Those of `names` that another one is spelled like in other letters, upper and lower."""
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(name.casefold(), []).append(name)
    return [name for group in spelled.values() if len(group) > 1 for name in group]
