"""How a model is called and its gradients are averaged: alone, replicated (DDP), or sharded (FSDP2)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from toolbox.base import Model, Optimizer
from toolbox.base.functional import gather_integers
from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.parts import backbones, modules_on_path
from toolbox.engine.precision import DTYPES, Precision
from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import Device

_SYNC_BUFFERS = next(  # what torch calls it by version
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)
_BUCKET = 2**25  # numbers averaged in one call


class Parallel:
    """One process: the model itself is called, and its gradients are complete.

    - `module`: what to call instead of the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module = model

    def held_back(self) -> AbstractContextManager:
        """Within, gradients stay with this process, and are added up there."""
        return nullcontext()

    def passes(self, own: int) -> int:
        """How often the model is called for a batch that this process would call it `own` times for."""
        return own

    def finish(self, held_back: bool) -> None:
        """Average what is not averaged yet; `held_back`: all backward passes of the step were in `held_back`."""


class Replicated(Parallel):
    """Every process holds the model; gradients are averaged while the backward pass goes on."""

    def __init__(self, model: nn.Module, device: torch.device, find_unused: bool) -> None:
        self.model = model
        # of depthwise convolutions: strides over a dimension of size one, where nothing is lost
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        self.replica = DistributedDataParallel(
            model,
            device_ids=None if device.type == "cpu" else [device],
            find_unused_parameters=find_unused,
            gradient_as_bucket_view=True,
            **options,
        )
        super().__init__(self.replica)

    def held_back(self) -> AbstractContextManager:
        return self.replica.no_sync()

    def finish(self, held_back: bool) -> None:
        if held_back:
            _average(parameter for parameter in self.model.parameters() if parameter.requires_grad)


class Sharded(Parallel):
    """Every process holds a part of each tensor, gathers a block's when it is computed, and lets them go again.

    With bf16, blocks are gathered and computed in bf16, what they pass on included; what is outside of them, gradients
    and the optimizer stay in float32.
    """

    def __init__(self, model: Model, device: torch.device, precision: Precision, size: int) -> None:
        super().__init__(model)
        # nothing here changes in place what the model returns; of what its blocks return, torch may warn
        warnings.filterwarnings("ignore", message=rf"FSDP2-wrapped module \({type(model).__name__}\) returned a view")
        mesh = init_device_mesh(device.type, (size,))
        # single numbers, such as a learned temperature, cannot be cut; in one order in all processes, for averaging
        self._whole = [parameter for parameter in model.parameters() if parameter.ndim == 0]
        whole = set(self._whole)
        for parameter in model.parameters():
            if not parameter.numel():  # registers of a net without any: FSDP's backward finds no gradient for it
                parameter.requires_grad_(False)
        kind = DTYPES.get(precision.name)
        policy = MixedPrecisionPolicy(kind, reduce_dtype=kind and torch.float32)
        for backbone in backbones(model).values():
            for block in backbone.layers():
                fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=whole)
        # also what is outside of blocks is let go at once: between two calls nothing may hold whole tensors
        fully_shard(model, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
        model.to(device)  # what is not cut: buffers and single numbers
        if device.type == "cpu":  # gloo adds up where torch 2.8 asks it for the mean, and does not say so
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.set_force_sum_reduction_for_comms(True)

    def passes(self, own: int) -> int:
        # every call gathers weights from all processes, and their shares of a batch may differ by a row
        return max(count for (count,) in gather_integers(own, device=torch.device("cpu")))

    def finish(self, held_back: bool) -> None:
        _average(parameter for parameter in self._whole if parameter.requires_grad)


def spread(
    model: Model,
    distributed: DistributedContext,
    settings: dict[str, Any],
    device: Device,
    precision: Precision,
    *,
    idle: bool,
) -> Parallel:
    """Put a model on its device, and its calls and gradients on all processes.

    - `settings`: the recipe's `env_cfg.parallel`.
    - `idle`: whether some trained parameters may get no gradient, so that DDP must look for them at every step.

    Raises ToolboxError for what several processes would compute otherwise than one.
    """
    on = torch.device(str(device))
    if distributed.world_size == 1:
        model.to(on)
        return Parallel(model)
    _synchronise_norms(model, on)
    if settings["mode"] == "fsdp":
        if precision.scaler is not None:
            raise ToolboxError(
                "fp16's gradient scaling is not made for sharded weights.",
                where="optim_wrapper.precision",
                hint="Use bf16, or env_cfg.parallel.mode=ddp.",
            )
        return Sharded(model, on, precision, distributed.world_size)
    model.to(on)
    find = settings["find_unused_parameters"]
    return Replicated(model, on, idle if find is None else find)


def problems(settings: dict[str, Any], optimizer: Optimizer) -> list[Problem]:
    """What does not go together with how a model is spread.

    - `settings`: the recipe's `env_cfg.parallel`.
    """
    if settings["mode"] != "fsdp" or optimizer.shardable:
        return []
    message = f"{type(optimizer).__name__} cannot update weights that are spread over processes."
    hint = "Use core.AdamW, whose state is spread too, or env_cfg.parallel.mode=ddp."
    return [Problem(message, "optim_wrapper.optimizer", hint)]


def _synchronise_norms(model: Model, device: torch.device) -> None:
    """Let batch norms that train see all processes' rows. Raises ToolboxError for one that cannot."""
    model.train()
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or not module.training:
            continue
        if any(getattr(owner, "gathers_rows", False) for owner in modules_on_path(model, path)[:-1]):
            continue  # its owner gathers the rows of all processes
        if device.type == "cpu" or type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise ToolboxError(
                f"{type(module).__name__} takes its statistics from one process's share of the batch, which changes "
                "training.",
                where=f"model.{path}",
                hint="Use another norm, freeze this part, or set norm_stats='frozen' in its backbone's tune; on a GPU, "
                "torch's own batch norms are synchronised.",
            )
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, nn.SyncBatchNorm.convert_sync_batchnorm(module))


def _average(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over processes, many in one call; one that is absent here counts as zeros if others have it."""
    parameters = list(parameters)
    if not parameters:
        return
    # a process whose rows never reach a parameter has no gradient for it, and must still take part; told on the CPU,
    # so that nothing waits for the device
    have = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    dist.all_reduce(have, op=dist.ReduceOp.MAX)
    for parameter, has in zip(parameters, have.tolist(), strict=True):
        if has and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _split_into_buckets(parameter.grad for parameter in parameters if parameter.grad is not None):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _split_into_buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in order, those of one dtype together, about `_BUCKET` numbers at a time."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (gradient.dtype != bucket[0].dtype or sum(map(Tensor.numel, bucket)) >= _BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
