"""Stanford Cars (Cars196), in the layouts that it is passed on in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from toolbox.base import list_folders, read_label
from toolbox.plugin import format_command
from toolbox_datasets import tables
from toolbox_datasets.class_folders import list_class_files, merge_class_files
from toolbox_datasets.files import find_first
from toolbox_datasets.retrieval_dataset import ListedImage, RetrievalDataset

CLASSES, TRAINING = 196, 98
"""Classes 1 to 98 are trained on, the others are the test: the convention of metric learning."""

PATHS = ("relative_im_path", "path", "image", "filename", "fname")
LABELS = ("class", "class_id", "label")


class Cars(RetrievalDataset):
    """Photos of cars, a class being make, model and year (Krause et al. 2013, "3D Object Representations for
    Fine-Grained Categorization").

    - `root`: a folder with one of
      cars_annos.csv, with columns for the image (relative_im_path, path, image, filename or fname) and for the class,
      a number from 1 to 196 (class, class_id or label), beside the images;
      cars_annos.mat, the original list, with car_ims/ beside it; reading it takes scipy;
      196 folders of images, or train/ and test/ with these; classes are then numbered by their names.
    - `split`: "trainval" is the first 98 classes, which "train" and "val" divide; "test" is the last 98. The division
      into train/ and test/, made for classification, is not looked at.
    - `val_share`: about the share of the training classes that "val" gets, 0.1 by default; which ones depends on
      their numbers alone.

    A sample holds "image", "label", "id" (the path) and "path". `classes` are the folders' names, else the numbers;
    there are no groups. The list is read on first use: OSError or ValueError then tells what is wrong with it. Raises
    ValueError for an unknown split or a share outside (0, 1).
    """

    published = {"train": (8_054, 98), "test": (8_131, 98)}

    def read_list(self, part: Literal["train", "test"]) -> list[ListedImage]:
        root = Path(self.root)
        if (root / "cars_annos.csv").is_file():
            pairs = read_csv(root / "cars_annos.csv")
        elif (root / "cars_annos.mat").is_file():
            pairs = read_mat(root / "cars_annos.mat")
        else:
            pairs = read_folders(root)
        if len({path for path, _ in pairs}) < len(pairs):
            raise ValueError(f"The list in {root} names an image twice: get it again")
        return [
            ListedImage(path, class_id, path) for path, class_id in pairs if (class_id <= TRAINING) == (part == "train")
        ]

    @classmethod
    def explain_download(cls, root: str) -> str:
        return (
            "The original site (https://ai.stanford.edu/~jkrause/cars/car_dataset.html) is often down; copies have "
            "either car_ims/ and cars_annos.mat, or one folder a class, as in "
            f"https://www.kaggle.com/datasets/jutrera/stanford-car-dataset-by-classes-folder. Put either into {root} "
            f"and check with `{format_command('prepare_data')} cars --out {root}`."
        )


def read_csv(path: Path) -> list[tuple[str, int]]:
    """(path, class from 1) of each row. Raises ValueError naming file and line where it has neither."""
    columns = tables.list_columns(path)
    image = next((name for name in PATHS if name in columns), None)
    label = next((name for name in LABELS if name in columns), None)
    if image is None or label is None:
        raise ValueError(
            f"{path}:1: one of {', '.join(PATHS)} and one of {', '.join(LABELS)} must be columns, and there are "
            f"{', '.join(columns) or 'none'}"
        )
    return [
        (str(row[image]).replace("\\", "/"), parse_class_number(row[label], tables.format_place(path, number)))
        for number, row in tables.read_rows(path)
    ]


def read_mat(path: Path) -> list[tuple[str, int]]:
    """(path, class from 1) of each annotation. Raises ValueError without scipy, or where the file is another one."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(
            f"{path} is read with scipy: run `python -m pip install scipy`, or write cars_annos.csv beside it with the "
            "columns relative_im_path and class"
        ) from None
    try:
        annotations = loadmat(path, squeeze_me=True)["annotations"].reshape(-1)
        names, labels = annotations["relative_im_path"], annotations["class"]
    except Exception as error:  # of scipy's own kinds: a file cut off, of another version, without these fields
        raise ValueError(f"{path} holds no annotations with relative_im_path and class: {error}") from None
    return [
        (str(name), parse_class_number(label, f"{path}: annotation {number}"))
        for number, (name, label) in enumerate(zip(names, labels, strict=True), start=1)
    ]


def read_folders(root: Path) -> list[tuple[str, int]]:
    """(path, class from 1) of all images in class folders, numbered in the order of their names' characters.

    Raises FileNotFoundError if there are none, ValueError if there are not 196: their order would mean nothing.
    """
    tops = [root / name for name in ("train", "test") if list_folders(root / name)] or [root]
    files = merge_class_files([list_class_files(root, top) for top in tops]).files
    if not any(files.values()):
        find_first(root, ["cars_annos.csv, cars_annos.mat or class folders"])
    if len(files) != CLASSES:
        raise ValueError(
            f"{root} has {len(files)} folders of classes, and Cars196 has {CLASSES}, whose order tells the training "
            "classes from the test: complete them, or use datasets.ImageFolder"
        )
    return [(path, number) for number, name in enumerate(sorted(files), start=1) for path in files[name]]


def parse_class_number(value: Any, where: str) -> int:
    """`value` as a class. Raises ValueError, saying where, unless it is 1 to 196."""
    try:
        text = read_label(value) or ""
    except ValueError:
        text = ""
    number = int(text) if text.isdecimal() and len(text) < 9 else 0
    if not 1 <= number <= CLASSES:
        raise ValueError(f"{where}: a class is a number from 1 to {CLASSES}, not '{value}'")
    return number
