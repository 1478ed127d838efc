"""Finds whoever calls a model, or a backbone of it, past the wrapper that several processes need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import toy_plugin
from toolbox_retrieval.embedder import Embedder
from torch import nn
from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState
from torch.nn.parallel import DistributedDataParallel

from toolbox.base import Model

FUNCTIONS = ("encode", "compute_loss", "predict", "baseline")


@contextmanager
def only_through_wrapper(mode: str) -> Iterator[dict[str, int]]:
    """Within, a call of a model that does not come through DDP, or FSDP's hooks, raises AssertionError.

    Gives how often models were called, by what for. Models on torch's meta device are not looked at.
    """
    active, called = {"wrapper": 0, "model": 0}, {}
    saved: list[tuple[type, str, Any]] = []

    def replace(owner: type, name: str, wrapped: Any) -> None:
        saved.append((owner, name, getattr(owner, name)))
        setattr(owner, name, wrapped)

    def within(what: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            active[what] += 1
            try:
                return function(*arguments, **named)
            finally:
                active[what] -= 1

        return call

    def counted(what: str, function: Any, step: int) -> Any:
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(self._modules[0], Model):  # not one of its blocks
                active[what] += step
            return function(self, *arguments, **named)

        return call

    def checked(what: str, where: str, function: Any) -> Any:
        def call(self: nn.Module, *arguments: Any, **named: Any) -> Any:
            if not next(self.parameters()).is_meta:
                assert active[where] > 0, f"{type(self).__name__}.{what} is called past its {where}"
            return function(self, *arguments, **named)

        return call

    def forward(self: Model, batch: Any, mode: str = "loss", representations: Any = None) -> Any:
        if not next(self.parameters()).is_meta:
            assert active["wrapper"] > 0, f"{type(self).__name__} is called past its wrapper, for {mode}"
            called[mode] = called.get(mode, 0) + 1
        return within("model", plain)(self, batch, mode, representations)

    plain = Model.forward
    replace(Model, "forward", forward)
    if mode == "ddp":
        original = DistributedDataParallel.forward
        replace(DistributedDataParallel, "forward", within("wrapper", original))
    else:
        replace(FSDPState, "_pre_forward", counted("wrapper", FSDPState._pre_forward, 1))
        replace(FSDPState, "_post_forward", counted("wrapper", FSDPState._post_forward, -1))
    for name in FUNCTIONS:
        replace(Embedder, name, checked(name, "model", getattr(Embedder, name)))
    replace(toy_plugin.Patches, "forward", checked("forward", "model", toy_plugin.Patches.forward))
    try:
        yield called
    finally:
        for owner, name, function in reversed(saved):
            setattr(owner, name, function)
