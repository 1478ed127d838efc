"""The stores in a folder: what each holds, which are out of date, and their removal."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from toolbox.errors import ToolboxError
from toolbox.feature_cache.shards import ShardLayout
from toolbox.feature_cache.writer import MANIFEST, is_being_written, read_manifest


@dataclass(frozen=True)
class StoreInfo:
    """A store on disk.

    - `folder`: its own; `manifest`: what it says of itself, None for one that cannot be read.
    - `bytes`: on disk; `changed`: time of its last change, in seconds since the epoch.
    """

    folder: Path
    manifest: dict[str, Any] | None
    bytes: int
    changed: float

    @property
    def layout(self) -> ShardLayout:
        """The shape of the store. Raises ValueError where its manifest cannot be read."""
        if self.manifest is None:
            raise ValueError(f"{self.folder} has no manifest")
        return ShardLayout(*(self.manifest[key] for key in ("items", "views", "width", "dtype")))

    @property
    def complete(self) -> bool:
        """Whether all its shards were written."""
        return self.manifest is not None and "shards" in self.manifest

    def describe(self) -> dict[str, Any]:
        """For people and JSON; what an unreadable manifest would say is None."""
        manifest = self.manifest or {}
        made_of = manifest.get("made_of") or {}
        dataset = made_of.get("dataset") or {}
        return {
            "name": self.folder.name,
            "complete": self.complete,
            "dataset": dataset.get("type"),
            "data": next((dataset[key] for key in ("root", "name", "file") if dataset.get(key)), None),
            "split": dataset.get("split"),
            "weights": made_of.get("weights"),
            **{key: manifest.get(key) for key in ("items", "views", "width", "dtype")},
            "bytes": self.bytes,
            "changed": datetime.fromtimestamp(self.changed).isoformat(sep=" ", timespec="minutes"),
        }


def list_stores(root: Path) -> list[StoreInfo]:
    """The stores in a folder, the newest first; empty where there is no such folder."""
    stores = []
    for folder in root.iterdir() if root.is_dir() else ():
        if not folder.is_dir() or not ((folder / MANIFEST).exists() or any(folder.glob("shard-*"))):
            continue  # something else that lies there
        files = [path.stat() for path in folder.iterdir() if path.is_file()]
        changed = max((status.st_mtime for status in files), default=folder.stat().st_mtime)
        stores.append(
            StoreInfo(folder, read_manifest(folder, complete=False), sum(status.st_size for status in files), changed)
        )
    return sorted(stores, key=lambda store: (-store.changed, store.folder.name))


def find_superseded(stores: list[StoreInfo]) -> list[StoreInfo]:
    """Those of which a newer store has the same encoder and the same dataset with its items of today.

    - `stores`: the newest first, as `list_stores` returns them.
    """
    newer: set[str] = set()
    old = []
    for store in stores:
        if store.manifest is None:
            continue
        identity = {key: value for key, value in store.manifest["of"].items() if key != "dataset"}
        dataset = store.manifest["of"].get("dataset", {})
        same = json.dumps([identity, dataset.get("class"), dataset.get("arguments")], sort_keys=True)
        if same in newer:
            old.append(store)
        newer.add(same)
    return old


def remove_store(store: StoreInfo) -> None:
    """Delete a store. Raises ToolboxError where a run is writing it, or where it cannot be deleted."""
    try:
        if is_being_written(store.folder):
            raise ToolboxError(f"A run is storing features in {store.folder}.", hint="Wait for it, or end it.")
        (store.folder / MANIFEST).unlink(missing_ok=True)  # half a store must not look like a whole one
        shutil.rmtree(store.folder)
    except OSError as error:
        raise ToolboxError(f"{store.folder} cannot be removed: {error.strerror or error}.") from error
