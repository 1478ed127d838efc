"""CIFAR-10 in its binary version."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from toolbox.base import Sample, lazy_attribute
from toolbox.plugin import format_command
from toolbox_datasets.cifar10_python import convert_pickles
from toolbox_datasets.classification_dataset import ClassificationDataset
from toolbox_datasets.fetch import Archive, fetch_dataset
from toolbox_datasets.files import find_first, read_lines
from toolbox_datasets.subsets import Split

SIDE, CLASSES = 32, 10
RECORD = 1 + 3 * SIDE * SIDE
"""Bytes of an image: its label, then its red, green and blue values, row by row."""

FOLDER = "cifar-10-batches-bin"
FILES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}

ARCHIVE = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
)


class CIFAR10(ClassificationDataset):
    """Images of 32 x 32 pixels in 10 classes, 5,000 a class to train on and 1,000 to test (Krizhevsky 2009,
    "Learning Multiple Layers of Features from Tiny Images"), or any folder of that layout.

    - `root`: the folder with data_batch_1.bin to data_batch_5.bin, test_batch.bin and batches.meta.txt, or one that
      holds it as cifar-10-batches-bin/.
    - `split`: "test" is test_batch.bin; "train" and "val" divide the other batches.
    - `ratio`, `shots`, `val_share`, `seed`: as of `datasets.Food101`.

    Files are mapped into memory, not read into it. A sample holds "image", "label" and "id" ("test_batch.bin/17").
    The version in Python's pickles is not read; `tools/prepare_data.py cifar10` converts it. OSError or ValueError, on
    first use, tells what is wrong with the files. Raises ValueError for an unknown split or numbers out of range.
    """

    published = {"train": (50_000, 10), "test": (10_000, 10)}

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "batches"}  # mapped again elsewhere

    @cached_property
    def folder(self) -> Path:
        """The folder of the files. Raises FileNotFoundError if there is none."""
        return find_first(Path(self.root), ["batches.meta.txt", f"{FOLDER}/batches.meta.txt"]).parent

    def list_parts(self) -> Sequence[Split]:
        find_first(self.folder, ["data_batch_1.bin"])
        return ("train", "test")

    @lazy_attribute
    def classes(self) -> Sequence[str]:
        path = self.folder / "batches.meta.txt"
        names = read_lines(path)
        if len(names) != CLASSES or len(set(names)) != CLASSES:
            raise ValueError(f"{path} must name {CLASSES} different classes, one a line, and holds {len(names)} lines")
        return names

    @cached_property
    def batches(self) -> list[np.ndarray]:
        """(images, `RECORD`) uint8 of each file of the part. Raises OSError or ValueError naming a file."""
        batches = []
        for name in FILES[self.part]:
            path = find_first(self.folder, [name])
            size = path.stat().st_size
            if not size or size % RECORD:
                raise ValueError(
                    f"{path} has {size:,} bytes, which is no multiple of {RECORD:,}, one image: is the download whole?"
                )
            batches.append(np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, RECORD))
        return batches

    def read_labels(self) -> np.ndarray:
        for name, batch in zip(FILES[self.part], self.batches, strict=True):
            highest = int(batch[:, 0].max())
            if highest >= CLASSES:
                raise ValueError(
                    f"{self.folder / name} has the label {highest}, and CIFAR-10 has 0 to {CLASSES - 1}: is it the "
                    "binary version of CIFAR-10 (not CIFAR-100)?"
                )
        return np.concatenate([batch[:, 0] for batch in self.batches]).astype(np.int64)

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """(number of the file, number of the image in it) of each image of the part."""
        return [(file, row) for file, batch in enumerate(self.batches) for row in range(len(batch))]

    def list_keys(self) -> Sequence[str]:
        return [f"{FILES[self.part][file]}/{row}" for file, row in self.places]

    def identities(self) -> list[str]:
        places = (self.places[index] for index in self.indices.tolist())
        return [blake2b(self.batches[file][row], digest_size=16).hexdigest() for file, row in places]

    def sources(self) -> Sequence[str | os.PathLike[str]]:
        return [self.folder / name for name in FILES[self.part]]

    def __getitem__(self, index: int) -> Sample:
        file, row = self.places[self.indices[index]]
        pixels = self.batches[file][row, 1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return {"image": image, "label": self.labels[index], "id": f"{FILES[self.part][file]}/{row}"}

    @classmethod
    def explain_download(cls, root: str) -> str:
        return (
            f"Run `{format_command('prepare_data')} cifar10 --out {root} --download` (170 MB), or download "
            f"{ARCHIVE.url} and give it as --source; a folder cifar-10-batches-py is converted likewise. "
            "To try it on embedded data: "
            f"`{format_command('prepare_data')} glyphs --layout cifar10 --out data/glyphs_cifar10`."
        )

    @classmethod
    def prepare(cls, out: str, *, source: str | None = None, download: bool = False) -> str:
        """Check the dataset in a folder, bringing it there first if asked to. Returns what was found.

        - `out`: the folder that is to hold the .bin files.
        - `source`: cifar-10-binary.tar.gz, a folder with what is in it, or the folder cifar-10-batches-py of the
          version in pickles, which is converted without running what pickles can hold; without it, `out` is checked.
        - `download`: fetch the archive (170 MB) from its author's site, unless `out` has it.

        Raises ValueError if something is missing, or if `out` holds something else; OSError if it cannot be had.
        """
        if source is not None and not download and (Path(source) / "data_batch_1").is_file():
            convert_pickles(Path(source), Path(out), FILES)
        else:
            fetch_dataset(Path(out), ARCHIVE, "batches.meta.txt", source, download)
        return cls.check_parts(out)
