"""ImageNet-1k in its usual layout, whole or in part."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from toolbox.base import lazy_attribute, list_folders, natural_sort_key
from toolbox.plugin import format_command
from toolbox_datasets.class_folders import SPLIT_NAMES, list_class_files
from toolbox_datasets.files import list_first, read_lines
from toolbox_datasets.image_file_dataset import ImageFileDataset, LabelledFile
from toolbox_datasets.subsets import Split

SOLUTIONS = ("LOC_val_solution.csv", "val_labels.csv", "val.txt")
"""Files beside val/ that say the class of images that lie in it without folders."""


class ImageNet(ImageFileDataset):
    """Photos of 1,000 classes (Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge"), a subset
    of them, or any folder of that layout.

    - `root`: the folder with train/<wnid>/*.JPEG, val/<wnid>/*.JPEG and labels.txt, a line `n01440764,tench` a class,
      as DINOv3 expects them. Images may also lie in val/ itself, with LOC_val_solution.csv (as Kaggle has it) or
      val.txt (`ILSVRC2012_val_00000001.JPEG n01751748` a line) in `root`.
    - `split`: "test" is val/, whose labels are published, and "val" is carved from train/; where test/ holds class
      folders, each is the folder of its name. The official test images have no labels and are not read.
    - `classes`: which of them, as wnids, or the name of a file whose lines begin with them; None for all that train/
      has a folder for.
    - `ratio`, `shots`, `val_share`, `seed`: as of `datasets.Food101`.

    Labels count the chosen classes from 0 in the order of labels.txt, or of their names where there is none. A sample
    holds "image", "label", "id" (the path) and "path". Folders are read on first use: OSError or ValueError then tells
    what is wrong. Raises ValueError for an unknown split, numbers out of range, or an empty list of classes.
    """

    published = {"train": (1_281_167, 1_000), "test": (50_000, 1_000)}

    def __init__(
        self,
        root: str,
        split: Literal["train", "val", "test"] = "train",
        classes: list[str] | str | None = None,
        ratio: float = 1.0,
        shots: int | None = None,
        val_share: float = 0.1,
        seed: int = 42,
    ) -> None:
        super().__init__(root, split, ratio, shots, val_share, seed)
        if classes is not None and not classes:
            raise ValueError("classes is empty: name some, such as ['n01440764', 'n01443537'], or leave it out")
        self.selection = classes

    @cached_property
    def folder_of(self) -> dict[str, str]:
        """{part: its folder}."""
        has_test = bool(list_folders(Path(self.root) / "test"))  # folders of classes, and so labels
        names = {"train": "train", "val": "val", "test": "test"} if has_test else {"train": "train", "test": "val"}
        return {part: name for part, name in names.items() if (Path(self.root) / name).is_dir()}

    def list_parts(self) -> Sequence[Split]:
        if not Path(self.root).is_dir():
            raise FileNotFoundError(f"The folder {self.root} does not exist.")
        return [part for part in SPLIT_NAMES if part in self.folder_of]

    @cached_property
    def names(self) -> dict[str, str]:
        """{wnid: name} of labels.txt in its order; empty where there is no such file."""
        path = Path(self.root) / "labels.txt"
        if not path.is_file():
            return {}
        names = {}
        for number, line in enumerate(read_lines(path), start=1):
            wnid, comma, name = (text.strip() for text in line.partition(","))
            if not comma or not wnid or not name:
                raise ValueError(
                    f"{path}, entry {number}: '{line[:80]}' is not 'n01440764,tench': a wnid, a comma, a name"
                )
            if wnid in names:
                raise ValueError(f"{path}, entry {number}: {wnid} stands there twice")
            names[wnid] = name
        return names

    @cached_property
    def wnids(self) -> list[str]:
        """The wnid of each class."""
        base = Path(self.root) / next(iter(self.folder_of.values()), "train")
        present = list_folders(base) or list(self.names)
        if not present:
            raise FileNotFoundError(f"{base} has no class folders.")
        unnamed = [wnid for wnid in present if self.names and wnid not in self.names]
        if unnamed:
            raise ValueError(
                f"{base} has {len(unnamed):,} folders that {Path(self.root) / 'labels.txt'} does not name: "
                f"{list_first(sorted(unnamed))}"
            )
        present_set = set(present)
        if self.names:
            ordered = [wnid for wnid in self.names if wnid in present_set]
        else:
            ordered = sorted(present, key=natural_sort_key)
        if self.selection is None:
            return ordered
        selected = self.selection
        if isinstance(selected, str):
            selected = [line.replace(",", " ").split()[0] for line in read_lines(Path(selected))]
        absent = [wnid for wnid in selected if wnid not in present_set]
        if absent:
            raise ValueError(f"{base} has no folder for {len(absent):,} of the chosen classes: {list_first(absent)}")
        return [wnid for wnid in ordered if wnid in set(selected)]

    @lazy_attribute
    def classes(self) -> Sequence[str]:
        names = [self.names.get(wnid, wnid) for wnid in self.wnids]
        count = Counter(names)  # two classes are a crane, two a maillot
        return [name if count[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, self.wnids, strict=True)]

    def list_images(self) -> list[LabelledFile]:
        label_of = {wnid: label for label, wnid in enumerate(self.wnids)}
        folder = Path(self.root) / self.folder_of[self.part]
        if self.part == "test" and not list_folders(folder):
            images = self.read_solutions(folder)
            return [LabelledFile(path, label_of[wnid]) for path, wnid in images if wnid in label_of]
        strangers = set(list_folders(folder)) - set(self.names or label_of) if self.selection is None else set()
        if strangers:
            raise ValueError(
                f"{folder} has {len(strangers):,} classes that are not in train/: {list_first(sorted(strangers))}"
            )
        files = list_class_files(Path(self.root), folder, only=set(label_of)).files
        return [LabelledFile(path, label_of[wnid]) for wnid in self.wnids for path in files.get(wnid, [])]

    def read_solutions(self, folder: Path) -> list[tuple[str, str]]:
        """(path, wnid) of the images in a folder without class folders. Raises ValueError if no file says the wnids."""
        path = next((Path(self.root) / name for name in SOLUTIONS if (Path(self.root) / name).is_file()), None)
        if path is None:
            raise ValueError(
                f"{folder} has no class folders, and {self.root} none of {', '.join(SOLUTIONS)} that would say the "
                "class of each image: sort the images into folders, or get LOC_val_solution.csv from "
                "https://www.kaggle.com/c/imagenet-object-localization-challenge/data"
            )
        images = []
        for number, line in enumerate(read_lines(path), start=1):
            words = next(csv.reader([line])) if path.suffix == ".csv" else line.split()
            if number == 1 and words[0] == "ImageId":
                continue
            if len(words) < 2 or not words[1].strip():
                raise ValueError(f"{path}, entry {number}: '{line[:80]}' is no image with its wnid")
            name, wnid = words[0].strip(), words[1].split()[0]
            if wnid.isdecimal():
                raise ValueError(f"{path}, entry {number}: '{wnid}' is a number; write the wnid, such as n01440764")
            images.append((f"{folder.name}/{name if Path(name).suffix else name + '.JPEG'}", wnid))
        return sorted(images)

    def notes(self) -> list[str]:
        """As of `ClassificationDataset`, and which classes are counted where it is not all of labels.txt."""
        notes = super().notes()
        if self.names and len(self.wnids) < len(self.names):
            notes.insert(
                0,
                f"{len(self.wnids):,} of the {len(self.names):,} classes of labels.txt are taken; labels count these",
            )
        return notes

    @classmethod
    def explain_download(cls, root: str) -> str:
        return (
            "Log in at https://image-net.org/download-images or https://www.kaggle.com/c/"
            "imagenet-object-localization-challenge, accept the terms, and put train/<wnid>/*.JPEG, val/ and "
            f"labels.txt into {root}; `{format_command('prepare_data')} imagenet --out {root}` checks them. With a "
            "login at Hugging Face, datasets.HF reads ILSVRC/imagenet-1k. To try it on embedded data: "
            f"`{format_command('prepare_data')} glyphs --layout imagenet --out data/glyphs_imagenet`."
        )

    @classmethod
    def prepare(cls, out: str, *, classes: str | None = None) -> str:
        """Check the dataset in a folder and return what was found.

        - `out`: the folder that holds train/, val/ and labels.txt.
        - `classes`: a file that names the wnids of a subset.

        Raises ValueError, with the steps to take, if something is missing.
        """
        return cls.check_parts(out, classes=classes)
