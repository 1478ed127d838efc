"""Whether the model can do with the batches it will get, asked of the first one, without a picture or a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from toolbox.base import Batch, Dataset, Model, Sampler
from toolbox.engine.data.samples import read_sample
from toolbox.errors import Problem


class Ids(Sequence):
    """The ids of items, read from the dataset only if somebody asks."""

    def __init__(self, dataset: Dataset, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Any:
        return read_sample(self.dataset, self.indices[place])["id"]

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))


def problems(model: Model, dataset: Dataset, sampler: Sampler, views: dict[str, int]) -> list[Problem]:
    """What the model's `compute_loss` refuses in the first batch: its blocks, views, labels or ids.

    - `model`: on torch's meta device. Where values are needed, or the loss is computed in one piece, nothing is known,
      and nothing is said.
    - `sampler`: set up for `dataset`.
    - `views`: how many views an item has for each of the model's inputs.
    """
    sizes = {name: source.size for name, source in model.preprocess().items()}
    if None in sizes.values() or type(model).encode is Model.encode:
        return []
    indices = [index for _, index in sampler.draws(0)]
    count, labelled = len(indices), dataset.labels is not None
    images = {name: torch.empty(views[name] * count, 3, *size, device="meta") for name, size in sizes.items()}
    labels = torch.empty(count, dtype=torch.long, device="meta") if labelled else None
    batch = Batch(
        inputs=images, views=views, labels=labels, ids=Ids(dataset, indices), indices=indices, blocks=sampler.blocks
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(batch, "compute_loss", model(batch, "encode"))
    except ValueError as error:
        return [] if "meta" in str(error) else [Problem(f"{str(error).rstrip('.')}.", "model")]
    except (ArithmeticError, LookupError, NotImplementedError, OSError, RuntimeError, TypeError):
        return []  # no value, or no picture: nothing is known
    finally:
        model.train(was_training)
    return []
