"""Folders of classes: which folders below a root are classes, which are splits, and the images in each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from toolbox.base import (
    ImageFiles,
    compose_unicode,
    find_images,
    get_image_suffixes,
    is_ignored_name,
    list_folders,
    natural_sort_key,
)
from toolbox_datasets.subsets import Split

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""{split: how its folder, or split at Hugging Face, may be called, in upper or lower case; the usual name first}."""

_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_MOST_DATASETS = 8
_NO_IMAGES = ImageFiles((), Counter(), 0)


class ClassFiles(NamedTuple):
    """The images below a folder of classes.

    - `files`: {class: paths of its images, relative to the dataset's root}; the classes in natural order.
    - `images`: all images, and what was left out; `loose`: how many images lie in no class folder.
    """

    files: dict[str, list[str]]
    images: ImageFiles
    loose: int

    @property
    def ignored(self) -> Counter[str]:
        """{ending: how many files were left out for it}."""
        return self.images.ignored


class FolderLayout(NamedTuple):
    """Where the classes of a folder are.

    - `base`: the folder that holds the splits or classes, relative to the root: "", or "Dataset/" of one that wraps it.
    - `splits`: {split: its folder in `base`}; empty where `base` holds classes.
    - `notes`: what was decided that a user may see otherwise.
    """

    base: str
    splits: dict[str, str]
    notes: list[str]


def list_class_files(
    root: Path, folder: Path, suffixes: Collection[str] | None = None, only: Collection[str] | None = None
) -> ClassFiles:
    """All images of the class folders in `folder`, with paths relative to `root`. Raises OSError as `find_images`.

    - `suffixes`: as of `find_images`; `only`: names of the folders to look into; None for all.

    Names of classes are composed as Unicode has it (NFC), so that a folder is the same class wherever it was unpacked.
    """
    prefix = folder.relative_to(root).as_posix() + "/" if folder != root else ""
    names = list_folders(folder)
    files: dict[str, list[str]] = {compose_unicode(name): [] for name in names if only is None or name in only}
    # a loose file is left out, so it must not keep a link in a class folder from being read
    images = find_images(folder, suffixes=suffixes, only=names if only is None else only) if names else _NO_IMAGES
    loose = _count_loose_files(folder) if names and only is None else Counter()
    image_endings = get_image_suffixes() if suffixes is None else suffixes
    ignored = Counter({ending: count for ending, count in loose.items() if ending not in image_endings})
    class_of = {name: compose_unicode(name) for name in names}
    for path in images.paths:
        name, _, _ = path.partition("/")
        files[class_of[name]].append(prefix + path)
    images = replace(images, ignored=images.ignored + ignored)
    return ClassFiles(_sort_classes(files), images, loose.total() - ignored.total())


def merge_class_files(folders: Sequence[ClassFiles]) -> ClassFiles:
    """The images of several folders, class by class."""
    if len(folders) == 1:
        return folders[0]
    files: dict[str, list[str]] = {}
    for folder in folders:
        for name, paths in folder.files.items():
            files.setdefault(name, []).extend(paths)
    ignored = sum((folder.ignored for folder in folders), Counter())
    images = ImageFiles((), ignored, sum(folder.images.repeated for folder in folders))
    return ClassFiles(_sort_classes(files), images, sum(folder.loose for folder in folders))


def _sort_classes(files: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: files[name] for name in sorted(files, key=natural_sort_key)}


def _count_loose_files(folder: Path) -> Counter[str]:
    """{ending: how many files lie in the folder itself}."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_ignored_name(entry.name) and not entry.is_dir()]
    return Counter(os.path.splitext(name)[1].lower() for name in names)


def find_layout(root: Path) -> FolderLayout:
    """Whether a folder holds classes or splits of them, itself or in one folder that wraps them.

    A folder called as in `SPLIT_NAMES` is a split if it holds folders itself. Raises ValueError where two folders say
    they are the same split, where one folder could be a split or a class, and where several hold splits themselves.
    """
    base, notes = _find_base(root)
    top = root / base
    names = list_folders(top)
    split_like = [name for name in names if name.lower() in _SPLIT_OF]
    splits: dict[str, str] = {}
    for name in split_like:
        if list_folders(top / name):
            split = _SPLIT_OF[name.lower()]
            if split in splits:
                raise ValueError(
                    f"{top} has {splits[split]}/ and {name}/, both of which are called like '{split}': rename or move "
                    "one of them"
                )
            splits[split] = name
    if not splits:
        _refuse_several_datasets(top, names)
        as_classes = [f"{name}/ in {top} is taken for a class: it holds no class folders" for name in split_like]
        return FolderLayout(base, {}, notes + (as_classes if len(names) > 1 else []))
    flat = [name for name in split_like if name not in splits.values()]
    others = [name for name in names if name not in split_like]
    if len(splits) == 1 and any(find_images(top / name).paths for name in others):
        (name,) = splits.values()
        beside = ", ".join(f"{other}/" for other in others[:3]) + (" ..." if len(others) > 3 else "")
        raise ValueError(
            f"{top}: {name}/ holds folders as a split does, and {beside} beside it would be classes. If {name}/ is a "
            f"split, set root='{top / name}'; if it is a class, rename it, such as {name}_class/"
        )
    if flat:
        notes.append(f"{', '.join(f'{name}/' for name in flat)} in {top} holds no class folders and is left out")
    if others:
        used = ", ".join(f"{name}/" for name in splits.values())
        notes.append(f"left out beside {used} in {top}: {', '.join(f'{name}/' for name in others)}")
    return FolderLayout(base, {split: splits[split] for split in SPLIT_NAMES if split in splits}, notes)


def _find_base(root: Path) -> tuple[str, list[str]]:
    """The folder in which there is more than one, below folders that hold nothing but the next; and a note of it."""
    base = ""
    while True:
        names = list_folders(root / base)
        is_split = any(name.lower() in _SPLIT_OF for name in names)
        if base and (len(names) > 1 or is_split) and not _holds_images(root / base):
            return base, [f"the classes are looked for in {root / base}, the only folder there"]
        if len(names) != 1 or is_split or _holds_images(root / base):
            return "", []
        base += f"{names[0]}/"


def _holds_images(folder: Path) -> bool:
    """Whether an image lies in a folder itself."""
    return not get_image_suffixes().isdisjoint(_count_loose_files(folder))


def _refuse_several_datasets(top: Path, names: list[str]) -> None:
    """Raise ValueError where the folders in `top` are datasets with splits of their own."""
    for name in names if len(names) <= _MOST_DATASETS else ():
        training = [child for child in list_folders(top / name) if _SPLIT_OF.get(child.lower()) == "train"]
        if any(list_folders(top / name / child) for child in training):
            raise ValueError(
                f"{top / name} has {training[0]}/ with class folders: {top} is one level too high. Set "
                f"root='{top / name}'"
            )
