"""Rows that a dataset which has grown or changed can take from an older store, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from toolbox.feature_cache.inventory import list_stores
from toolbox.feature_cache.shards import Shard, ShardLayout, map_shard, read_record
from toolbox.utils.key_paths import find_differences

OF_THE_ITEMS = {"dataset.items", "dataset.labels", "dataset.classes", "dataset.files"}
"""What may differ between two stores that share items; rows of one item are the same numbers in both."""


class ReusableItem(NamedTuple):
    """The stored rows (views, width) of an item, in the store's dtype, and its id."""

    rows: Tensor
    id: int | str


class ReusableItems:
    """What older stores hold of the items of a dataset.

    - `root`: the folder of the stores; `identity`: of the features that are computed; `layout`: of their store.
    - `files`: the digest of each item's file (`key.digest_item_files`), None where items are not files.

    An item is known where an older store of the same features holds a row of the same file. Random views are never
    taken: they are seeded by the place of an item in its dataset. Texts and items with roles are not taken, since these
    do not stand in the file of an item. Every shard that rows are taken from is compared with its checksum first.
    """

    def __init__(self, root: Path, identity: dict[str, Any], layout: ShardLayout, files: Sequence[str] | None) -> None:
        self.places: dict[int, tuple[Path, ShardLayout, Shard, int]] = {}
        self.folders: list[Path] = []
        if files is None or identity["augment"] is not None or layout.views is None:
            return
        missing: dict[str, list[int]] = {}
        for index, file in enumerate(files):
            missing.setdefault(file, []).append(index)
        for store in list_stores(root):
            different = None if store.manifest is None else find_differences(store.manifest["of"], identity)
            if different and set(different) <= OF_THE_ITEMS and missing:
                self._search(store.folder, store.layout, missing)

    def __len__(self) -> int:
        return len(self.places)

    def _search(self, folder: Path, layout: ShardLayout, missing: dict[str, list[int]]) -> None:
        """Note which of the `missing` items a store holds, and remove them from `missing`."""
        for shard in layout.shards():
            record = read_record(folder, shard, layout)
            if record is None or not record.get("files") or any(role is not None for role in record["roles"]):
                continue
            present = [(row, file) for row, file in enumerate(record["files"]) if file in missing]
            present = [(row, file) for row, file in present if str(shard.first + row) not in record["unreadable"]]
            if not present or read_record(folder, shard, layout, checksum=True) is None:
                continue
            for row, file in present:
                for index in missing.pop(file, []):
                    self.places[index] = (folder, layout, shard, row)
            if folder not in self.folders:
                self.folders.append(folder)

    def read(self, indices: range) -> dict[int, ReusableItem]:
        """The known ones of some items, by index."""
        items: dict[int, ReusableItem] = {}
        shards: dict[tuple[Path, int], tuple[Tensor, list[Any]]] = {}
        for index in indices:
            if index not in self.places:
                continue
            folder, layout, shard, row = self.places[index]
            if (folder, shard.number) not in shards:
                shards[folder, shard.number] = _read_shard(folder, layout, shard)
            rows, ids = shards[folder, shard.number]
            items[index] = ReusableItem(rows[row], ids[row])
        return items


def _read_shard(folder: Path, layout: ShardLayout, shard: Shard) -> tuple[Tensor, list[Any]]:
    """The rows (items, views, width) of a shard, memory-mapped, and the ids of its items."""
    items = shard.stop - shard.first
    record = read_record(folder, shard, layout)
    rows = map_shard(folder, shard, layout, record or {"first": shard.first, "stop": shard.stop})
    return rows.unflatten(0, (items, -1)), record["ids"] if record else [None] * items
