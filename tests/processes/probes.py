"""Linear probes in a step of the engine: what one process and several must agree on. Run by worker.py."""

from __future__ import annotations

import torch
from gradients import DEVICE, Double
from toolbox_classification import probe
from toolbox_classification.probe import Probe
from torch import Tensor
from toy_plugin import Noise, ToTensor

from toolbox.builtins.optim import SGD
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
from toolbox.engine.data.batch_plan import share
from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.distributed.parallel import spread
from toolbox.engine.distributed.tensors import whole
from toolbox.engine.param_groups import parameter_groups
from toolbox.engine.precision import Precision
from toolbox.engine.train_step import TrainStep

ROWS, REPEATS = 13, 2  # 13 rows are shared unevenly
CASES = {"plain": 1, "accumulated": 2}


def updated(distributed: DistributedContext, accumulated: int, mode: str) -> dict[str, Tensor]:
    """A probe's parameters after one step, its loss, and what it predicts once a head is chosen."""
    torch.manual_seed(11)
    model = Probe(Double(), ["mean"], [0.1, 1.0], repeats=REPEATS)
    model.connect(5)
    model.double()
    precision = Precision("fp32", DEVICE)
    parallel = spread(model, distributed, {"mode": mode, "find_unused_parameters": None}, DEVICE, precision, idle=False)
    model.train()
    optimizer = SGD(lr=1.0)
    groups = parameter_groups(model, optimizer, {})
    step = TrainStep(parallel, groups, lambda found: optimizer.build(found, fused=False), [], precision)
    fetch = BatchBuilder(
        Noise(count=40, per_class=8, seed=3), {"image": InputSpec("image", ToTensor(8))}, blocks=REPEATS
    )
    batches = []
    for number in range(accumulated):
        chosen = torch.randperm(40, generator=torch.Generator().manual_seed(number))[: ROWS * REPEATS].tolist()
        batches.append(fetch[share(list(enumerate(chosen)), distributed.rank, distributed.world_size, REPEATS)])
    step(batches, 0, 1)
    found = {name: whole(parameter.detach()).clone() for name, parameter in model.named_parameters()}
    found["loss"] = torch.tensor(step.read()["loss"])
    model.on_validation_end({name: float(number) for number, name in enumerate(model.names())})
    model.eval()
    with torch.no_grad():
        found["logits"] = parallel.module(fetch[list(enumerate(range(6)))], "predict")["logits"].clone()
    return found


def everything(distributed: DistributedContext) -> dict[str, dict[str, Tensor]]:
    """All cases; with several processes also through a sharded model."""
    modes = ["ddp", "fsdp"] if distributed.world_size > 1 else ["ddp"]
    found = {f"{mode}:{name}": updated(distributed, count, mode) for name, count in CASES.items() for mode in modes}
    kept, probe.gather = probe.gather, lambda x: x  # a mistake: each process takes the mean of its own rows
    try:
        return found | {"mistake": updated(distributed, 1, "ddp")}
    finally:
        probe.gather = kept
