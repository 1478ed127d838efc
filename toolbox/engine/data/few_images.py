"""A few images of a dataset, for a look at what a model makes of real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import Backbone, Dataset, Model
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
from toolbox.engine.data.loader import ready

COUNT = 8


def few_images(dataset: Dataset, model: Model, backbone: Backbone) -> Tensor | None:
    """Images from all over a dataset as a model's backbone takes them, on the CPU, without augmentation.

    None where the backbone reads no images, or none of them can be read.
    """
    every = input_specs(model, training=True)
    name = next((name for name in every if model.inputs[name] is backbone), None)
    if name is None or backbone.modality != "image" or not len(dataset):
        return None
    count = min(COUNT, len(dataset))
    chosen = [round(number * (len(dataset) - 1) / max(count - 1, 1)) for number in range(count)]
    inputs = {name: every[name]}
    builder = BatchBuilder(dataset, inputs, skip_bad=True)
    batch = builder.require_batch(builder[list(enumerate(chosen))])
    return ready(batch, inputs, torch.device("cpu")).inputs[name] if len(batch) else None
