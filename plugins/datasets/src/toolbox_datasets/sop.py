"""Stanford Online Products in its own layout."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from toolbox.plugin import format_command
from toolbox_datasets import sop_prepare
from toolbox_datasets.files import find_first
from toolbox_datasets.retrieval_dataset import ListedImage, RetrievalDataset
from toolbox_datasets.unpack import unpack_dataset

PAGE = "https://cvgl.stanford.edu/projects/lifted_struct/"
HEADER = "image_id class_id super_class_id path"


class SOP(RetrievalDataset):
    """Photos of products, a class being one product on offer (Song et al. 2016, "Deep Metric Learning via Lifted
    Structured Feature Embedding"), or any folder of that layout.

    - `root`: the folder that holds Ebay_train.txt and Ebay_test.txt, with the images below it.
    - `split`: "trainval" is all of Ebay_train.txt; "train" and "val" divide its classes; "test" is Ebay_test.txt.
    - `val_share`: share of the classes of Ebay_train.txt that "val" gets, 0.1 by default.

    Which classes "val" gets depends on their own ids, the same in every run. No class is in two of "train", "val" and
    "test".

    A sample holds "image", "label", "id" (the index's image id), "path" and "group". `labels` count from 0 in the
    order of class ids; `classes` are the names that a class's files share; `groups` are super-classes. The index is
    read on first use: OSError or ValueError then tells what is wrong with it. Raises ValueError for an unknown split
    or a share outside (0, 1).
    """

    published = {"train": (59_551, 11_318), "test": (60_502, 11_316)}

    def read_list(self, part: Literal["train", "test"]) -> list[ListedImage]:
        return read_index(find_first(Path(self.root), [f"Ebay_{part}.txt"]))

    def name_class(self, class_id: int | str, items: list[ListedImage]) -> str:
        stems = {Path(item.path).stem.rpartition("_")[0] for item in items}
        return stems.pop() if len(stems) == 1 else ""

    @classmethod
    def explain_download(cls, root: str) -> str:
        return (
            f"{explain_manual_download(root)}, or let `--download` fetch it from Kaggle; without either it checks what "
            f"is there. To try the same recipe on embedded data: `{format_command('train')} demo/dinov3_sop`."
        )

    @classmethod
    def prepare(
        cls, out: str, *, source: str | None = None, download: bool = False, jsonl: bool = False, val_share: float = 0.1
    ) -> str:
        """Check the dataset in a folder, bringing it there first if asked to. Returns what was found.

        - `out`: the folder that is to hold Ebay_train.txt.
        - `source`: a .zip or .tar archive of the dataset, or a folder that holds it; without it, `out` is only checked.
        - `download`: fetch it from Kaggle, with kagglehub, unless `out` has it.
        - `jsonl`: also write train.jsonl, val.jsonl (classes held out of the training index) and test.jsonl, one
          {"query_image", "positive", "label"} a line, as datasets.Records reads them.
        - `val_share`: the share of classes that val.jsonl gets.

        From a folder, files are linked where the file system can and copied otherwise. Raises ValueError if images
        are missing, or if `out` holds something else already; OSError if the dataset cannot be had.
        """
        if source is not None and download:
            raise ValueError("--source and --download both say where the dataset comes from: give one of them")
        if source is not None:
            unpack_dataset(Path(source), Path(out), "Ebay_train.txt")
        if download:
            sop_prepare.download_from_kaggle(Path(out), explain_manual_download(out))
        summary = cls.check_parts(out)
        if not jsonl:
            return summary
        splits = {split: cls(out, split, val_share).items for split in ("train", "val", "test")}
        return f"{summary}\n{sop_prepare.write_records(Path(out), splits)}"


def read_index(path: Path) -> list[ListedImage]:
    """All items of an index file, in its order.

    Raises OSError if it cannot be read, and ValueError naming file and line if the header is another one, a line has
    not three numbers and a relative path, an image id returns, or a class lies in two super-classes.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 ({error}): unpack the dataset again") from None
    if not lines or lines[0].strip() != HEADER:
        raise ValueError(f"{path}:1: the header must be '{HEADER}', not '{lines[0].strip()[:80] if lines else ''}'")
    items: list[ListedImage] = []
    seen: set[int | str] = set()
    group_of: dict[int | str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        item = parse_line(line)
        if item is None:
            raise ValueError(f"{path}:{number}: expected '{HEADER}' with a path below the folder, not '{line[:80]}'")
        if item.image_id in seen:
            raise ValueError(f"{path}:{number}: image id {item.image_id} stands on an earlier line already")
        if group_of.setdefault(item.class_id, item.group) != item.group:
            raise ValueError(
                f"{path}:{number}: class {item.class_id} is in the super-class '{item.group}' here and in "
                f"'{group_of[item.class_id]}' above"
            )
        seen.add(item.image_id)
        items.append(item)
    if not items:
        raise ValueError(f"{path} lists no images: unpack the dataset again")
    return items


def parse_line(line: str) -> ListedImage | None:
    """The item of one line, None if it is malformed."""
    fields = line.rstrip().split(" ", 3)
    if len(fields) != 4 or not all(field.isdecimal() for field in fields[:3]):
        return None
    path = PurePosixPath(fields[3])
    if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        return None
    return ListedImage(int(fields[0]), int(fields[1]), str(path), path.parts[0].removesuffix("_final"))


def explain_manual_download(root: str) -> str:
    """How to get the dataset without Kaggle."""
    return (
        f"Download Stanford_Online_Products.zip from {PAGE} and run `{format_command('prepare_data')} sop --out {root} "
        "--source Stanford_Online_Products.zip`"
    )
