"""Your own images: one folder a class."""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from toolbox.base import (
    SPLITS,
    Dataset,
    ImageFiles,
    Sample,
    composed,
    listed_endings,
    read_image,
    sized_files,
    split_by_hash,
)
from toolbox.plugin import Problem
from toolbox_datasets import subsets
from toolbox_datasets.class_folders import (
    Layout,
    Listing,
    find_layout,
    folders_in,
    list_classes,
    natural,
    only_case_differs,
)
from toolbox_datasets.files import listing
from toolbox_datasets.splits import LEAST, require_share


class ImageFolder(Dataset):
    """Images in root/<class>/, at any depth below it, or in root/train/<class>/, root/val/<class>/ and so on.

    - `root`: the folder, or one that holds nothing but it. If train/, val/ or test/ in it hold folders themselves,
      these are the splits. They may also be called training; valid, validation or dev; testing; in any case.
    - `split`: which one; "all" is everything.
    - `val_share`, `test_share`: without such folders, about the shares that "val" and "test" get, at least 2 classes,
      or an image of each class.
    - `extensions`: what counts as an image, upper or lower case; None for all that Pillow can open
      (`toolbox.base.image_suffixes`).
    - `divide`: what these are shares of: "classes", as retrieval needs it, so that no class is in two splits, or
      "images" of each class, to classify, so that every class is in all splits.
    - `ratio`: about the share of each class of the split that is taken; `shots`: this many images of each class
      instead.
    - `seed`: of what is carved and taken. "train" and "val" must be given the same shares and `seed`.

    Which split a class or an image is in depends on its own name and `seed` alone (`toolbox.base.split_by_hash`):
    pictures and classes that are added move no other from "train" into "val" or "test". A class with fewer images than
    splits is in "train" alone until it grows. Divided by images, train/ alone is enough of folders to carve "val" from.
    A split whose classes all occur in train/ takes its labels from there, so they mean the same in both.

    Classes and files are in natural order (2 before 10). Each file is read once, whatever links lead to it;
    hidden files and folders are passed over, and those of the system (@eaDir, __MACOSX; `toolbox.base.image_files`). A
    sample holds "image", "label", "id" (the path relative to `root`) and "path". `ignored` counts files of other
    extensions. The folder is read on first use. Raises ValueError for an unknown split, numbers out of range, or no
    extension.
    """

    def __init__(
        self,
        root: str,
        split: Literal["train", "val", "test", "all"] = "all",
        val_share: float = 0.1,
        test_share: float = 0.2,
        extensions: list[str] | None = None,
        divide: Literal["classes", "images"] = "classes",
        ratio: float = 1.0,
        shots: int | None = None,
        seed: int = 42,
    ) -> None:
        if split not in (*SPLITS, "all"):
            raise ValueError(f"split must be 'train', 'val', 'test' or 'all', not {split!r}")
        require_share("val_share", val_share)
        require_share("test_share", test_share)
        if val_share + test_share >= 1:
            raise ValueError(f"val_share ({val_share}) and test_share ({test_share}) leave nothing to train on")
        if extensions is not None and not extensions:
            raise ValueError("extensions is empty: name at least one, such as ['jpg'], or leave it out")
        if divide not in ("classes", "images"):
            raise ValueError(f"divide must be 'classes' or 'images', not {divide!r}")
        subsets.require_subset(ratio, shots, seed)
        self.root, self.split = os.path.expanduser(root), split
        self.val_share, self.test_share = val_share, test_share
        self.divide, self.ratio, self.shots, self.seed = divide, ratio, shots, seed
        self.extensions = extensions and tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)

    @cached_property
    def layout(self) -> Layout:
        """Where the splits and classes are. Raises ValueError where that cannot be told."""
        return find_layout(Path(self.root))

    @property
    def split_folders(self) -> list[str]:
        """Which of "train", "val" and "test" have folders of their own; none if `root` itself holds the classes."""
        return list(self.layout.splits)

    @cached_property
    def parts(self) -> list[str]:
        """The folders below `root` that hold the classes of the split. Raises ValueError if it has none."""
        splits = self.layout.splits
        wanted = list(splits) if self.split == "all" else ["train" if self.carved else self.split]
        if splits and not set(wanted) <= set(splits):
            raise ValueError(
                f"{Path(self.root) / self.layout.base} has {', '.join(f'{name}/' for name in splits.values())} but no "
                f"{self.split}/ with class folders: make one, or choose another split"
            )
        return [f"{self.layout.base}{splits[name]}/" for name in wanted] if splits else [self.layout.base]

    @cached_property
    def listings(self) -> dict[str, Listing]:
        """{folder: what lies in its classes} of the folders that hold the split's."""
        root = Path(self.root)
        return {str(root / part): list_classes(root, root / part, self.extensions) for part in self.parts}

    @cached_property
    def undivided(self) -> Listing:
        """The images of all classes that this split is drawn from."""
        return merged(list(self.listings.values()))

    @cached_property
    def listing(self) -> Listing:
        """The images of this split's classes. Raises ValueError if `root` has split folders, but not this one."""
        found = self.undivided
        if self.split_folders or self.divide == "images":
            return found
        return found._replace(files={name: found.files[name] for name in self.divided(list(found.files))})

    @cached_property
    def carved(self) -> dict[str, float]:
        """{split: its share of the images of each class} of the splits that are carved where this one comes from."""
        if self.divide == "classes" or self.split == "all":
            return {}
        if not self.split_folders:
            return {"val": self.val_share, "test": self.test_share}
        lacks_val = "train" in self.split_folders and "val" not in self.split_folders
        return {"val": self.val_share} if lacks_val and self.split in ("train", "val") else {}

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
        shares = {"val_share": self.val_share, "test_share": self.test_share}
        chosen = split_by_hash(names, **shares, seed=self.seed, least=LEAST)[self.split]
        return [names[index] for index in chosen]

    @cached_property
    def classes(self) -> list[str]:
        own = list(self.listing.files)
        if "train" in self.split_folders and self.split in ("val", "test"):
            folder = Path(self.root) / self.layout.base / self.layout.splits["train"]
            trained = sorted({composed(name) for name in folders_in(folder)}, key=natural)
            return trained if set(own) <= set(trained) else own
        return own

    @cached_property
    def whole(self) -> list[tuple[str, int]]:
        """(path relative to `root`, label) of each image that the split is drawn from."""
        label_of = {name: label for label, name in enumerate(self.classes)}
        return [(path, label_of[name]) for name, paths in self.listing.files.items() for path in paths]

    @cached_property
    def own(self) -> list[int]:
        """Indices into `whole` of the split's own images, before `ratio` or `shots`."""
        if not self.carved:
            return list(range(len(self.whole)))
        shares = {f"{name}_share": self.carved.get(name, 0) for name in ("val", "test")}
        labels = np.array([label for _, label in self.whole], dtype=np.int64)
        return split_by_hash(self.keys_of(self.whole), **shares, seed=self.seed, labels=labels)[self.split].tolist()

    def keys_of(self, items: list[tuple[str, int]]) -> list[str]:
        """What images are called in their class, wherever the classes lie."""
        folder = self.parts[0] if len(self.parts) == 1 else self.layout.base
        return [composed(path.removeprefix(folder)) for path, _ in items]

    @cached_property
    def items(self) -> list[tuple[str, int]]:
        """(path relative to `root`, label) of each image of the split."""
        own = [self.whole[index] for index in self.own]
        if self.shots is None and self.ratio == 1:
            return own
        labels = np.array([label for _, label in own], dtype=np.int64)
        try:
            kept = subsets.thinned(labels, self.keys_of(own), self.ratio, self.shots, self.seed, self.classes)
        except ValueError as error:
            raise ValueError(f"{self.root}, '{self.split}': {error}") from None
        return [own[place] for place in kept.tolist()]

    @cached_property
    def labels(self) -> list[int]:
        return [label for _, label in self.items]

    @property
    def ignored(self) -> dict[str, int]:
        """{extension: how many files below `root` were left out for it}; "" for files that have none."""
        return dict(self.listing.ignored)

    def __len__(self) -> int:
        return len(self.items)

    def item_files(self) -> list[Path]:
        return [Path(self.root) / path for path, _ in self.items]

    def identities(self) -> list[str]:
        paths = [path for path, _ in self.items]
        names = (composed(path.removeprefix(next(filter(path.startswith, self.parts)))) for path in paths)
        return sized_files((f"{self.root}/{path}" for path in paths), names)  # the same ones of "all" and "test"

    def ignored_files(self) -> dict[str, dict[str, int]]:
        return {folder: dict(listing.ignored) for folder, listing in self.listings.items()}

    def notes(self) -> list[str]:
        """What was decided of the folders, how images are divided and how many are left out, with counts."""
        notes = [*self.layout.notes, *self.listing.images.repeated_note()]
        if self.listing.loose:
            notes.append(f"{self.listing.loose:,} images of {self.root} lie in no class folder and are left out")
        if alike := only_case_differs(self.listing.files):
            notes.append(f"classes that differ only in upper and lower case: {listing(alike)}")
        if self.split != "all" and not self.split_folders and self.divide == "classes":
            notes.append(
                f"{self.root}: the classes are divided by their names ('val' about {self.val_share:g}, 'test' about "
                f"{self.test_share:g}, seed {self.seed}); '{self.split}' has {len(self.listing.files):,} of "
                f"{len(self.undivided.files):,}"
            )
        if self.carved:
            shares = ", ".join(f"'{name}' about {share:g}" for name, share in self.carved.items())
            notes.append(
                f"{self.root}: the images of each class are divided by their names ({shares}, seed {self.seed}); "
                f"'{self.split}' has {len(self.own):,} of {len(self.whole):,} ({len(self.own) / len(self.whole):.1%})"
            )
        return notes + subsets.notes_of(
            np.array([label for _, label in self.whole], dtype=np.int64), 1 + len(self.carved), self.split,
            own=len(self.own), kept=len(self), ratio=self.ratio, shots=self.shots, seed=self.seed, classes=self.classes,
        )  # fmt: skip

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
        except (OSError, ValueError) as error:
            return [Problem(str(error), "root")]
        if not any(files.values()):
            others = listed_endings(self.listing.ignored)
            found = f" Other files there: {others}; `extensions` says what counts as an image." if others else ""
            return [
                Problem(f"{self.root}: the split '{self.split}' has no images in class folders.{found}", "root", layout)
            ]
        try:
            found = len(self.items)
        except ValueError as error:
            return [Problem(str(error), "root")]
        if not found:
            return [Problem(f"{self.root}: no class has enough images to give '{self.split}' one.", "root", layout)]
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            others = listed_endings(self.listing.ignored)
            found = f" Other files below {self.root}: {others}." if others else ""
            message = f"{len(empty)} class folders in {self.root} hold no image: {listing(empty)}.{found}"
            return [Problem(message, "root", "Fill or remove them.")]
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


def merged(listings: list[Listing]) -> Listing:
    """What several folders hold, class by class."""
    if len(listings) == 1:
        return listings[0]
    files: dict[str, list[str]] = {}
    for one in listings:
        for name, paths in one.files.items():
            files.setdefault(name, []).extend(paths)
    ignored = sum((one.ignored for one in listings), Counter())
    images = ImageFiles((), ignored, sum(one.images.repeated for one in listings))
    ordered = {name: files[name] for name in sorted(files, key=natural)}
    return Listing(ordered, images, sum(one.loose for one in listings))
