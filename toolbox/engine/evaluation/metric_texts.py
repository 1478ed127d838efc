"""The texts that metrics compare items with, encoded by the model that is evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolbox.base import gather
from toolbox.engine.data.batch_builder import InputSpec
from toolbox.engine.inference import run_over
from toolbox.engine.precision import Precision
from toolbox.plugin import Device
from toolbox.utils.model_io import find_unit_embeddings
from toolbox.utils.text_list import TextList


def encode_texts(
    model: nn.Module,
    texts: Sequence[str],
    inputs: dict[str, InputSpec],
    device: Device,
    precision: Precision,
    mode: str = "predict",
    *,
    alone: bool = True,
) -> Tensor | None:
    """Embeddings (N, D) of N texts, float32 rows of length 1 on the device; equal texts are encoded once.

    - `model`: what to call, in evaluation mode; `inputs`: its inputs, of which those that read texts are given to it.
    - `mode`: "predict", or "baseline" for the backbone alone.
    - `alone`: whether the model can be given texts alone. None is returned where it cannot, or reads none.
    """
    texts_only = {name: source for name, source in inputs.items() if source.field == "text"}
    if not texts_only or not (alone or texts_only == inputs):
        return None
    unique = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    places: list[int] = []
    rows: list[Tensor] = []
    stream = run_over(model, TextList(list(unique)), texts_only, device, precision, mode=mode, workers=0)
    for batch, outputs, is_own in stream:
        values = None if outputs is None else find_unit_embeddings(outputs, "text")
        if values is None:
            return None
        if is_own:
            places += batch.indices
            rows.append(values)
        elif not rows:  # the width, where no batch is this process's own
            rows.append(values[:0])
    place = torch.device(str(device))
    order = gather(torch.tensor(places, dtype=torch.long, device=place)).argsort()
    embeddings = gather(torch.cat(rows))[order]
    return embeddings[torch.tensor([unique[text] for text in texts], device=place)]
