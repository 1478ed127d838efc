"""Your own pairs: records in a JSONL, CSV, TSV or Parquet file."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from toolbox.base import MISSING_LABELS, Dataset, Sample, get_image_suffixes, identify_files, lazy_attribute, read_image
from toolbox.plugin import Problem, format_command
from toolbox_datasets import tables
from toolbox_datasets.caption_records import write_caption_records
from toolbox_datasets.files import list_first, missing_files
from toolbox_datasets.published_dataset import require_valid
from toolbox_datasets.records_fields import RecordReader, check_columns
from toolbox_datasets.records_index import ImageIndex, RecordIndex, read_pairs
from toolbox_datasets.records_samples import read_samples
from toolbox_datasets.relations import Relation
from toolbox_datasets.subsets import require_share, require_split

Mode = Literal["i2i", "t2i", "i2t", "t2t", "m2i", "m2t"]
TEXT_INSTEAD = {"i2i": "i2t", "t2i": "t2t", "m2i": "m2t"}


class Records(Dataset):
    """Records of what belongs together, one a line: `{"query_image": "a.jpg", "positive": "b.jpg", "label": 7}`.

    - `path`: a .jsonl, .csv, .tsv or .parquet file (this takes pyarrow).
    - `root`: the folder that its image paths are relative to; "": the folder of the file.
    - `mode`: what finds what: i is an image, t a text, m an image with a text. It alone says which field is which.
    - `columns`: {field: column} where the file calls a field otherwise, {'label': None} to read none.
    - `split`: "train" and "val" divide the classes of the file, "all" is everything.
    - `val_share`: share of the classes that "val" gets, 0.1 by default.
    - `missing_labels`: texts that mean "no label"; None: those of `toolbox.base.MISSING_LABELS`, such as NA, nan and
      None; []: only an empty cell does, so that a class may be called NA.

    Fields: `query` (text), `query_image`, `positive` and `negatives` (a string or a list; in a table a list may be
    written as JSON), `label` (or class_id, or id), `group` (super-class). Labels and groups are read as
    `toolbox.base.read_label` says: 7, 7.0 and "7" are the same one, and all records have a label, or none.

    "i2i": items are the different images of the file, in the order of their first appearance; a sample holds "image",
    "label", "id" (the path), "path" and, if given, "group". `records` says which images pair; retrieval.Pairs draws by
    it. A label is that of the record's query and positives; without labels, images that records join, directly or over
    others, form a class. An image that is named as a negative only forms a class of its own: in
    an evaluation it can be found, wrongly, and as a query, which has nothing to find, it is left out and counted.

    Other modes: a sample is a record. It holds the query ("text", "image" or both), what is to be found ("image" or
    "text" where this is free, else "positive_image" or "positive_text"; several texts are a list, several images make
    several samples), "label" and "id" (the line). In "i2t" a sample is an image with the texts of all records that name
    it, as in files with a line for each caption; its id is the first line. Without labels, samples that share an image
    or a text form a class, for "m2i" and "m2t" those that share the whole query or a positive. Negatives are not read.

    "val" gets about `val_share` of the classes, at least two, and no class is in both. Which ones depends on their own
    names (`toolbox.base.split_by_hash`): a label; without labels the first image of a class, or the first line of one.
    So records that are added at the end move no class, unless they join two.
    The file is read on first use: OSError or ValueError then tells what is wrong, with the line. `notes` counts what is
    odd. Raises ValueError for an unknown mode, split or field, an ending it cannot read, and a share outside (0, 1).
    """

    def __init__(
        self,
        path: str,
        root: str = "",
        mode: Mode = "i2i",
        columns: dict[str, str | None] | None = None,
        split: Literal["train", "val", "all"] = "all",
        val_share: float = 0.1,
        missing_labels: list[str] | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, not {mode!r}")
        require_split(split, ("train", "val", "all"))
        require_share("val_share", val_share)
        check_columns(columns or {})
        self.file = Path(path).expanduser()
        tables.find_format(self.file)
        self.folder = Path(root).expanduser() if root else self.file.parent
        self.mode, self.columns, self.split, self.val_share = mode, dict(columns or {}), split, val_share
        self.unit = Dataset.unit if mode == "i2i" else "samples"
        self.missing_labels = MISSING_LABELS if missing_labels is None else frozenset(missing_labels)

    @cached_property
    def index(self) -> RecordIndex:
        """What the split holds."""
        reader = RecordReader(self.file, self.mode, self.columns, self.missing_labels)
        index = read_pairs(reader, self.folder) if self.mode == "i2i" else read_samples(reader, self.folder)
        return index if self.split == "all" else index.take_split(self.split, self.val_share, self.file)

    @lazy_attribute
    def labels(self) -> list[int]:
        return self.index.labels.tolist()

    @lazy_attribute
    def classes(self) -> Sequence[str]:
        return self.index.classes

    @lazy_attribute
    def has_class_names(self) -> bool:
        return self.index.labelled

    @lazy_attribute
    def groups(self) -> Sequence[str] | None:
        return self.index.groups

    @lazy_attribute
    def records(self) -> Sequence[Relation] | None:
        return self.index.relations if isinstance(self.index, ImageIndex) else None

    def notes(self) -> list[str]:
        """What is odd in the file, with counts; what was guessed of its columns."""
        return self.index.describe_oddities()

    def __len__(self) -> int:
        return len(self.index.labels)

    def item_files(self) -> list[Path] | None:
        return [self.folder / path for path in self.index.paths] if self.mode == "i2i" else None

    def sources(self) -> list[Path]:
        # texts stand in the file itself
        return self.item_files() or [*(self.folder / path for path in self.index.paths), self.file]

    def identities(self) -> list[str]:
        index = self.index
        images = identify_files((self.folder / path for path in index.paths), index.paths)
        columns = [
            [images[value] for value in values] if field.endswith("image") else [str(value) for value in values]
            for field, values in sorted(index.fields.items())
        ]
        return ["\0".join(fields) for fields in zip(*columns, strict=True)]

    def __getitem__(self, index: int) -> Sample:
        return self.read(index, self.index.fields)

    def read(self, index: int, fields: Collection[str]) -> Sample:
        content = self.index
        sample: Sample = {"label": self.labels[index], "id": content.ids[index]}
        for field in (name for name in content.fields if name in fields):
            value = content.fields[field][index]
            if field.endswith("image"):
                path = self.folder / content.paths[value]
                sample[field] = read_image(path)
                sample["path" if field == "image" else "positive_path"] = str(path)
            else:
                sample[field] = value
        if content.groups and content.groups[index]:
            sample["group"] = content.groups[index]
        return sample

    def check(self) -> list[Problem]:
        """A missing or malformed file, a split that holds nothing, images that are not there or are texts."""
        if not self.file.is_file():
            example = '{"query_image": "a.jpg", "positive": "b.jpg", "label": 7}'
            hint = (
                f"Write one JSON object a line, such as {example}. For Stanford Online Products: "
                f"`{format_command('prepare_data')} sop --out data/stanford_online_products --jsonl`."
            )
            return [Problem(f"The file {self.file} does not exist.", "path", hint)]
        try:
            absent = missing_files(self.folder, self.index.paths)
        except (OSError, ValueError) as error:
            return [Problem(str(error), "path")]
        return self._explain_missing(absent) if absent else []

    def _explain_missing(self, absent: list[str]) -> list[Problem]:
        """What to do about images that are not there."""
        index = self.index
        line_of = dict(zip(index.paths, index.image_lines.tolist(), strict=True))
        texts = [path for path in absent if looks_like_text(path)]
        if texts:
            where = tables.format_place(self.file, line_of[texts[0]])
            hint = f"If these are texts, set mode='{TEXT_INSTEAD[self.mode]}'." if self.mode in TEXT_INSTEAD else ""
            message = (
                f"{where} names '{texts[0][:80]}' where mode '{self.mode}' reads an image ({len(texts):,} such values)."
            )
            return [Problem(message, "mode", hint)]
        links = [path for path in absent if "://" in path]
        if links:
            where = tables.format_place(self.file, line_of[links[0]])
            message = f"{where} names the address {links[0][:80]} ({len(links):,} of them); images are read from files."
            return [Problem(message, "path", "Download them, and write the files' paths.")]
        message = (
            f"{len(absent):,} of {len(index.paths):,} images that {self.file} names do not exist in {self.folder}: "
            f"{list_first(absent)} (first in line {line_of[absent[0]]})."
        )
        return [Problem(message, "root", self._suggest_root(absent))]

    def _suggest_root(self, absent: list[str]) -> str:
        """A folder in which the first missing images are, if one is near."""
        examples = absent[:20]
        for folder in (Path("."), self.file.parent, *self.file.parent.parents):
            if folder != self.folder and all(os.path.isfile(folder / path) for path in examples):
                return f"They are in {folder.absolute()}: set root='{folder}'."
        return "Set root to the folder that the paths are relative to."

    @classmethod
    def prepare(
        cls,
        out: str,
        *,
        source: str = "",
        split: Literal["all", "train", "val", "test"] = "all",
        root: str = "",
        mode: Mode = "i2i",
    ) -> str:
        """Check a file of records, or make one of images with captions, and return what is in it.

        - `out`: the file; one that is made ends in .jsonl, for mode i2t. A folder gets train, val and test.jsonl.
        - `source`: what to make it of: the captions of COCO (captions_train2017.json), Karpathy's splits
          (dataset_coco.json, dataset_flickr30k.json), those of Flickr30k (results_20130124.token), a folder of images
          with a .txt beside each, every line a caption. Without it, a file is checked.
        - `split`: the part of the source to take. One that has none is divided by a hash of the images' names: 80 %
          train, 10 % val, 10 % test.
        - `root`: the folder that image paths are relative to; by default that of the file, or of the source.
        - `mode`: of a file to check: i2i, t2i, i2t, t2t, m2i or m2t: which fields are images, and which texts.

        Raises ValueError with what is wrong in it.
        """
        if source:
            if mode not in ("i2i", "i2t"):  # the first is the default
                raise ValueError(f"--source makes records for mode i2t, and --mode {mode} is for a file to check")
            folder = Path(root).expanduser() if root else None
            return write_caption_records(Path(out).expanduser(), Path(source).expanduser(), split, folder)
        if split != "all":
            raise ValueError("--split chooses a part of a --source, and there is none")
        dataset = cls(out, root, mode)
        require_valid(dataset)
        records = f" in {len(dataset.records):,} records" if dataset.records is not None else ""
        unit = "images" if mode == "i2i" else "samples"
        summary = f"{out} is readable: {len(dataset):,} {unit} of {len(dataset.classes):,} classes{records}"
        return "\n".join([summary, *dataset.notes()])


def looks_like_text(path: str) -> bool:
    """Whether a missing path has no ending of a file; for messages only."""
    ending = os.path.splitext(path)[1].lower()
    return "://" not in path and ending not in get_image_suffixes() and ("." not in path or " " in path)
