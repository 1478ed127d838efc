"""Your own images: one folder a class."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from toolbox.base import IMAGE_SUFFIXES, Dataset, Sample, read_image
from toolbox.plugin import Problem
from toolbox_datasets.splits import LEAST, held_out, require_share, without

SPLITS = ("train", "val", "test")


class Listing(NamedTuple):
    """What lies below a folder of classes.

    - `files`: {class: paths of its images, relative to the dataset's root}.
    - `ignored`: {extension: how many files were left out for it}.
    """

    files: dict[str, list[str]]
    ignored: Counter[str]


class ImageFolder(Dataset):
    """Images in root/<class>/, at any depth below it, or in root/train/<class>/, root/val/<class>/ and so on.

    - `root`: the folder. If train/, val/ or test/ in it holds folders itself, these are the splits.
    - `split`: which one; "all" is everything.
    - `val_share`, `test_share`: without such folders, the shares of *classes* that "val" and "test" get, at least 2.
    - `extensions`: what counts as an image, upper or lower case; None for jpg, jpeg, png, webp, bmp, gif, tif, tiff.

    Without split folders no class is in two splits, as retrieval needs it: "test" gets evenly spaced classes of all,
    "val" of the others, in natural order, the same in every run. To classify, make train/ and val/ that share classes:
    a split whose classes all occur in train/ takes its labels from there, so they mean the same in both.

    Classes and files are in natural order (2 before 10). Hidden files and folders are passed over. A sample holds
    "image", "label", "id" (the path relative to `root`) and "path". `ignored` counts files of other extensions. The
    folder is read on first use. Raises ValueError for an unknown split, a share outside (0, 1), or no extension.
    """

    def __init__(
        self,
        root: str,
        split: Literal["train", "val", "test", "all"] = "all",
        val_share: float = 0.1,
        test_share: float = 0.2,
        extensions: list[str] | None = None,
    ) -> None:
        if split not in (*SPLITS, "all"):
            raise ValueError(f"split must be 'train', 'val', 'test' or 'all', not {split!r}")
        require_share("val_share", val_share)
        require_share("test_share", test_share)
        if val_share + test_share >= 1:
            raise ValueError(f"val_share ({val_share}) and test_share ({test_share}) leave nothing to train on")
        if extensions is not None and not extensions:
            raise ValueError("extensions is empty: name at least one, such as ['jpg'], or leave it out")
        self.root, self.split, self.val_share, self.test_share = root, split, val_share, test_share
        self.extensions = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions or IMAGE_SUFFIXES)

    @cached_property
    def split_folders(self) -> list[str]:
        """Which of train/, val/ and test/ hold class folders; none if `root` itself does."""
        return [name for name in SPLITS if folders_in(Path(self.root) / name)]

    @cached_property
    def listing(self) -> Listing:
        """The images of this split. Raises ValueError if `root` has split folders, but not this one."""
        if not self.split_folders:
            listing = list_classes(Path(self.root), Path(self.root), self.extensions)
            names = list(listing.files)
            return Listing({name: listing.files[name] for name in self.divided(names)}, listing.ignored)
        names = self.split_folders if self.split == "all" else [self.split]
        if not set(names) <= set(self.split_folders):
            raise ValueError(
                f"{self.root} has {', '.join(f'{name}/' for name in self.split_folders)} but no {self.split}/ with "
                "class folders: make one, or choose another split"
            )
        files: dict[str, list[str]] = {}
        ignored: Counter[str] = Counter()
        for name in names:
            listing = list_classes(Path(self.root), Path(self.root) / name, self.extensions)
            ignored += listing.ignored
            for class_name, paths in listing.files.items():
                files.setdefault(class_name, []).extend(paths)
        return Listing({name: files[name] for name in sorted(files, key=natural)}, ignored)

    def divided(self, names: list[str]) -> list[str]:
        """Those of all classes that belong to this split when there are no split folders."""
        if self.split == "all":
            return names
        if names and len(names) < 3 * LEAST:
            raise ValueError(
                f"{self.root} has {len(names)} class {'folder' if len(names) == 1 else 'folders'}, and splits that "
                f"share no class take {3 * LEAST}, {LEAST} each: make train/, val/ and test/ in it with class folders "
                "each. These may share classes, with other images"
            )
        test = spread(len(names), self.test_share)
        rest = without(range(len(names)), test)
        share_of_rest = Fraction(str(self.val_share)) / (1 - Fraction(str(self.test_share)))
        val = [rest[index] for index in spread(len(rest), share_of_rest)]
        chosen = {"test": test, "val": val, "train": without(rest, val)}[self.split]
        if len(chosen) < min(LEAST, len(names)):
            raise ValueError(
                f"{self.root}: val_share ({self.val_share}) and test_share ({self.test_share}) leave {len(chosen)} of "
                f"{len(names)} classes for '{self.split}': choose smaller shares, or make train/, val/, test/ folders"
            )
        return [names[index] for index in chosen]

    @cached_property
    def classes(self) -> list[str]:
        own = list(self.listing.files)
        if "train" in self.split_folders and self.split in ("val", "test"):
            trained = sorted(folders_in(Path(self.root) / "train"), key=natural)
            return trained if set(own) <= set(trained) else own
        return own

    @cached_property
    def items(self) -> list[tuple[str, int]]:
        """(path relative to `root`, label) of each image."""
        label_of = {name: label for label, name in enumerate(self.classes)}
        return [(path, label_of[name]) for name, paths in self.listing.files.items() for path in paths]

    @cached_property
    def labels(self) -> list[int]:
        return [label for _, label in self.items]

    @property
    def ignored(self) -> dict[str, int]:
        """{extension: how many files below `root` were left out for it}; "" for files that have none."""
        return dict(self.listing.ignored)

    def __len__(self) -> int:
        return len(self.items)

    def sources(self) -> list[Path]:
        return [Path(self.root) / name for name, _ in self.items]

    def __getitem__(self, index: int) -> Sample:
        name, label = self.items[index]
        path = Path(self.root) / name
        return {"image": read_image(path), "label": label, "id": name, "path": str(path)}

    def check(self) -> list[Problem]:
        """A missing folder or split, a folder without images, or classes without any."""
        layout = f"Put images into {self.root}/<class>/, or into train/, val/ and test/ there, one folder a class each."
        if not Path(self.root).is_dir():
            return [Problem(f"The folder {self.root} does not exist.", "root", layout)]
        try:
            files = self.listing.files
        except ValueError as error:
            return [Problem(str(error), "root")]
        if not any(files.values()):
            others = ", ".join(f"{count} {name or 'without extension'}" for name, count in self.ignored.items())
            found = f" Other files there: {others}; `extensions` says what counts as an image." if others else ""
            return [
                Problem(f"{self.root}: the split '{self.split}' has no images in class folders.{found}", "root", layout)
            ]
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            names = ", ".join(empty[:3]) + (" ..." if len(empty) > 3 else "")
            return [
                Problem(
                    f"{len(empty)} class folders in {self.root} hold no image: {names}.", "root", "Fill or remove them."
                )
            ]
        return []

    @classmethod
    def prepare(cls, out: str) -> str:
        """Check a folder of images and return what is in it.

        - `out`: the folder that holds one folder a class. Raises ValueError with what is wrong in it.
        """
        dataset = cls(out)
        splits = dataset.split_folders or ["all"]
        findings = []
        for split in splits:
            dataset = cls(out, split=split)
            problems = dataset.check()
            if problems:
                raise ValueError("\n".join(map(str, problems)))
            left_out = sum(dataset.ignored.values())
            note = f" ({left_out:,} other files ignored)" if left_out else ""
            findings.append(f"{split} {len(dataset):,} images of {len(dataset.listing.files):,} classes{note}")
        return f"{out} is readable: " + ", ".join(findings)


def spread(count: int, share: float | Fraction) -> list[int]:
    """Indices of `share` of `count` classes, evenly spaced, and of at least `LEAST` of them."""
    found = held_out(count, share)
    return found if len(found) >= LEAST or not count else held_out(count, Fraction(LEAST, count))


def list_classes(root: Path, folder: Path, extensions: Sequence[str]) -> Listing:
    """All images of the class folders in `folder`, with paths relative to `root`."""
    files: dict[str, list[str]] = {}
    ignored: Counter[str] = Counter()
    for name in sorted(folders_in(folder), key=natural):
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
