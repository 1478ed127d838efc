"""Caltech-UCSD Birds in its own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from toolbox.plugin import format_command
from toolbox_datasets.files import find_first
from toolbox_datasets.retrieval_dataset import ListedImage, RetrievalDataset
from toolbox_datasets.unpack import unpack_dataset

PAGE = "https://data.caltech.edu/records/65de6-vp158"
TRAINING = 100
"""Classes 1 to 100 are trained on, the others are the test: the convention of metric learning."""


class CUB(RetrievalDataset):
    """Photos of birds, a class being a species (Wah et al. 2011, "The Caltech-UCSD Birds-200-2011 Dataset").

    - `root`: the folder that holds images.txt, image_class_labels.txt and images/, or CUB_200_2011/ with them.
    - `split`: "trainval" is the first 100 classes, which "train" and "val" divide; "test" is the last 100. The file
      train_test_split.txt, made for classification, is not looked at.
    - `val_share`: about the share of the training classes that "val" gets, 0.1 by default; which ones depends on
      their numbers alone.

    A sample holds "image", "label", "id" (the image's number) and "path". `classes` are folder names such as
    "001.Black_footed_Albatross"; there are no groups. The lists are read on first use: OSError or ValueError then tells
    what is wrong with them. Raises ValueError for an unknown split or a share outside (0, 1).
    """

    published = {"train": (5_864, 100), "test": (5_924, 100)}

    def read_list(self, part: Literal["train", "test"]) -> list[ListedImage]:
        path = find_first(Path(self.root), ("images.txt", "CUB_200_2011/images.txt"))
        folder = path.parent.relative_to(self.root).as_posix()
        prefix = "images/" if folder == "." else f"{folder}/images/"
        names, labels = (
            read_numbered_lines(path),
            read_numbered_lines(find_first(path.parent, ["image_class_labels.txt"])),
        )
        if names.keys() != labels.keys():
            examples = sorted(names.keys() ^ labels.keys())[:3]
            raise ValueError(f"{path} and image_class_labels.txt number different images, such as {examples}")
        malformed = next((text for text in labels.values() if not text.isdecimal()), None)
        if malformed is not None:
            raise ValueError(f"{path.parent / 'image_class_labels.txt'}: a class is a number, not '{malformed}'")
        return [
            ListedImage(number, int(labels[number]), prefix + name)
            for number, name in names.items()
            if (int(labels[number]) <= TRAINING) == (part == "train")
        ]

    @classmethod
    def explain_download(cls, root: str) -> str:
        return (
            f"Download CUB_200_2011.tgz from {PAGE} and run `{format_command('prepare_data')} cub --out {root} "
            "--source CUB_200_2011.tgz`; without --source it checks what is there."
        )

    @classmethod
    def prepare(cls, out: str, *, source: str | None = None) -> str:
        """Check the dataset in a folder, unpacking it there first if its archive is given. Returns what was found.

        - `out`: the folder that is to hold images.txt.
        - `source`: CUB_200_2011.tgz, or a folder that holds it unpacked; without it, `out` is only checked.

        Raises ValueError if images are missing, or if `out` holds something else already; OSError if the dataset is
        not there.
        """
        if source is not None:
            unpack_dataset(Path(source), Path(out), "images.txt")
        return cls.check_parts(out)


def read_numbered_lines(path: Path) -> dict[int, str]:
    """Lines of a number, from 1, and a text. Raises ValueError naming file and line for any other, or one twice."""
    texts: dict[int, str] = {}
    for line_number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        number, _, text = line.strip().partition(" ")
        if not line.strip():
            continue
        if not number.isdecimal() or not text or int(number) in texts:
            raise ValueError(f"{path}:{line_number}: expected a new number and a text, not '{line[:80]}'")
        texts[int(number)] = text.strip()
    if not texts:
        raise ValueError(f"{path} lists nothing: unpack the dataset again")
    return texts
