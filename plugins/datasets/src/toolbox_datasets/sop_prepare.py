"""Getting Stanford Online Products, and writing it as records of pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolbox.base import new_file
from toolbox_datasets.retrieval_dataset import ListedImage
from toolbox_datasets.unpack import unpack_dataset

KAGGLE = "liucong12601/stanford-online-products-dataset"


def download_from_kaggle(out: Path, steps: str) -> None:
    """Download the dataset from Kaggle and link it into `out`; nothing is done where the index is there already.

    - `steps`: how to get it by hand, for messages.

    Raises ValueError if kagglehub is not installed or `out` holds something else, OSError if the download fails.
    """
    if (out / "Ebay_train.txt").is_file():
        return
    try:
        import kagglehub
    except ImportError:
        raise ValueError(
            f"--download needs kagglehub: run `python -m pip install kagglehub` and try again. By hand: {steps}"
        ) from None
    try:
        folder = kagglehub.dataset_download(KAGGLE)
    except Exception as error:  # of its own kinds: no network, no permission, no space
        raise OSError(
            f"{KAGGLE} cannot be had from Kaggle ({type(error).__name__}: {error}). By hand: {steps}"
        ) from error
    unpack_dataset(Path(folder), out, "Ebay_train.txt")


def write_records(out: Path, splits: Mapping[str, Sequence[ListedImage]]) -> str:
    """Write each split as `out`/<split>.jsonl, one record an image, and return what was written.

    A record is {"query_image", "positive", "label"}: paths relative to `out`, the positive being the next image of the
    class (after the last the first), the label the index's class id. The same bytes every time. An image that is alone
    in its class has no positive: it is left out and counted.

    Raises ValueError, before anything is written, if a file of that name holds something else.
    """
    texts, summaries = {}, []
    for split, items in splits.items():
        pairs = [(item, positive) for item, positive in zip(items, find_next_of_class(items), strict=True)]
        records = [
            {"query_image": item.path, "positive": positive.path, "label": item.class_id}
            for item, positive in pairs
            if positive is not item
        ]
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        texts[out / f"{split}.jsonl"] = "".join(f"{line}\n" for line in lines)
        alone = len(pairs) - len(records)
        left_out = f" ({alone:,} images alone in their class left out)" if alone else ""
        summaries.append(f"{split}.jsonl {len(records):,} records{left_out}")
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{path} holds something else already: move it away first")
    for path, text in texts.items():
        with new_file(path) as beside:
            beside.write_text(text, encoding="utf-8", newline="\n")
    return f"wrote to {out}: " + ", ".join(summaries)


def find_next_of_class(items: Sequence[ListedImage]) -> list[ListedImage]:
    """The next image of the same class for each image, after the last the first; itself where it is alone."""
    members: dict[int | str, list[int]] = {}
    for number, item in enumerate(items):
        members.setdefault(item.class_id, []).append(number)
    following = list(items)
    for numbers in members.values():
        for number, next_number in zip(numbers, numbers[1:] + numbers[:1], strict=True):
            following[number] = items[next_number]
    return following
