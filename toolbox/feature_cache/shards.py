"""The files of a store: shards, each with a record that is written after it and says what a whole one looks like.

<store>/manifest.json         what the features are of; written last
<store>/shard-00000           (rows, width) numbers of the items from `first` on, an item's rows one after another
<store>/shard-00000.json      checksum, and each item's id, label, role and texts, or why it could not be read
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

    - `items`: of the dataset; `width`: numbers a row; `dtype`: of them.
    - `views`: rows an item; None where they are texts, of which items may have differing numbers.
    """

    items: int
    views: int | None
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
        """On disk, of so many items; default: all. Where items differ in their rows, what they need at least."""
        return self.bytes_of_rows((self.items if items is None else items) * (self.views or 1))

    def bytes_of_rows(self, rows: int) -> int:
        """On disk, of so many rows."""
        return rows * self.width * DTYPES[self.dtype].itemsize

    def count_rows(self, record: dict[str, Any]) -> list[int]:
        """How many rows each item of a shard has; `record`: that of the shard."""
        if self.views is None:
            return [len(texts) for texts in record["texts"]]
        return [self.views] * (record["stop"] - record["first"])


def write_shard(folder: Path, shard: Shard, layout: ShardLayout, numbers: torch.Tensor, record: dict[str, Any]) -> None:
    """Write a shard, and then its record. Raises ToolboxError when the disk refuses.

    - `numbers`: (rows, width) in the store's dtype.
    - `record`: `ids`, `labels`, `roles` and `unreadable`; of texts also `texts`, the digests of those of each item.
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
        rows = layout.count_rows(record)
        if len(rows) != shard.stop - shard.first or record["bytes"] != layout.bytes_of_rows(sum(rows)):
            return None
        if path.stat().st_size != record["bytes"]:
            return None
        if checksum:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                    return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def map_shard(folder: Path, shard: Shard, layout: ShardLayout, record: dict[str, Any]) -> torch.Tensor:
    """The rows (rows, width) of a shard in the store's dtype, memory-mapped; `record`: that of the shard."""
    dtype, rows = DTYPES[layout.dtype], sum(layout.count_rows(record))
    if not rows:
        return torch.empty(0, layout.width, dtype=dtype)
    return torch.from_file(str(folder / shard.name), size=rows * layout.width, dtype=dtype).view(rows, layout.width)


def _digest(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
