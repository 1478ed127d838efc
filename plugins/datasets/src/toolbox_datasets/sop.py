"""Stanford Online Products in its own layout."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from toolbox.base import Dataset, Sample, read_image
from toolbox.plugin import Problem
from toolbox_datasets.sop_index import Item, missing_files, read_index
from toolbox_datasets.splits import held_out, require_share, without
from toolbox_datasets.unpack import place

PAGE = "https://cvgl.stanford.edu/projects/lifted_struct/"

PUBLISHED = {"train": (59_551, 11_318), "test": (60_502, 11_316)}
"""Images and classes of each index as published."""


class SOP(Dataset):
    """Photos of products, a class being one product on offer (Song et al. 2016, "Deep Metric Learning via Lifted
    Structured Feature Embedding"), or any folder of that layout.

    - `root`: the folder that holds Ebay_train.txt and Ebay_test.txt, with the images below it.
    - `split`: "trainval" is all of Ebay_train.txt; "train" and "val" divide its classes; "test" is Ebay_test.txt.
    - `val_share`: share of the classes of Ebay_train.txt that "val" gets, 0.1 by default.

    "val" gets evenly spaced classes in the order of super-class and class id, so every super-class gives its share,
    the same classes in every run. No class is in two of "train", "val" and "test".

    A sample holds "image", "label", "id" (the index's image id), "path" and "group". `labels` count from 0 in the
    order of class ids; `classes` are the names that a class's files share; `groups` are super-classes. The index is
    read on first use: OSError or ValueError then tells what is wrong with it. Raises ValueError for an unknown split
    or a share outside (0, 1).
    """

    def __init__(
        self, root: str, split: Literal["train", "val", "trainval", "test"] = "train", val_share: float = 0.1
    ) -> None:
        if split not in ("train", "val", "trainval", "test"):
            raise ValueError(f"split must be 'train', 'val', 'trainval' or 'test', not {split!r}")
        require_share("val_share", val_share)
        self.root, self.split, self.val_share = root, split, val_share

    @property
    def index_file(self) -> Path:
        """The index that this split is read from."""
        return Path(self.root) / ("Ebay_test.txt" if self.split == "test" else "Ebay_train.txt")

    @cached_property
    def items(self) -> list[Item]:
        """The images of this split, in the order of the index."""
        items = read_index(self.index_file)
        if self.split in ("trainval", "test"):
            return items
        wanted = set(self.divided(items))
        return [item for item in items if item.class_id in wanted]

    def divided(self, items: list[Item]) -> list[int]:
        """Class ids of "train" or "val". Raises ValueError where `val_share` leaves either without a class."""
        ordered = [class_id for _, class_id in sorted({(item.group, item.class_id) for item in items})]
        val = [ordered[index] for index in held_out(len(ordered), self.val_share)]
        if not val or len(val) == len(ordered):
            raise ValueError(
                f"{self.index_file}: val_share={self.val_share} of {len(ordered)} classes leaves a split empty: "
                "choose another share"
            )
        return val if self.split == "val" else without(ordered, val)

    @cached_property
    def class_ids(self) -> list[int]:
        """The index's number of each class."""
        return sorted({item.class_id for item in self.items})

    @cached_property
    def labels(self) -> list[int]:
        label_of = {class_id: label for label, class_id in enumerate(self.class_ids)}
        return [label_of[item.class_id] for item in self.items]

    @cached_property
    def classes(self) -> list[str]:
        stems: dict[int, set[str]] = {class_id: set() for class_id in self.class_ids}
        for item in self.items:
            stems[item.class_id].add(Path(item.path).stem.rpartition("_")[0])
        names = [next(iter(stems[class_id])) if len(stems[class_id]) == 1 else "" for class_id in self.class_ids]
        unique = all(names) and len(set(names)) == len(names)
        return names if unique else [str(class_id) for class_id in self.class_ids]

    @cached_property
    def groups(self) -> list[str]:
        return [item.group for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        path = Path(self.root) / item.path
        return {
            "image": read_image(path),
            "label": self.labels[index],
            "id": item.image_id,
            "path": str(path),
            "group": item.group,
        }

    def check(self) -> list[Problem]:
        """A missing folder or index, a malformed index, or images that the index names and that are not there."""
        if not self.index_file.is_file():
            what = f"has no {self.index_file.name}" if Path(self.root).is_dir() else "does not exist"
            return [Problem(f"The folder {self.root} {what}.", "root", how_to_get(self.root))]
        try:
            absent = missing_files(Path(self.root), self.items)
        except OSError as error:
            return [Problem(f"{error}.", "root", how_to_get(self.root))]
        except ValueError as error:  # a malformed line, or a split that holds nothing: the message says which
            return [Problem(str(error), "root")]
        if not absent:
            return []
        message = f"{len(absent):,} of {len(self):,} images in {self.index_file} do not exist: {listing(absent)}."
        return [Problem(message, "root", how_to_get(self.root))]

    @classmethod
    def prepare(cls, out: str, *, source: str | None = None) -> str:
        """Check the dataset in a folder, unpacking it there first if its archive is given. Returns what was found.

        - `out`: the folder that is to hold Ebay_train.txt.
        - `source`: a .zip or .tar archive of the dataset, or a folder that holds it; without it, `out` is only checked.

        From a folder, files are linked where the file system can and copied otherwise. Raises ValueError if images
        are missing, or if `out` holds something else already; OSError if the dataset is not there.
        """
        if source is not None:
            place(Path(source), Path(out), "Ebay_train.txt")
        findings = []
        for split, (images, classes) in PUBLISHED.items():
            dataset = cls(out, split="test" if split == "test" else "trainval")
            problems = dataset.check()
            if problems:
                raise ValueError("\n".join(map(str, problems)))
            found = f"{len(dataset):,} images of {len(dataset.classes):,} classes"
            expected = f"{images:,} of {classes:,}"
            same = (len(dataset), len(dataset.classes)) == (images, classes)
            findings.append((same, f"{split} {found}" + ("" if same else f" (published: {expected})")))
        verdict = "complete" if all(same for same, _ in findings) else "readable, but not the published dataset"
        return f"{out} is {verdict}: " + ", ".join(text for _, text in findings)


def how_to_get(root: str) -> str:
    """The steps that lead to a complete `root`."""
    return (
        f"Download Stanford_Online_Products.zip from {PAGE} and run `python tools/prepare_data.py sop --out {root} "
        "--source Stanford_Online_Products.zip`; without --source it checks what is there. "
        "To try the same recipe on embedded data: `make demo`."
    )


def listing(paths: list[str], count: int = 3) -> str:
    """The first few of `paths`."""
    return ", ".join(paths[:count]) + (" ..." if len(paths) > count else "")
