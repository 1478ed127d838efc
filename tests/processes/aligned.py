"""The gradients of dual encoders of several towers: what one process and several must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from contract_parts import Captions, Letters, Patches
from gradients import detached_gather, local_negatives, step_gradients, without_average
from toolbox_alignment.dual_encoder import DualEncoder
from torch import Tensor, nn

from toolbox.base import Batch
from toolbox.builtins.augment import RandomViews
from toolbox.builtins.projection import Projection
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
from toolbox.engine.data.batch_plan import share
from toolbox.engine.distributed.context import DistributedContext
from toolbox.registry import build
from toolbox.utils.tower import Tower

ROWS = 13
TOWERS = {"1:1": (1, 1), "3:1": (3, 1), "1:2": (1, 2)}
SETTINGS: dict[str, dict] = {
    "pairs": dict(weights={"image0-text0": 0.5}),
    "fused": dict(compare="fused"),
    "labels": dict(positives="labels"),
    "items": dict(positives="items"),
    "two views": dict(positives="items"),
    "dropout": dict(tower_dropout=0.5),
}
LOSSES = ("CLIP", "SigLIP")
MISTAKEN = (("1:1", "CLIP"), ("3:1", "SigLIP"), ("1:2", "CLIP"))
"""Which are also computed with a mistake, and sharded."""

WAYS = ("plain", "accumulated chunks")


class DoublePatches(Patches):
    """In double precision, without any chance."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim=dim)
        self.block[1] = nn.Dropout(0.0)

    def forward(self, inputs, *, layers=1, mask=None):
        return super().forward(inputs.double(), layers=layers, mask=mask)


def cases() -> Iterator[tuple[str, str, str, str]]:
    """(towers, loss, setting, way) of all that is looked at."""
    for towers in TOWERS:
        for loss in LOSSES:
            for setting in SETTINGS:
                if towers != "1:1" or setting in ("pairs", "labels", "items"):
                    ways = WAYS[:1] if setting == "two views" else WAYS  # images and texts then differ in rows
                    yield from ((towers, loss, setting, way) for way in ways)


def make_model(towers: str, loss: str, setting: str) -> DualEncoder:
    """A model in double precision, the same in every process."""
    torch.manual_seed(7)
    images, texts = TOWERS[towers]
    model = DualEncoder(
        {f"image{i}": Tower(DoublePatches(8 + 4 * i), "mean", Projection(dim=6)) for i in range(images)},
        {f"text{i}": Tower(Letters(dim=8 + 4 * i), "last", Projection(dim=6)) for i in range(texts)},
        build(dict(type=f"losses.{loss}"), "loss"),
        **(SETTINGS[setting] if towers != "1:1" or setting in ("labels", "items") else {}),
    )
    model.connect(4)
    model.seed = 3
    return model.double()


def read_share(model: DualEncoder, distributed: DistributedContext, views: int, number: int) -> Batch:
    """A process's share of a batch, some of whose texts are equal."""
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(number))[:ROWS].tolist()
    draws = [(number * 100 + place, index) for place, index in enumerate(chosen)]
    fetch = BatchBuilder(
        Captions(40), input_specs(model, training=True), augment=RandomViews(views=views) if views > 1 else None
    )
    return fetch[share(draws, distributed.rank, distributed.world_size, 1, 1)]


def everything(distributed: DistributedContext) -> dict[str, list[dict[str, Tensor]]]:
    """All cases; of two processes the mistakes too, and sharded models."""
    found = {}

    def look(key: str, towers: str, loss: str, setting: str, way: str, **options) -> None:
        model = make_model(towers, loss, setting)
        read = partial(read_share, model, distributed, 2 if setting == "two views" else 1)
        steps = 3 if setting == "dropout" else 1
        found[key] = step_gradients(distributed, model, read, way, steps=steps, **options)

    for case in cases():
        if distributed.world_size < 4 or case[-1] == "accumulated chunks":
            look("/".join(case), *case)
    if distributed.world_size == 2:
        for towers, loss in MISTAKEN:
            case = (towers, loss, "pairs", "plain")
            key = "/".join(case)
            look(f"not averaged:{key}", *case, wrap=without_average)
            look(f"fsdp:{key}", *case, mode="fsdp")
            with detached_gather():
                look(f"detached:{key}", *case)
            with local_negatives():
                look(f"local:{key}", *case)
    return found
