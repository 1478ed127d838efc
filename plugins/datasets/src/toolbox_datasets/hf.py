"""Any dataset of Hugging Face with an image and a label column."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolbox.base import MISSING_LABELS, Sample, decode_image, find_similar_labels, identify_files, lazy_attribute
from toolbox_datasets import subsets
from toolbox_datasets.class_folders import SPLIT_NAMES
from toolbox_datasets.classification_dataset import ClassificationDataset
from toolbox_datasets.files import new_folder, require_free
from toolbox_datasets.hf_columns import (
    LabelColumn,
    find_image_column,
    find_label_column,
    is_text,
    make_image_keys,
    read_image_cell,
)
from toolbox_datasets.hf_source import HFData, is_local, load_data
from toolbox_datasets.published_dataset import count_images


class HF(ClassificationDataset):
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

    What is carved and taken of local data depends on the images themselves, not on their rows: a file that is added
    moves no other. What is in the local cache is used without asking the network. A sample holds "image", "label" and
    "id" ("train/17": its own split and row). Images are turned, and brought to RGB as `toolbox.base.read_image` does;
    of several frames the first is taken. The data are read on first use: OSError or ValueError then tells what is
    wrong. Raises ValueError for an unknown split or part, and numbers out of range.
    """

    place = "name"

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
        subsets.require_held_out(val_share=val_share, test_share=test_share)
        super().__init__(name, split, ratio, shots, val_share, seed)
        if not name:
            raise ValueError("name is empty: give one such as 'ethz/food101', or a folder")
        unknown = set(parts or {}) - set(SPLIT_NAMES)
        if unknown or (parts is not None and "train" not in parts):
            raise ValueError(
                f"parts maps 'train' and, where there are any, 'val' and 'test' to its own splits, not {parts}"
            )
        if parts is not None and len(set(parts.values())) < len(parts):
            raise ValueError(f"parts={parts} takes one split for two")
        self.location = self.name = name
        self.test_share, self.config, self.image, self.label = test_share, config, image, label
        self.revision, self.part_names = revision, parts
        self.missing_labels = MISSING_LABELS if missing_labels is None else frozenset(missing_labels)

    @cached_property
    def data(self) -> HFData:
        """The dataset, opened. Raises OSError or ValueError."""
        return load_data(self.name, self.config, self.revision)

    @cached_property
    def source_splits(self) -> dict[str, str]:
        """{part: the name of the dataset's own split}."""
        names = self.data.parts
        if self.part_names is not None:
            absent = [name for name in self.part_names.values() if name not in names]
            if absent:
                raise ValueError(f"{self.name} has no split '{absent[0]}', only {', '.join(names)}")
            return dict(self.part_names)
        splits: dict[str, str] = {}
        for part, usual_names in SPLIT_NAMES.items():
            matches = [name for usual_name in usual_names[::-1] for name in names if name.lower() == usual_name]
            if matches:
                splits[part] = matches[-1]  # the most usual name
        if "train" not in splits:
            raise ValueError(
                f"{self.name} has the splits {', '.join(names)}, and none is called train: name them by "
                f"parts={{'train': {next(iter(names), '...')!r}}}"
            )
        if "val" in splits and "test" not in splits:
            splits["test"] = splits.pop("val")
        return splits

    def list_parts(self) -> Sequence[subsets.Split]:
        return [part for part in SPLIT_NAMES if part in self.source_splits]

    def describe_part(self, part: str) -> str:
        """What a part is called in messages."""
        return f"{self.name}, its split '{self.source_splits[part]}'"

    def open_part(self, part: str) -> Any:
        """The `datasets.Dataset` of a part."""
        return self.data.parts[self.source_splits[part]]

    @cached_property
    def columns(self) -> tuple[str, str]:
        """The columns of image and label."""
        part, where = self.open_part("train"), self.describe_part("train")
        return find_image_column(part, self.image, where), find_label_column(part.features, self.label, where)

    def open_labels(self, part: str) -> LabelColumn:
        """The labels of a part."""
        return LabelColumn(self.open_part(part), self.columns[1], self.describe_part(part), self.missing_labels)

    @lazy_attribute
    def classes(self) -> Sequence[str]:
        return self.open_labels("train").list_classes()

    def read_labels(self) -> np.ndarray:
        return self.open_labels(self.part).number(self.classes)

    @cached_property
    def encoded(self) -> Any:
        """The rows of `part`, their images as contents of files."""
        import datasets

        name = self.columns[0]
        column = self.open_part(self.part).select_columns([name])
        is_image = type(column.features[name]).__name__ == "Image"
        return column.cast_column(name, datasets.Image(decode=False)) if is_image else column

    @property
    def folder(self) -> Path:
        """What paths in the data are relative to: the folder of the files, where they are local."""
        path = Path(self.name).expanduser()
        return path if path.is_dir() else path.parent if path.is_file() else Path()

    def __getitem__(self, index: int) -> Sample:
        row = int(self.indices[index])
        split = self.source_splits[self.part]
        where = f"{self.name}, row {row} of '{split}'"
        data, path = read_image_cell(self.encoded[row][self.columns[0]], self.folder)
        if data is None:
            if path is None or not path.is_file():
                raise ValueError(
                    f"{where} has no image" + (f", only the path {path}, where no file is" if path else "")
                )
            data = path.read_bytes()
        return {"image": decode_image(data, where), "label": self.labels[index], "id": f"{split}/{row}"}

    def list_keys(self) -> Sequence[str]:
        """As of `ClassificationDataset` for a copy of the Hub, whose rows stay. Of local data, to which a file may be
        added whose rows come first, a digest of the image itself."""
        if not is_local(self.name):
            return super().list_keys()
        return make_image_keys(self.encoded, self.columns[0], self.folder)

    def identities(self) -> list[str]:
        split, keys = self.source_splits[self.part], self.list_keys()
        if not is_local(self.name):
            return [f"{self.data.identity}/{split}/{row}" for row in self.indices.tolist()]
        names = [keys[row] for row in self.indices.tolist()]
        return identify_files((self.folder / name for name in names), (f"{split}/{name}" for name in names))

    def fingerprint(self) -> str:
        return self.data.identity

    def notes(self) -> list[str]:
        """As of `ClassificationDataset`, where the data were found, and what serves as what."""
        notes = list(self.data.notes)
        if self.part_names is None and self.source_splits.get("test", "test").lower() not in SPLIT_NAMES["test"]:
            notes.append(f"{self.name} has no test split: its '{self.source_splits['test']}' serves as the test")
        feature = self.open_part("train").features[self.columns[1]]
        if is_text(feature):
            notes.append(
                f"the strings in '{self.columns[1]}' are numbered in alphabetical order: {self.classes[0]} is 0, "
                f"{self.classes[-1]} is {len(self.classes) - 1}"
            )
            notes += find_similar_labels(self.classes)
        return [*notes, *super().notes()]

    @classmethod
    def explain_download(cls, root: str) -> str:
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
        is_saved = (Path(out) / "dataset_dict.json").is_file()
        if not is_saved:
            require_free(Path(out))
            parts = load_data(name, config, revision).parts
            import datasets  # which `load_data` explains where it is missing

            with new_folder(Path(out)) as partial:
                datasets.DatasetDict(parts).save_to_disk(str(partial))
        summaries = []
        for part, dataset in cls.open_parts(out, test_share=0).items():
            problems = "\n".join(map(str, dataset.check()))
            if problems and part == "train":
                raise ValueError(problems)
            # hidden labels, say
            summaries.append(f"{part} without use ({problems})" if problems else count_images(part, dataset))
        return f"{'found' if is_saved else 'saved'} in {out}: " + ", ".join(summaries)
