"""The gradients of the engine's own step, for every loss: what one process and several must agree on.

A case is a loss, a way to make batches, and a way to go through them. Run by worker.py in 1, 2 and 4 processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from toolbox_classification.classifier import Classifier
from toolbox_retrieval.embedder import Embedder
from toy_plugin import Noise, Patches, ToTensor

import toolbox.base.loss
from toolbox.base import Batch, Model, gather, get_dist_info
from toolbox.base.functional import gather_integers
from toolbox.builtins.augment import RandomViews
from toolbox.builtins.bn_neck import BNNeck
from toolbox.builtins.mix import MixupCutMix
from toolbox.builtins.optim import SGD
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
from toolbox.engine.data.batch_plan import share
from toolbox.engine.data.mixing import PAIR
from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.distributed.parallel import Parallel, spread
from toolbox.engine.distributed.tensors import whole
from toolbox.engine.grad_cache import GradCache
from toolbox.engine.param_groups import parameter_groups
from toolbox.engine.precision import Precision
from toolbox.engine.train_step import TrainStep
from toolbox.plugin import Device
from toolbox.registry import build

DEVICE = Device("cpu", "gloo")
PAIRS = ("alone", "two views", "cross", "paired", "negatives", "few")
LABELLED = ("alone", "two views", "cross", "few")
AMONG = ("alone", "two views", "few")  # the memory compares no views

SUPCON = dict(type="losses.SupCon")
# name of a loss of the plugin -> (arguments, the ways of making batches that it takes) for each variant to look at
LOSSES: dict[str, list[tuple[dict[str, Any], tuple[str, ...]]]] = {
    "SupCon": [({}, PAIRS), (dict(neck=True), ("two views", "cross"))],  # a batch norm, over all rows of all processes
    "InfoNCE": [({}, PAIRS), (dict(hardest=3), PAIRS), (dict(symmetric=True), ("cross", "paired", "negatives"))],
    "Triplet": [
        (dict(margin=0.3), PAIRS),
        (dict(margin=0.3, miner="hard", distance="cosine"), PAIRS),
        (dict(margin=0.3, miner="semi"), PAIRS),
    ],
    "MultiSimilarity": [({}, PAIRS), (dict(mine=True), PAIRS)],
    "Circle": [(dict(gamma=16.0), PAIRS)],
    "RecallAtK": [(dict(rank_temperature=0.1), PAIRS)],
    "ProxyAnchor": [({}, LABELLED)],
    "ArcFace": [({}, LABELLED)],
    "SubCenterArcFace": [({}, LABELLED)],
    "CrossEntropy": [
        ({}, ("alone", "two views", "few", "mixed")),
        (dict(label_smoothing=0.1), ("mixed", "alone")),
    ],
    "CoSENT": [({}, PAIRS), (dict(within_anchor=True), PAIRS)],
    "SigLIP": [({}, PAIRS)],
    "CLIP": [({}, PAIRS)],
    "MaxSim": [({}, PAIRS), (dict(reduce="sum", temperature=1.0), ("alone",))],
    "Distillation": [
        (dict(temperature=0.2), PAIRS),
        (dict(kind="mse"), PAIRS),
        (dict(kind="embedding"), PAIRS),
    ],
    "Sum": [(dict(losses=[SUPCON, dict(type="losses.Distillation", temperature=0.2)], weights=[1, 0.5]), PAIRS)],
    "Matryoshka": [
        (dict(loss=SUPCON, dims=[8, 3]), PAIRS),
        (dict(loss=dict(type="losses.ProxyAnchor"), dims=[8, 5], weights=[1, 0.5]), LABELLED),
    ],
    "CrossBatchMemory": [(dict(loss=SUPCON, size=40), AMONG)],
}
STEPS = {"CrossBatchMemory": 3}
WAYS = {"plain": (1, None), "accumulated": (2, None), "chunks": (1, 3), "accumulated chunks": (2, 3)}


class Double(Patches):
    """Tokens of images in double precision, without any chance."""

    def __init__(self) -> None:
        super().__init__(width=8, size=8, dropout=0.0)

    def forward(self, inputs, *, layers=1, mask=None):
        return super().forward(inputs.double(), layers=layers, mask=mask)


class Explicit(Embedder):
    """Blocks from the third on are explicit negatives, and no label tells what is positive.

    The processes have unequal numbers of them: the first two rows of a batch, and no other, have one.
    """

    def compute_loss(self, representations, batch):
        if batch.blocks < 3:
            return super().compute_loss(representations, batch)
        embeddings, teacher = representations["embeddings"], representations.get("teacher")
        count = len(embeddings) // 3
        kept = [*range(count, 2 * count), *(2 * count + row for row, first in enumerate(batch.first) if first)]
        taught = {} if teacher is None else {"teacher": teacher[:count], "ref_teacher": teacher[kept]}
        return {"loss": self.criterion(embeddings[:count], ref_embeddings=embeddings[kept], **taught)}


def cases() -> Iterator[tuple[str, dict[str, Any], str, str]]:
    """(key, the loss, how batches are made, how a step goes through them)."""
    for name, variants in LOSSES.items():
        for number, (arguments, makings) in enumerate(variants):
            for making in makings:
                ways = WAYS if making == makings[0] else ("plain", "accumulated chunks") if number == 0 else ("plain",)
                if "neck" in arguments:  # chunks cannot give the statistics of a batch
                    ways = ("plain", "accumulated")
                for way in ways:
                    yield f"{name}.{number}/{making}/{way}", dict(type=f"losses.{name}", **arguments), making, way


def model_for(loss: dict[str, Any], making: str) -> Embedder | Classifier:
    """A model in double precision, the same in every process."""
    torch.manual_seed(7)
    head = BNNeck(6) if loss.get("neck") else None
    criterion = build({key: value for key, value in loss.items() if key != "neck"}, "loss")
    if criterion.reads_logits:
        model = Classifier(Double(), "mean", loss=criterion)
        model.connect(5)
        return model.double()
    kind = Explicit if making == "negatives" else Embedder
    model = kind(
        Double(),
        "tokens" if criterion.reads_tokens else "mean",
        head,
        criterion,
        cross_view=making in ("cross", "paired"),
        teacher=Double() if criterion.needs_teacher else None,
        teacher_pool="mean",
    )
    model.connect(5)
    return model.double()


@cache
def batch_for(taught: bool, making: str, number: int, rank: int, size: int) -> Batch:
    """A process's share of a batch of 13 rows, or of 5 for "few"; `taught`: for a model with a teacher too."""
    rows, blocks = 5 if making == "few" else 13, {"paired": 2, "negatives": 3}.get(making, 1)
    dataset = Noise(count=40, per_class=8, seed=3)
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(number))[: rows * blocks].tolist()
    if making == "few":  # of two classes, so that there is something to compare
        chosen = [0, 9, 1 + number, 10, 3]
    draws = [(number * 100 + place, index) for place, index in enumerate(chosen)]
    views = 2 if making in ("two views", "cross") else 1
    inputs = {name: InputSpec("image", ToTensor(8)) for name in ("image", "teacher")[: 1 + taught]}
    mix, together = (MixupCutMix(), PAIR) if making == "mixed" else (None, 1)
    fetch = BatchBuilder(dataset, inputs, augment=RandomViews(views=views), blocks=blocks, mix=mix)
    own = share(draws, rank, size, blocks, together)
    batch = fetch[own]
    batch.first = [draw % 100 < 2 for draw, _ in own[: len(own) // blocks]]
    if making in ("paired", "negatives"):
        batch.labels = None
    return batch


def gradients(
    distributed: DistributedContext,
    loss: dict[str, Any],
    making: str,
    way: str,
    *,
    mode: str = "ddp",
    wrap: Callable[..., Parallel] = spread,
) -> list[dict[str, Tensor]]:
    """Each step's gradients by parameter, as the optimizer finds them, and the loss."""
    model = model_for(loss, making)
    is_taught = "teacher" in model.inputs

    def read(number: int) -> Batch:
        return batch_for(is_taught, making, number, distributed.rank, distributed.world_size)

    steps = STEPS.get(loss["type"].partition(".")[2], 1)
    return step_gradients(distributed, model, read, way, steps=steps, mode=mode, wrap=wrap)


def step_gradients(
    distributed: DistributedContext,
    model: Model,
    read: Callable[[int], Batch],
    way: str,
    *,
    steps: int = 1,
    mode: str = "ddp",
    wrap: Callable[..., Parallel] = spread,
) -> list[dict[str, Tensor]]:
    """The same of any model, in double precision.

    - `read`: gives this process's share of the batch of a number; `way`: of `WAYS`.
    """
    accumulated, chunk = WAYS[way]
    precision = Precision("fp32", DEVICE)
    settings = {"mode": mode, "find_unused_parameters": None}
    parallel = wrap(model, distributed, settings, DEVICE, precision, idle=False)
    cache = GradCache(parallel.module, chunk, precision, DEVICE) if chunk else None
    model.train()
    optimizer = SGD(lr=0.05)
    groups = parameter_groups(model, optimizer, {})
    step = TrainStep(
        parallel, groups, lambda found: optimizer.build(found, fused=False), [], precision, grad_cache=cache
    )
    found: list[dict[str, Tensor]] = []

    def keep(*_: Any) -> None:
        found.append(
            {
                name: whole(parameter.grad).clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        )

    step.optimizer.register_step_pre_hook(keep)
    for number in range(steps):
        model.before_step(number, steps)
        step([read(number * accumulated + part) for part in range(accumulated)], number, steps)
        model.after_step(number, steps)
        found[-1] |= {f"{name} after": buffer.clone().double() for name, buffer in model.named_buffers()}
        losses = [scalars["loss"] for _, scalars in step._parts]
        found[-1]["loss"] = torch.stack(losses).mean()  # the logged one is rounded
        found[-1] |= {f"logged {name}": torch.tensor(value) for name, value in step.read().items()}
    return found


def without_average(model: Embedder, *_: Any, **__: Any) -> Parallel:
    """A mistake: every process keeps its own gradients."""
    return Parallel(model)


@contextmanager
def local_negatives() -> Iterator[None]:
    """Another one: each process compares its own rows alone."""
    module = toolbox.base.loss
    kept = module.gather_all, module.gather_refs
    module.gather_all, module.gather_refs = lambda x: x, lambda x, rows: x
    try:
        yield
    finally:
        module.gather_all, module.gather_refs = kept


@contextmanager
def detached_gather() -> Iterator[None]:
    """The usual mistake: rows of other processes arrive without gradient."""

    def detached(x: Tensor) -> Tensor:
        everything = gather(x.detach())
        if not x.requires_grad:
            return everything
        counts = [count for (count,) in gather_integers(len(x), device=x.device)]
        parts = list(everything.split(counts))
        parts[get_dist_info()[0]] = x
        return torch.cat(parts)

    toolbox.base.loss_rows.gather = detached
    try:
        yield
    finally:
        toolbox.base.loss_rows.gather = gather


def everything(distributed: DistributedContext) -> dict[str, list[dict[str, Tensor]]]:
    """All cases; of several processes the mistakes too, and sharded models."""
    found = {
        key: gradients(distributed, loss, making, way)
        for key, loss, making, way in cases()
        if distributed.world_size < 4 or way in ("plain", "accumulated chunks")
    }
    if distributed.world_size == 1:
        return found
    for name, variants in LOSSES.items():
        loss, making = dict(type=f"losses.{name}", **variants[0][0]), variants[0][1][0]
        key = f"{name}.0/{making}"
        found[f"not averaged:{key}/plain"] = gradients(distributed, loss, making, "plain", wrap=without_average)
        with detached_gather():
            found[f"detached:{key}/plain"] = gradients(distributed, loss, making, "plain")
        for way in ("plain", "accumulated chunks"):
            found[f"fsdp:{key}/{way}"] = gradients(distributed, loss, making, way, mode="fsdp")
    return found
