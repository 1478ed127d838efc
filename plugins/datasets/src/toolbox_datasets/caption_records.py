"""Writing images with captions as a file of records."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from toolbox.base import new_file
from toolbox_datasets.caption_sources import CaptionSource, read_captions
from toolbox_datasets.files import list_first, missing_files


def write_caption_records(out: Path, source: Path, split: str, root: Path | None) -> str:
    """Write the images and captions of a source as JSONL, for datasets.Records in mode "i2t"; returns what was written.

    - `out`: the file. Its image paths are relative to its folder, so `out` and images may move together.
    - `split`: "all", or the part to take; `root`: the folder of the images, None for that of the source.

    The same bytes every time. Raises ValueError where `out` holds something else, for a source that is not known, and
    where no image is left; OSError where it cannot be read or written.
    """
    if out.suffix != ".jsonl":
        raise ValueError(f"{out} must end in .jsonl, the format that is written")
    found = read_captions(source)
    folder = root if root is not None else source if source.is_dir() else source.parent
    captions = found.take(split, source)
    text = "".join(
        json.dumps(record, ensure_ascii=False) + "\n" for record in make_records(captions, folder, out.parent, found)
    )
    if out.exists() and out.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds something else already: move it away first")
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_file(out) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    counts = [len(json.loads(line)["positive"]) for line in text.splitlines()]
    summary = (
        f"wrote {out}: {len(counts):,} images with {sum(counts):,} captions "
        f"({min(counts)} to {max(counts)} an image, {sum(counts) / len(counts):.2f} on average)"
    )
    left_out = [f"left out: {count:,} {why}" for why, count in found.left_out.items() if count]
    return "\n".join([summary, *left_out])


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
        found.left_out[f"images that are not in {folder} ({list_first(absent, 1)})"] = len(absent)
    gone = set(absent)
    return [
        {"query_image": Path(os.path.relpath(folder / name, base)).as_posix(), "positive": texts}
        for name, texts in captions.items()
        if name not in gone
    ]
