"""Any dataset of Hugging Face with an image and a label column."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolbox.base import MISSING_LABELS, Sample, decode_image, find_similar_labels, sized_files
from toolbox_datasets import subsets
from toolbox_datasets.class_folders import SPLIT_NAMES
from toolbox_datasets.classified import Classified
from toolbox_datasets.files import new_folder
from toolbox_datasets.hf_columns import (
    class_names,
    image_column,
    is_text,
    label_column,
    numbered,
    picture_in,
    picture_keys,
    values_of,
)
from toolbox_datasets.hf_source import Source, is_local, load


class HF(Classified):
    """Images and labels from a dataset at Hugging Face's Hub, or from a local one of its library `datasets`.

    - `name`: such as "ethz/food101", "cifar10" or "imagenet-1k"; or a folder that `save_to_disk` wrote, a folder of
      Parquet files or of images, a Parquet file.
    - `split`: "train", "val" or "test". Its own splits train, validation and test serve as these; they may also be
      called training; val, valid or dev; testing; in any case. Where it has no test, the validation split is the test,
      and "val" is carved from train; where it has neither, both are.
    - `config`: the dataset's configuration, where there are several.
    - `image`, `label`: the columns; by default the only ones of the types Image and ClassLabel. In plain Parquet files,
      which do not declare them, a struct of "bytes" and "path" is the image, else binary values, else texts that end as
      image files do (relative to the folder of the data), and a column "label" is the label. A column of whole
      numbers 0, 1, 2 ... or of strings is taken when it is named; strings are numbered in alphabetical order, and read
      as `toolbox.base.read_label` says: "7" and "7.0" are the same one.
    - `ratio`: share of each class of the split that is taken; `shots`: this many images of each class instead.
    - `val_share`, `test_share`: shares of the training images of each class that "val" and "test" get where there is
      no such split; 0 carves nothing.
    - `seed`: of what is carved and taken. "train" and "val" must be given the same `val_share` and `seed`.
    - `revision`: commit, tag or branch; None takes what the cache holds, else the newest.
    - `parts`: which of its splits serve as which, {"train": "train", "test": "validation"}; a "val" that is not named
      is carved. For datasets whose test labels are hidden, as those of imagenet-1k.
    - `missing_labels`: strings that mean "no label"; None: those of `toolbox.base.MISSING_LABELS`, such as NA, nan and
      None; []: only an empty one does, so that a class may be called NA. A row without a label is an error.

    What is carved and taken of local data depends on the pictures themselves, not on their rows: a file that is added
    moves no other. What is in the local cache is used without asking the network. A sample holds "image", "label" and
    "id" ("train/17": its own split and row). Pictures are turned, and brought to RGB as `toolbox.base.read_image` does;
    of several frames the first is taken. The data are read on first use: OSError or ValueError then tells what is
    wrong. Raises ValueError for an unknown split or part, and numbers out of range.
    """

    def __init__(
        self,
        name: str,
        split: Literal["train", "val", "test"] = "train",
        config: str | None = None,
        image: str | None = None,
        label: str | None = None,
        ratio: float = 1.0,
        shots: int | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        seed: int = 42,
        revision: str | None = None,
        parts: dict[str, str] | None = None,
        missing_labels: list[str] | None = None,
    ) -> None:
        super().__init__(split, ratio, shots, val_share, seed, test_share)
        if not name:
            raise ValueError("name is empty: give one such as 'ethz/food101', or a folder")
        unknown = set(parts or {}) - set(subsets.SPLITS)
        if unknown or (parts is not None and "train" not in parts):
            raise ValueError(
                f"parts maps 'train' and, where there are any, 'val' and 'test' to its own splits, not {parts}"
            )
        if parts is not None and len(set(parts.values())) < len(parts):
            raise ValueError(f"parts={parts} takes one split for two")
        self.name, self.config, self.image, self.label = name, config, image, label
        self.revision, self.chosen = revision, parts
        self.missing_labels = MISSING_LABELS if missing_labels is None else frozenset(missing_labels)

    def place(self) -> str:
        return self.name

    @cached_property
    def source(self) -> Source:
        """The dataset, opened. Raises OSError or ValueError."""
        return load(self.name, self.config, self.revision)

    @cached_property
    def own_names(self) -> dict[str, str]:
        """{part: the name of the dataset's own split}."""
        there = self.source.parts
        if self.chosen is not None:
            absent = [own for own in self.chosen.values() if own not in there]
            if absent:
                raise ValueError(f"{self.name} has no split '{absent[0]}', only {', '.join(there)}")
            return dict(self.chosen)
        found = {
            part: own
            for part, names in SPLIT_NAMES.items() for name in names[::-1] for own in there if own.lower() == name
        }  # fmt: skip
        if "train" not in found:
            raise ValueError(
                f"{self.name} has the splits {', '.join(there)}, and none is called train: name them by "
                f"parts={{'train': {next(iter(there), '...')!r}}}"
            )
        if "val" in found and "test" not in found:
            found["test"] = found.pop("val")
        return found

    def parts(self) -> Sequence[str]:
        return tuple(self.own_names)

    def where(self, part: str) -> str:
        """What a part is called in messages."""
        return f"{self.name}, its split '{self.own_names[part]}'"

    def opened(self, part: str) -> Any:
        """The `datasets.Dataset` of a part."""
        return self.source.parts[self.own_names[part]]

    @cached_property
    def columns(self) -> tuple[str, str]:
        """The columns of image and label."""
        part, where = self.opened("train"), self.where("train")
        return image_column(part, self.image, where), label_column(part.features, self.label, where)

    @cached_property
    def classes(self) -> list[str]:
        name = self.columns[1]
        train = self.opened("train")
        values, where = values_of(train, name), self.where("train")
        return class_names(train.features[name], values, where, name, self.missing_labels)

    def part_labels(self, part: str) -> np.ndarray:
        name, found = self.columns[1], self.opened(part)
        if name not in found.features:
            raise ValueError(f"{self.where(part)} has no column '{name}', which the training part has")
        feature = found.features[name]
        own = getattr(feature, "names", None)
        if own is not None and list(own) != self.classes:
            raise ValueError(f"{self.where(part)} has other classes, or another order of them, than its training part")
        return numbered(values_of(found, name), self.classes, feature, self.where(part), name, self.missing_labels)

    @cached_property
    def encoded(self) -> Any:
        """The rows of `part` with their pictures as files' contents."""
        import datasets

        name = self.columns[0]
        found = self.opened(self.part).select_columns([name])
        is_image = type(found.features[name]).__name__ == "Image"
        return found.cast_column(name, datasets.Image(decode=False)) if is_image else found

    @property
    def folder(self) -> Path:
        """What paths in the data are relative to: the folder of the files, where they are local."""
        path = Path(self.name).expanduser()
        return path if path.is_dir() else path.parent if path.is_file() else Path()

    def __getitem__(self, index: int) -> Sample:
        row = int(self.indices[index])
        own = self.own_names[self.part]
        where = f"{self.name}, row {row} of '{own}'"
        data, path = picture_in(self.encoded[row][self.columns[0]], self.folder)
        if data is None:
            if path is None or not path.is_file():
                raise ValueError(
                    f"{where} has no picture" + (f", only the path {path}, where no file is" if path else "")
                )
            data = path.read_bytes()
        return {"image": decode_image(data, where), "label": self.labels[index], "id": f"{own}/{row}"}

    def part_keys(self) -> Sequence[str]:
        """As of `Classified` for a copy of the Hub, whose rows stay. Of local data, to which a file may be added whose
        rows come first, what the picture itself says."""
        if not is_local(self.name):
            return super().part_keys()
        return picture_keys(self.encoded, self.columns[0], self.folder)

    def identities(self) -> list[str]:
        own, keys = self.own_names[self.part], self.part_keys()
        if not is_local(self.name):
            return [f"{self.source.identity}/{own}/{row}" for row in self.indices.tolist()]
        names = [keys[row] for row in self.indices.tolist()]
        return sized_files((self.folder / name for name in names), (f"{own}/{name}" for name in names))

    def fingerprint(self) -> str:
        return self.source.identity

    def notes(self) -> list[str]:
        """As of `Classified`, where the data were found, and what serves as what."""
        notes = list(self.source.notes)
        if self.chosen is None and self.own_names.get("test", "test").lower() not in SPLIT_NAMES["test"]:
            notes.append(f"{self.name} has no test split: its '{self.own_names['test']}' serves as the test")
        feature = self.opened("train").features[self.columns[1]]
        if is_text(feature):
            notes.append(
                f"the strings in '{self.columns[1]}' are numbered in alphabetical order: {self.classes[0]} is 0, "
                f"{self.classes[-1]} is {len(self.classes) - 1}"
            )
            notes += find_similar_labels(self.classes)
        return [*notes, *super().notes()]

    @classmethod
    def how_to_get(cls, root: str) -> str:
        return ""

    @classmethod
    def prepare(
        cls, out: str, *, name: str = "ethz/food101", config: str | None = None, revision: str | None = None
    ) -> str:
        """Save a dataset, from the cache or the Hub, in a folder that needs no network. Returns a summary.

        - `out`: the folder to make; then `name` of datasets.HF. A dataset that is there is checked.
        - `name`: such as ethz/food101, or a local folder of Parquet files or images.
        - `config`: its configuration, where there are several.
        - `revision`: commit, tag or branch.

        Raises ValueError if `out` holds something else, OSError if the dataset cannot be had.
        """
        return prepare(Path(out), name, config, revision)


def prepare(out: Path, name: str, config: str | None, revision: str | None) -> str:
    """Save the dataset `name` in `out`, all of it or nothing, and check it."""
    saved = (out / "dataset_dict.json").is_file()
    if not saved:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} holds other files already: choose another --out")
        save(load(name, config, revision).parts, out)
    findings = []
    for part in HF(str(out)).parts():
        dataset = HF(str(out), part, val_share=0, test_share=0)
        problems = "\n".join(map(str, dataset.check()))
        if problems and part == "train":
            raise ValueError(problems)
        if problems:  # hidden labels, say
            findings.append(f"{part} without use ({problems})")
            continue
        findings.append(f"{part} {len(dataset):,} images of {len(dataset.classes):,} classes")
    return f"{'found' if saved else 'saved'} in {out}: " + ", ".join(findings)


def save(parts: dict[str, Any], out: Path) -> None:
    """Write all parts to the folder `out`, which appears when it is whole."""
    import datasets

    with new_folder(out) as partial:
        datasets.DatasetDict(parts).save_to_disk(str(partial))
