"""DeepFashion In-shop Clothes Retrieval in its own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from toolbox.plugin import format_command
from toolbox_datasets.files import find_first
from toolbox_datasets.retrieval_dataset import ListedImage, RetrievalDataset

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html"
LISTS = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")
HEADER = "image_name item_id evaluation_status"


class InShop(RetrievalDataset):
    """Photos of clothes from shops, a class being one item of clothing (Liu et al. 2016, "DeepFashion: Powering Robust
    Clothes Recognition and Retrieval with Rich Annotations"), with fixed queries and a fixed gallery.

    - `root`: the folder that holds list_eval_partition.txt, in it or in Eval/, and the images in img/ or Img/img/.
    - `split`: "trainval" is all that the list calls train; "train" and "val" divide its classes; "test" is query and
      gallery.
    - `val_share`: share of the training classes that "val" gets, 0.1 by default.

    A sample holds "image", "label", "id" (the path in the list), "path", "group" such as "WOMEN/Dresses", and in the
    test "role": "query" or "gallery". Queries are then compared with the gallery only; in "val", which has no roles,
    each image is a query against all others. Which classes "val" gets depends on their own ids, the same in every run.
    `classes` are the item ids. The list is read on first use: OSError or ValueError then tells what is
    wrong with it. Raises ValueError for an unknown split or a share outside (0, 1).
    """

    published = {"train": (25_882, 3_997), "test": (26_830, 3_985)}

    def read_list(self, part: Literal["train", "test"]) -> list[ListedImage]:
        root = Path(self.root)
        path = find_first(root, LISTS)
        prefix = "Img/" if not (root / "img").is_dir() and (root / "Img" / "img").is_dir() else ""
        return [
            item._replace(path=prefix + item.path)
            for item in read_partition(path)
            if (item.role is None) == (part == "train")
        ]

    def name_class(self, class_id: int | str, items: list[ListedImage]) -> str:
        return str(class_id)

    @classmethod
    def explain_download(cls, root: str) -> str:
        return (
            f"The dataset is given out at {PAGE}: download Eval/list_eval_partition.txt and Img/img.zip, put the first "
            f"to {root}/Eval/, unpack the second to {root}/img/, and check with "
            f"`{format_command('prepare_data')} inshop --out {root}`."
        )


def read_partition(path: Path) -> list[ListedImage]:
    """All images of a list: their number, a header, and a line each; `role` is None for training images.

    Raises OSError if it cannot be read, and ValueError naming file and line if the header is another one, a line has
    not three columns, an image returns, the number of images is another one, or a class is in training and test.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if len(lines) < 2 or not lines[0].strip().isdecimal() or lines[1].split() != HEADER.split():
        raise ValueError(f"{path}: the first two lines must be the number of images and '{HEADER}'")
    items: list[ListedImage] = []
    seen: set[str] = set()
    trained: dict[str, bool] = {}
    for number, line in enumerate(lines[2:], start=3):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 3 or fields[2] not in ("train", "query", "gallery"):
            raise ValueError(
                f"{path}:{number}: expected '{HEADER}' with a status of train, query or gallery, not '{line[:80]}'"
            )
        name, item_id, status = fields
        if name in seen:
            raise ValueError(f"{path}:{number}: the image {name} stands on an earlier line already")
        if trained.setdefault(item_id, status == "train") != (status == "train"):
            raise ValueError(f"{path}:{number}: the item {item_id} is in the training and in the test set")
        seen.add(name)
        group = "/".join(name.split("/")[1:-2])
        items.append(ListedImage(name, item_id, name, group, None if status == "train" else status))
    if len(items) != int(lines[0]):
        raise ValueError(f"{path}:1 announces {int(lines[0]):,} images, and the list has {len(items):,}: get it again")
    return items
