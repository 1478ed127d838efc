"""Writing images with captions as a file of records."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from toolbox.base import SPLITS, new_file
from toolbox_datasets.caption_sources import CaptionSource, read_captions
from toolbox_datasets.files import list_first, missing_files


def write_caption_records(out: Path, source: Path, split: str, root: Path | None) -> str:
    """Write the images and captions of a source as JSONL, for datasets.Records in mode "i2t"; returns what was written.

    - `out`: a file that ends in .jsonl, or a folder for train.jsonl, val.jsonl and test.jsonl. Image paths are relative
      to its folder, so it may move together with the images.
    - `split`: "all", or the part to take; `root`: the folder of the images, None for that of the source.

    The same bytes every time. Raises ValueError, before anything is written, where a file holds something else, for a
    source that is not known, and where no image is left; OSError where it cannot be read or written.
    """
    is_folder = out.is_dir() or out.suffix == ""
    if not is_folder and out.suffix != ".jsonl":
        raise ValueError(f"{out} must end in .jsonl, the format that is written, or be a folder")
    if is_folder and split != "all":
        raise ValueError(f"{out} is a folder, which gets all splits: leave out --split, or name a .jsonl file")
    found = read_captions(source)
    folder = root if root is not None else source if source.is_dir() else source.parent
    files = {out / f"{part}.jsonl": part for part in SPLITS} if is_folder else {out: split}
    records = {file: make_records(found.take(part, source), folder, file.parent, found) for file, part in files.items()}
    contents = {
        file: "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in rows).encode()
        for file, rows in records.items()
    }
    for file, content in contents.items():
        if file.exists() and file.read_bytes() != content:
            raise ValueError(f"{file} holds something else already: move it away first")
    for file, content in contents.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as beside:
            beside.write_bytes(content)
    left_out = [f"left out: {reason}" for reason in found.list_left_out()]
    return "\n".join([*(_describe(file, rows) for file, rows in records.items()), *left_out])


def _describe(file: Path, records: list[dict[str, Any]]) -> str:
    counts = [len(record["positive"]) for record in records]
    return (
        f"wrote {file}: {len(counts):,} images with {sum(counts):,} captions "
        f"({min(counts)} to {max(counts)} an image, {sum(counts) / len(counts):.2f} on average)"
    )


def make_records(
    captions: dict[str, list[str]], folder: Path, base: Path, found: CaptionSource
) -> list[dict[str, Any]]:
    """A record an image, whose path is relative to `base`; images that are not in `folder` are left out and counted.

    Raises ValueError where none of them is there.
    """
    absent = missing_files(folder, captions)
    if len(absent) == len(captions):
        raise ValueError(
            f"none of the {len(captions):,} images is in {folder} ({list_first(absent)}): set --root to the folder "
            "that their names are relative to"
        )
    if absent:
        found.left_out[f"images that are not in {folder}"] += len(absent)
    gone = set(absent)
    if os.pardir in Path(os.path.relpath(folder, base)).parts:
        # ".." leads out of where a link leads to
        folder, base = Path(os.path.realpath(folder)), Path(os.path.realpath(base))
    return [
        {"query_image": Path(os.path.relpath(folder / name, base)).as_posix(), "positive": texts}
        for name, texts in captions.items()
        if name not in gone
    ]
