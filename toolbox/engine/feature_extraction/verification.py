"""A second look at features that were stored before: some items are computed again and compared.

What the key does not see (a library, the code of a dataset, images without files) shows here.
"""

from __future__ import annotations

import random

import torch

from toolbox.base import Batch
from toolbox.engine.feature_extraction.extraction import Job
from toolbox.errors import ToolboxError
from toolbox.feature_cache.feature_store import FeatureStore

ITEMS = 4
TOLERANCE = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 3e-2}
"""Length of the difference over that of the features, by the coarser of the stored dtype and the precision."""


def check_some(store: FeatureStore, job: Job) -> None:
    """Compute `ITEMS` items again, the same for every run. Raises ToolboxError where one differs."""
    readable = [index for index in range(len(store)) if index not in store.unreadable]
    chosen = sorted(random.Random(0).sample(readable, min(ITEMS, len(readable))))
    builder = job.fetch(skip_bad=True)
    batch = builder.require_batch(builder[job.draws(chosen)]) if chosen else Batch()
    if batch.bad:
        index, message = batch.bad[0]
        raise ToolboxError(
            f"Item {index} of {type(job.dataset).__name__} was read when its features were stored, and cannot be read "
            f"now: {message}",
            where=job.where,
            hint=f"Mend the file, or remove {store.folder} to store anew.",
        )
    ((_, features),) = job.features([batch])
    if features is None:
        return
    allowed = max(TOLERANCE[store.layout.dtype], TOLERANCE[job.precision.name])
    for number, index in enumerate(chosen):
        now = torch.cat(list(features[number * job.calls : (number + 1) * job.calls]))
        count = store.views if store.row_counts is None else int(store.row_counts[index])
        then = store.rows([index] * count, range(count))
        error = ((now - then).norm() / then.norm().clamp(min=1e-12)).item() if len(now) == count else 1.0
        if not error <= allowed:
            raise ToolboxError(
                f"The stored features of item {store.ids[index]} differ by {error:.2%} from what '{job.name}' gives "
                f"now: {store.folder}.",
                where="features",
                hint="Something has changed that the store's key does not see: the code of the dataset or of the "
                "backbone, a library, or the data. Remove that folder, and it is made anew.",
            )
