"""Food-101 as its archive has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from toolbox.base import lazy_attribute
from toolbox.plugin import format_command
from toolbox_datasets.fetch import Archive, fetch_dataset
from toolbox_datasets.files import find_first, read_lines
from toolbox_datasets.image_file_dataset import ImageFileDataset, LabelledFile
from toolbox_datasets.subsets import Split

ARCHIVE = Archive(
    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87"
)
PAGE = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"


class Food101(ImageFileDataset):
    """Photos of 101 dishes, 750 a class to train on and 250 to test (Bossard et al. 2014, "Food-101 - Mining
    Discriminative Components with Random Forests"), or any folder of that layout.

    - `root`: the folder with meta/ (classes.txt; train.txt and test.txt, or train.json and test.json; labels.txt if the
      classes have readable names) and images/<class>/<id>.jpg.
    - `split`: "test" is the published test; "train" and "val" divide the published training images.
    - `ratio`: share of each class of the split that is taken; `shots`: this many images of each class instead.
    - `val_share`: share of the training images of each class that "val" gets; 0 leaves all to "train".
    - `seed`: of what is carved and taken. "train" and "val" must be given the same `val_share` and `seed`.

    A sample holds "image", "label", "id" (the path) and "path". Classes are in the order of classes.txt. The lists are
    read on first use: OSError or ValueError then tells what is wrong with them. The training images of the original are
    noisy on purpose (some colors, some labels). Raises ValueError for an unknown split or numbers out of range.
    """

    published = {"train": (75_750, 101), "test": (25_250, 101)}

    def list_parts(self) -> Sequence[Split]:
        find_first(Path(self.root), ["meta/classes.txt"])
        return ("train", "test")

    @cached_property
    def folders(self) -> list[str]:
        """The folder of each class."""
        return read_lines(find_first(Path(self.root), ["meta/classes.txt"]))

    @lazy_attribute
    def classes(self) -> Sequence[str]:
        path = Path(self.root) / "meta" / "labels.txt"
        names = read_lines(path) if path.is_file() else self.folders
        if len(names) != len(self.folders):
            raise ValueError(f"{path} names {len(names)} classes, and classes.txt beside it {len(self.folders)}")
        return names if len(set(names)) == len(names) else self.folders

    def list_images(self) -> list[LabelledFile]:
        label_of = {name: label for label, name in enumerate(self.folders)}
        path, stems = self.read_list(self.part)
        seen = set()
        images = []
        for number, stem in enumerate(stems, start=1):
            name = stem.rpartition("/")[0]
            if name not in label_of:
                raise ValueError(f"{path}, entry {number}: '{stem}' is of no class that classes.txt names")
            if stem in seen:
                raise ValueError(f"{path}, entry {number}: '{stem}' stands there twice")
            seen.add(stem)
            images.append(LabelledFile(f"images/{stem}.jpg", label_of[name]))
        shared = seen & set(self.read_list("train")[1]) if self.part == "test" else ()
        if shared:
            raise ValueError(f"{path}: {len(shared):,} images are in the training list too: {sorted(shared)[0]}")
        return images

    def read_list(self, part: str) -> tuple[Path, list[str]]:
        """The list of a part and what it names, as <class>/<id>."""
        path = find_first(Path(self.root), [f"meta/{part}.txt", f"meta/{part}.json"])
        if path.suffix == ".txt":
            return path, read_lines(path)
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            return path, [str(stem) for stems in table.values() for stem in stems]
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is no JSON object of lists, one a class: {error}") from None

    @classmethod
    def explain_download(cls, root: str) -> str:
        return (
            f"Run `{format_command('prepare_data')} food101 --out {root} --download` (5 GB), or download "
            f"{ARCHIVE.name} from {PAGE} and give it as --source. To try it on embedded data: "
            f"`{format_command('prepare_data')} glyphs --layout food101 --out data/glyphs_food101`."
        )

    @classmethod
    def prepare(cls, out: str, *, source: str | None = None, download: bool = False) -> str:
        """Check the dataset in a folder, bringing it there first if asked to. Returns what was found.

        - `out`: the folder that is to hold meta/ and images/.
        - `source`: food-101.tar.gz, or a folder that holds what is in it; without it, `out` is only checked.
        - `download`: fetch the archive (5 GB) from its authors' site, unless `out` has it.

        Raises ValueError if something is missing, or if `out` holds something else; OSError if it cannot be had.
        """
        fetch_dataset(Path(out), ARCHIVE, "meta/classes.txt", source, download)
        return cls.check_parts(out)
