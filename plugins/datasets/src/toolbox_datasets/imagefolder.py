"""Your own images: one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from toolbox.base import (
    SPLITS,
    compose_unicode,
    find_similar_labels,
    format_ending_counts,
    identify_files,
    lazy_attribute,
    list_folders,
    natural_sort_key,
    split_by_hash,
)
from toolbox.plugin import Problem
from toolbox_datasets import subsets
from toolbox_datasets.class_folders import (
    SPLIT_NAMES,
    ClassFiles,
    FolderLayout,
    find_layout,
    list_class_files,
    merge_class_files,
)
from toolbox_datasets.files import list_first
from toolbox_datasets.image_file_dataset import ImageFileDataset, LabelledFile
from toolbox_datasets.published_dataset import require_valid
from toolbox_datasets.subsets import LEAST, Split, require_share


class ImageFolder(ImageFileDataset):
    """Images in root/<class>/, at any depth below it, or in root/train/<class>/, root/val/<class>/ and so on.

    - `root`: the folder, or one that holds nothing but it. If train/, val/ or test/ in it hold folders themselves,
      these are the splits. They may also be called training; valid, validation or dev; testing; in any case.
    - `split`: which one; "all" is everything.
    - `val_share`, `test_share`: without such folders, about the shares that "val" and "test" get, at least 2 classes,
      or an image of each class.
    - `extensions`: what counts as an image, upper or lower case; None for all that Pillow can open
      (`toolbox.base.get_image_suffixes`).
    - `divide`: what these are shares of: "classes", as retrieval needs it, so that no class is in two splits, or
      "images" of each class, to classify, so that every class is in all splits.
    - `ratio`: about the share of each class of the split that is taken; `shots`: this many images of each class
      instead.
    - `seed`: of what is carved and taken. "train" and "val" must be given the same shares and `seed`.

    Which split a class or an image is in depends on its own name and `seed` alone (`toolbox.base.split_by_hash`):
    images and classes that are added move no other from "train" into "val" or "test". A class with fewer images than
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
        subsets.require_split(split, (*SPLITS, "all"))
        require_share("val_share", val_share)
        require_share("test_share", test_share)
        subsets.require_held_out(val_share=val_share, test_share=test_share)
        super().__init__(root, "train", ratio, shots, val_share, seed)
        if extensions is not None and not extensions:
            raise ValueError("extensions is empty: name at least one, such as ['jpg'], or leave it out")
        if divide not in ("classes", "images"):
            raise ValueError(f"divide must be 'classes' or 'images', not {divide!r}")
        self.split, self.divide, self.test_share = split, divide, test_share
        self.extensions = extensions and tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)

    @cached_property
    def layout(self) -> FolderLayout:
        """Where the splits and classes are. Raises ValueError where that cannot be told."""
        return find_layout(Path(self.root))

    @property
    def split_folders(self) -> list[Split]:
        """Which of "train", "val" and "test" have folders of their own; none if `root` itself holds the classes."""
        return [split for split in SPLIT_NAMES if split in self.layout.splits]

    def list_parts(self) -> Sequence[Split]:
        return self.split_folders or (["train"] if self.divide == "images" else list(SPLIT_NAMES))

    @cached_property
    def carved_shares(self) -> dict[str, float]:
        """{split: its share of the images of each class} of the splits that are carved where this one comes from."""
        if self.divide == "classes" or self.split == "all":
            return {}
        if not self.split_folders:
            return {"val": self.val_share, "test": self.test_share}
        lacks_val = "train" in self.split_folders and "val" not in self.split_folders
        return {"val": self.val_share} if lacks_val and self.split in ("train", "val") else {}

    @cached_property
    def part(self) -> str:
        """The part that the split is, or is drawn from; "all" of everything. Raises ValueError if there is none."""
        if self.split == "all":
            return "all"
        part = "train" if self.carved_shares else self.split
        if part not in self.list_parts():
            splits = ", ".join(f"{name}/" for name in self.layout.splits.values())
            raise ValueError(
                f"{Path(self.root) / self.layout.base} has {splits} but no {self.split}/ with class folders: make one, "
                "or choose another split"
            )
        return part

    @cached_property
    def folders(self) -> list[str]:
        """The folders below `root` that hold the classes of `part`."""
        base, splits = self.layout.base, self.layout.splits
        names = splits.values() if self.part == "all" else [splits[self.part]] if splits else []
        return [f"{base}{name}/" for name in names] or [base]

    @cached_property
    def files_of_folders(self) -> dict[str, ClassFiles]:
        """{folder: the images of its classes} of `folders`."""
        root = Path(self.root)
        return {str(root / name): list_class_files(root, root / name, self.extensions) for name in self.folders}

    @cached_property
    def undivided_files(self) -> ClassFiles:
        """The images of all classes that this split is drawn from."""
        return merge_class_files(list(self.files_of_folders.values()))

    @cached_property
    def class_files(self) -> ClassFiles:
        """The images of this split's classes. Raises ValueError if `root` has split folders, but not this one."""
        undivided = self.undivided_files
        if self.split_folders or self.divide == "images" or self.split == "all":
            return undivided
        names = list(undivided.files)
        if names and len(names) < 3 * LEAST:
            raise ValueError(
                f"{self.root} has {len(names)} class {'folder' if len(names) == 1 else 'folders'}, and splits that "
                f"share no class take {3 * LEAST}, {LEAST} each: make train/, val/ and test/ in it with class folders "
                "each. These may share classes, with other images"
            )
        splits = split_by_hash(names, val_share=self.val_share, test_share=self.test_share, seed=self.seed, least=LEAST)
        names = [names[index] for index in splits[self.split]]
        return undivided._replace(files={name: undivided.files[name] for name in names})

    @lazy_attribute
    def classes(self) -> Sequence[str]:
        names = list(self.class_files.files)
        if "train" in self.split_folders and self.split in ("val", "test"):
            folder = Path(self.root) / self.layout.base / self.layout.splits["train"]
            train_names = sorted({compose_unicode(name) for name in list_folders(folder)}, key=natural_sort_key)
            return train_names if set(names) <= set(train_names) else names
        return names

    def list_images(self) -> list[LabelledFile]:
        label_of = {name: label for label, name in enumerate(self.classes)}
        return [LabelledFile(path, label_of[name]) for name, paths in self.class_files.files.items() for path in paths]

    def list_keys(self) -> list[str]:
        """What images are called in their class, wherever the classes lie."""
        folder = self.folders[0] if len(self.folders) == 1 else self.layout.base
        return [compose_unicode(path.removeprefix(folder)) for path, _ in self.part_images]

    def identities(self) -> list[str]:
        paths = self.paths
        names = (compose_unicode(path.removeprefix(next(filter(path.startswith, self.folders)))) for path in paths)
        return identify_files((f"{self.root}/{path}" for path in paths), names)  # the same ones of "all" and "test"

    @property
    def ignored(self) -> dict[str, int]:
        """{extension: how many files below `root` were left out for it}; "" for files that have none."""
        return dict(self.class_files.ignored)

    def ignored_files(self) -> dict[str, dict[str, int]]:
        return {folder: dict(files.ignored) for folder, files in self.files_of_folders.items()}

    def notes(self) -> list[str]:
        """What was decided of the folders, how images are divided and how many are left out, with counts."""
        notes = [*self.layout.notes, *self.class_files.images.describe_repeated()]
        if self.class_files.loose:
            notes.append(f"{self.class_files.loose:,} images of {self.root} lie in no class folder and are left out")
        notes += find_similar_labels(self.class_files.files)
        if self.split != "all" and not self.split_folders and self.divide == "classes":
            notes.append(
                f"{self.root}: the classes are divided by their names ('val' about {self.val_share:g}, 'test' about "
                f"{self.test_share:g}, seed {self.seed}); '{self.split}' has {len(self.class_files.files):,} of "
                f"{len(self.undivided_files.files):,}"
            )
        if self.carved_shares:
            shares = ", ".join(f"'{name}' about {share:g}" for name, share in self.carved_shares.items())
            count, part_count = len(self.split_indices), len(self.part_images)
            notes.append(
                f"{self.root}: the images of each class are divided by their names ({shares}, seed {self.seed}); "
                f"'{self.split}' has {count:,} of {part_count:,} ({count / part_count:.1%})"
            )
        return notes + self.describe_subset()

    def check(self) -> list[Problem]:
        """A missing folder or split, a folder without images, or classes without any."""
        steps = self.explain_download(self.root)
        if not Path(self.root).is_dir():
            return [Problem(f"The folder {self.root} does not exist.", "root", steps)]
        try:
            files = self.class_files.files
        except (OSError, ValueError) as error:
            return [Problem(str(error), "root")]
        others = format_ending_counts(self.class_files.ignored)
        if not any(files.values()):
            note = f" Other files there: {others}; `extensions` says what counts as an image." if others else ""
            message = f"{self.root}: the split '{self.split}' has no images in class folders.{note}"
            return [Problem(message, "root", steps)]
        if not len(self.split_indices):
            message = f"{self.root}: no class has enough images to give '{self.split}' one."
            return [Problem(message, "root", steps)]
        try:
            len(self)
        except ValueError as error:
            return [Problem(str(error), "root")]
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            note = f" Other files below {self.root}: {others}." if others else ""
            message = f"{len(empty)} class folders in {self.root} hold no image: {list_first(empty)}.{note}"
            return [Problem(message, "root", "Fill or remove them.")]
        return []

    @classmethod
    def explain_download(cls, root: str) -> str:
        return f"Put images into {root}/<class>/, or into train/, val/ and test/ there, one folder a class each."

    @classmethod
    def prepare(cls, out: str) -> str:
        """Check a folder of images and return what is in it.

        - `out`: the folder that holds one folder a class. Raises ValueError with what is wrong in it.
        """
        summaries = []
        splits: list[Literal["train", "val", "test", "all"]] = [*cls(out).split_folders] or ["all"]
        for split in splits:
            dataset = cls(out, split=split)
            require_valid(dataset)
            left_out = sum(dataset.ignored.values())
            note = f" ({left_out:,} other files ignored)" if left_out else ""
            summaries.append(f"{split} {len(dataset):,} images of {len(dataset.class_files.files):,} classes{note}")
        return f"{out} is readable: " + ", ".join(summaries)
