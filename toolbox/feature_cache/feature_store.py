"""Read a store: rows of any items at once, from memory-mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolbox.errors import ToolboxError, format_command
from toolbox.feature_cache.shards import ShardLayout, map_shard, read_record
from toolbox.feature_cache.writer import MANIFEST, read_manifest


class FeatureStore:
    """The features of a dataset, in the order of its items. Raises ToolboxError for a folder that holds no whole one.

    - `folder`: the store's own.
    - `ids`, `labels`, `roles`: of each item, as its sample said; None for an item that could not be read.
    - `unreadable`: {index: message} of the items that have no features.
    - `layout`: its shape; `of`: what it is of; `calls`: how often an item was augmented, 1 without augmentation.
    - `bytes`: on disk.
    - `row_counts`: (items,) how many texts each item has; None where the store holds no texts, but views.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise self._damaged(f"{MANIFEST} cannot be read")
        self.of: dict[str, Any] = manifest["of"]
        self.calls: int = manifest["calls"]
        self.bytes: int = manifest["bytes"]
        self.layout = ShardLayout(*(manifest[key] for key in ("items", "views", "width", "dtype")))
        shards = self.layout.shards()
        self.ids: list[int | str] = []
        self.labels: list[Any] = []
        self.roles: list[str | None] = []
        self.unreadable: dict[int, str] = {}
        self._parts: list[Tensor] = []
        texts: list[list[int]] = []
        for shard in shards:
            record = read_record(self.folder, shard, self.layout)
            if record is None:
                raise self._damaged(f"{shard.name} is not what was written")
            for name in ("ids", "labels", "roles"):
                getattr(self, name).extend(record[name])
            self.unreadable |= {int(index): message for index, message in record["unreadable"].items()}
            texts += record.get("texts") or []
            self._parts.append(map_shard(self.folder, shard, self.layout, record))
        counts = np.asarray([len(digests) for digests in texts], dtype=np.int64)
        self.row_counts = counts if self.layout.views is None else None
        self._first_rows = np.cumsum([0, *counts])  # of each item, where they are texts
        self._texts = torch.tensor([digest for digests in texts for digest in digests], dtype=torch.int64)
        self._per_shard = shards[0].stop if shards else 1
        whole = [label for index, label in enumerate(self.labels) if index not in self.unreadable]
        self._labels = None
        if None not in whole and whole:
            self._labels = torch.tensor([whole[0] if label is None else label for label in self.labels])

    def __len__(self) -> int:
        return self.layout.items

    @property
    def views(self) -> int:
        """How many views of each item there are. Raises ValueError for a store of texts."""
        if self.layout.views is None:
            raise ValueError(f"{self.folder} holds texts, and no views")
        return self.layout.views

    def rows(self, indices: Sequence[int] | np.ndarray, views: Sequence[int] | np.ndarray | int = 0) -> Tensor:
        """(len(indices), width) float32: of each item one view, or one text, in one gather.

        - `views`: which, for each item or for all.
        """
        items = np.asarray(indices, dtype=np.int64)
        part, place = np.divmod(items, self._per_shard)
        if self.row_counts is not None:
            place = self._first_rows[items] - self._first_rows[part * self._per_shard]
        else:
            place = place * self.views
        lines = torch.from_numpy(place + np.asarray(views, dtype=np.int64))
        if len(self._parts) == 1:
            return self._parts[0][lines].float()
        rows = torch.empty(len(items), self.layout.width)
        for number in np.unique(part):
            in_part = torch.from_numpy(np.flatnonzero(part == number))
            rows[in_part] = self._parts[number][lines[in_part]].float()
        return rows

    def texts_of(self, indices: Sequence[int] | np.ndarray, numbers: Sequence[int] | np.ndarray) -> Tensor:
        """(len(indices),) int64: the digest of one text of each item; `numbers`: which."""
        return self._texts[torch.from_numpy(self._first_rows[np.asarray(indices)] + np.asarray(numbers))]

    def get_labels(self, indices: Sequence[int]) -> Tensor | None:
        """The labels of readable items; None where one has none."""
        if self._labels is not None:
            return self._labels[torch.as_tensor(indices)]
        labels = [self.labels[index] for index in indices]
        return None if None in labels else torch.tensor(labels)

    def _damaged(self, reason: str) -> ToolboxError:
        return ToolboxError(
            f"{self.folder} holds no whole features: {reason}.",
            where="features.folder",
            hint=f"{format_command('extract')} makes and mends them.",
        )
