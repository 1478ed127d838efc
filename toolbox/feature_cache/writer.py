"""Write a store, shard by shard: any number of processes, any number of interruptions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolbox.base import new_file
from toolbox.base.locks import explain_missing_lock, try_lock
from toolbox.errors import ToolboxError
from toolbox.feature_cache.shards import DTYPES, Shard, ShardLayout, read_record, write_shard

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
"""A manifest that is written first, for a store that is never finished; the manifest replaces it."""


def read_manifest(folder: Path, *, complete: bool = True) -> dict[str, Any] | None:
    """The manifest of a store; None where it cannot be read.

    - `complete`: None also for a store that is not whole yet.
    """
    for name in (MANIFEST,) if complete else (MANIFEST, UNFINISHED):
        try:
            manifest = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(manifest["of"], dict) and {"items", "views", "width", "dtype", "calls"} <= manifest.keys():
                return manifest
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def is_being_written(folder: Path) -> bool:
    """Whether a run holds the lock of a store."""
    path = folder / ".lock"
    if not path.is_file():
        return False
    with path.open("a") as file:
        return try_lock(file) is False


class Writer:
    """Fills the folder of a store.

    - `folder`: the store's own; `of`: the identity of its features, kept in the manifest.
    - `layout`: its shape.
    """

    def __init__(self, folder: Path, of: dict[str, Any], layout: ShardLayout) -> None:
        self.folder, self.of, self.layout = folder, of, layout

    def missing(self, *, checksum: bool = False, unreadable: bool = False) -> list[Shard]:
        """The shards that are still to be written: absent, cut short or damaged.

        - `checksum`: also read every number, and find those that have changed since.
        - `unreadable`: also those with items that could not be read, to try again.
        """
        missing = []
        for shard in self.layout.shards():
            record = read_record(self.folder, shard, self.layout, checksum=checksum)
            if record is None or (unreadable and record["unreadable"]):
                missing.append(shard)
        return missing

    @contextmanager
    def alone(
        self, waiting: Callable[[], None] = lambda: None, warn: Callable[[str], None] = lambda text: None
    ) -> Iterator[None]:
        """Keep other runs from writing the same store; they wait. Raises ToolboxError where nothing can be written.

        - `waiting`: called when another run is at it.
        - `warn`: gets a message where nothing can be locked; other runs are then not kept out.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("a")
        except OSError as error:
            raise ToolboxError(
                f"No features can be stored in {self.folder}: {error.strerror or error}.",
                where="features.folder",
                hint="Choose a folder of yours: the override features.folder=DIR",
            ) from error
        with file:
            locked = try_lock(file)
            if locked is False:
                waiting()
                locked = try_lock(file, wait=True)
            if locked is None:
                warn(explain_missing_lock(str(self.folder)))
            yield

    def clean(self, missing: list[Shard]) -> None:
        """Remove what a killed process has left, and see that the disk has room. Raises ToolboxError if not."""
        for path in self.folder.glob(".*.partial"):
            with suppress(OSError):
                path.unlink()
        needed = sum(self.layout.bytes(shard.stop - shard.first) for shard in missing)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ToolboxError(
                f"The features need {needed / 2**20:,.0f} MiB, and {self.folder} has {free / 2**20:,.0f} MiB free.",
                where="features.folder",
                hint="Free some space, choose another disk, or a smaller features.dtype.",
            )

    def write(self, shard: Shard, rows: Tensor, record: dict[str, Any]) -> None:
        """Store a shard.

        - `rows`: (rows, width) float, those of an item one after another; those of unreadable items are ignored.
        - `record`: `ids`, `labels`, `roles`, lists of the items in order; `unreadable`, {index as text: message}; of
          texts also `texts`, the digests of those of each item.

        Raises ToolboxError naming items whose features are not finite, or too large for the dtype.
        """
        stored = rows.to(DTYPES[self.layout.dtype])
        counts = self.layout.count_rows({"first": shard.first, "stop": shard.stop} | record)
        owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        unread = torch.tensor([int(index) - shard.first for index in record["unreadable"]], dtype=torch.int64)
        stored[torch.isin(owners, unread)] = 0
        is_bad = ~stored.isfinite().all(1)
        if bad := owners[is_bad].unique().tolist():
            were_finite = bool(rows[is_bad].isfinite().all())
            names = ", ".join(str(record["ids"][place]) for place in bad[:3]) + (" ..." if len(bad) > 3 else "")
            what = f"are too large for {self.layout.dtype}" if were_finite else "hold NaN or infinity"
            hint = (
                "Set features.dtype to 'bf16' or 'fp32'."
                if were_finite
                else ("Look at these items, and at the weights; optim_wrapper.precision=fp32 overflows least.")
            )
            raise ToolboxError(f"The features of {len(bad)} items {what}: {names}.", where="features", hint=hint)
        write_shard(self.folder, shard, self.layout, stored, record)

    def begin(self, about: dict[str, Any]) -> None:
        """Write a manifest of an unfinished store, so that its shards can be used where it is never finished.

        - `about`: further entries of the manifest.
        """
        self._write_manifest(UNFINISHED, about)

    def finish(self, about: dict[str, Any]) -> None:
        """Write the manifest. Raises ToolboxError if a shard is not whole.

        - `about`: further entries of the manifest.
        """
        records = {shard.name: read_record(self.folder, shard, self.layout) for shard in self.layout.shards()}
        whole = {name: record for name, record in records.items() if record is not None}
        written = sum(record["bytes"] for record in whole.values())
        if absent := [name for name in records if name not in whole]:
            raise ToolboxError(
                f"{len(absent)} of {len(records)} shards of {self.folder} are not whole, such as {absent[0]}.",
                where="features.folder",
                hint="Do all processes see this folder? Start again: the others are kept.",
            )
        shards = {name: {key: record[key] for key in ("bytes", "sha256")} for name, record in whole.items()}
        unreadable = sum(len(record["unreadable"]) for record in whole.values())
        self._write_manifest(MANIFEST, {**about, "bytes": written, "unreadable": unreadable, "shards": shards})
        (self.folder / UNFINISHED).unlink(missing_ok=True)

    def _write_manifest(self, name: str, about: dict[str, Any]) -> None:
        layout = self.layout
        manifest = {
            "what": "Features of a frozen encoder, made to be read instead of computed again.",
            "items": layout.items,
            "views": layout.views,
            "width": layout.width,
            "dtype": layout.dtype,
            "bytes": layout.bytes(),
            "of": self.of,
            **about,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        path = self.folder / name
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            with new_file(path, hint="The shards that are complete are kept.") as beside:
                beside.write_text(text, encoding="utf-8", errors="backslashreplace")
