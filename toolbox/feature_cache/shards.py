"""The files of a store: shards, each with a record that is written after it and says what a whole one looks like.

<store>/manifest.json         what the features are of; written last
<store>/shard-00000           (items, views, width) numbers of the items from `first` on
<store>/shard-00000.json      checksum, and each item's id, label and role, or why it could not be read
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toolbox.base import new_file

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LARGEST = 2048
"""Items a shard: what is lost at most by a process that is killed, a little more with the batch under way."""

_HINT = "Shards that are complete stay and are used. Free some space, or set features.folder to another disk."


@dataclass(frozen=True)
class Shard:
    """The items `first` to `stop` of a store."""

    number: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"shard-{self.number:05d}"


@dataclass(frozen=True)
class ShardLayout:
    """The shape of a store. How items are cut into shards depends on their number alone.

    - `items`: of the dataset; `views`: rows an item; `width`: numbers a row; `dtype`: of them.
    """

    items: int
    views: int
    width: int
    dtype: str

    def shards(self) -> list[Shard]:
        """All shards, in order: at least about 16 where items allow it, so that processes can share them."""
        size = min(LARGEST, max(32, -(-self.items // 16)))
        return [
            Shard(number, first, min(first + size, self.items))
            for number, first in enumerate(range(0, self.items, size))
        ]

    def bytes(self, items: int | None = None) -> int:
        """On disk, of so many items; default: all."""
        return (self.items if items is None else items) * self.views * self.width * DTYPES[self.dtype].itemsize


def write_shard(folder: Path, shard: Shard, layout: ShardLayout, numbers: torch.Tensor, record: dict[str, Any]) -> None:
    """Write a shard, and then its record. Raises ToolboxError when the disk refuses.

    - `numbers`: (items, views, width) in the store's dtype; `record`: `ids`, `labels`, `roles` and `unreadable`.
    """
    data = numbers.contiguous().view(-1).view(torch.uint8).numpy().data
    with new_file(folder / shard.name, hint=_HINT) as beside:
        beside.write_bytes(data)
    about = {
        "first": shard.first,
        "stop": shard.stop,
        "views": layout.views,
        "width": layout.width,
        "dtype": layout.dtype,
        "bytes": data.nbytes,
        "sha256": hashlib.sha256(data).hexdigest(),
        **record,
    }
    with new_file(folder / f"{shard.name}.json", hint=_HINT) as beside:
        text = json.dumps(about | {"record": _digest(about)}, ensure_ascii=False)
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_record(folder: Path, shard: Shard, layout: ShardLayout, *, checksum: bool = False) -> dict[str, Any] | None:
    """The record of a shard that is whole; None for one that is missing, damaged, or of another shape.

    - `checksum`: read the numbers too, and compare; else their size alone.
    """
    path = folder / shard.name
    try:
        record = json.loads((folder / f"{shard.name}.json").read_text(encoding="utf-8"))
        written = record.pop("record")
        expected = (shard.first, shard.stop, layout.views, layout.width, layout.dtype)
        if written != _digest(record) or expected != tuple(
            record[key] for key in ("first", "stop", "views", "width", "dtype")
        ):
            return None
        if path.stat().st_size != record["bytes"] or record["bytes"] != layout.bytes(shard.stop - shard.first):
            return None
        if checksum:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                    return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def _digest(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
