"""The images and texts that an evaluation has seen, and which belong together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, gather, get_dist_info
from toolbox.utils.ranking import normalize_rows


@dataclass(frozen=True)
class ImageTextPairs:
    """I images and T texts that all differ, and which of them match.

    - `images`: (I, D), `texts`: (T, D), float32 rows of length 1.
    - `image_of`, `text_of`: (P,) the image and the text of each matching pair, by image, then text; each pair once.
    - `ids`, `indices`: of the images, by their place in the dataset.
    - `sources`: (T, 2) where each text stands first: the item's index, and which of its texts it is.
    """

    images: Tensor
    texts: Tensor
    image_of: Tensor
    text_of: Tensor
    ids: list[int | str]
    indices: list[int]
    sources: Tensor


class PairAccumulator:
    """Embeddings of the images and of all texts of every item, over batches and processes.

    - `metric`: its name, for messages; `image_output`, `text_output`: the model's outputs to keep.
    """

    def __init__(self, metric: str, image_output: str = "embeddings", text_output: str = "text_embeddings") -> None:
        self.metric, self.image_output, self.text_output = metric, image_output, text_output
        self._images: list[Tensor] = []
        self._texts: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._text_keys: list[Tensor] = []
        self._ids: list[int | str] = []

    def add(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take in a batch. Raises ValueError where outputs or what the batch tells of its texts do not fit."""
        for name in (self.image_output, self.text_output):
            if name not in outputs:
                raise ValueError(f"{self.metric} reads the model's '{name}', and this model gives {sorted(outputs)}")
        images, texts = (outputs[name].detach().float() for name in (self.image_output, self.text_output))
        owners, digests = (next(iter(values.values()), None) for values in (batch.owners, batch.texts))
        if owners is None or digests is None:
            raise ValueError(f"{self.metric} compares images with texts, and this batch tells of no texts")
        if not (len(images) == len(batch) == len(batch.indices) and len(texts) == len(owners) == len(digests)):
            raise ValueError(
                f"there are {len(images)} embeddings of images for {len(batch)} items, and {len(texts)} of texts for "
                f"{len(owners)} texts"
            )
        place = images.device
        indices = torch.as_tensor(list(batch.indices), dtype=torch.long, device=place)
        self._images.append(images)
        self._texts.append(texts)
        self._indices.append(indices)
        self._text_keys.append(torch.stack([indices[owners.to(place)], digests.to(place)], dim=1))
        self._ids += batch.ids

    def pairs(self) -> ImageTextPairs:
        """Everything that all processes saw; equal texts are one, which matches all of their images.

        Raises ValueError where nothing was seen, and where an item was seen twice.
        """
        images, texts, indices, keys, ids = self._gather()
        order = indices.argsort()
        indices, images, ids = indices[order], images[order], [ids[row] for row in order.tolist()]
        if (indices[1:] == indices[:-1]).any():
            raise ValueError(f"{self.metric} takes every item once, and some were given twice")
        owners, digests = keys.unbind(1)
        by_owner = owners.argsort(stable=True)
        owners, digests, texts = owners[by_owner], digests[by_owner], texts[by_owner]
        first, number = _number_by_first(digests)
        image_of = torch.searchsorted(indices, owners)
        starts = torch.searchsorted(owners, owners)
        joined = torch.unique(image_of * len(first) + number)
        return ImageTextPairs(
            images=normalize_rows(images),
            texts=normalize_rows(texts[first]),
            image_of=joined // len(first),
            text_of=joined % len(first),
            ids=ids,
            indices=indices.tolist(),
            sources=torch.stack([owners, torch.arange(len(owners), device=owners.device) - starts], dim=1)[first],
        )

    def _gather(self) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int | str]]:
        """What all processes saw, in rank order; one of them may have seen nothing."""
        ids, widths, device = self._ids, (0, 0), "cpu"
        if self._images:
            widths = self._images[0].shape[1], self._texts[0].shape[1]
            device = self._images[0].device.type
        if get_dist_info()[1] > 1:
            parts: list = [None] * get_dist_info()[1]
            dist.all_gather_object(parts, (ids, widths, device))
            ids = [name for part in parts for name in part[0]]
            widths, device = max(part[1:] for part in parts)
        if not ids:
            raise ValueError(f"{self.metric} saw no item at all")
        place = self._images[0].device if self._images else torch.device(device)
        images = torch.cat([torch.zeros(0, widths[0], device=place), *self._images])
        texts = torch.cat([torch.zeros(0, widths[1], device=place), *self._texts])
        indices = torch.cat([torch.zeros(0, dtype=torch.long, device=place), *self._indices])
        keys = torch.cat([torch.zeros(0, 2, dtype=torch.long, device=place), *self._text_keys])
        return gather(images), gather(texts), gather(indices), gather(keys), list(ids)


def _number_by_first(values: Tensor) -> tuple[Tensor, Tensor]:
    """(U,) where each different value stands first, in that order; and (N,) which of them each value is."""
    _, group = values.unique(return_inverse=True)
    places = torch.arange(len(values), device=values.device)
    count = int(group.max()) + 1
    first = torch.full((count,), len(values), device=values.device).scatter_reduce(0, group, places, "amin")
    order = first.argsort()
    number = torch.empty_like(order)
    number[order] = torch.arange(count, device=values.device)
    return first[order], number[group]
