"""Which device a run uses, how many threads, and what torch can tell of it."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

import numpy as np
import torch

from toolbox.base import set_max_image_pixels
from toolbox.engine.distributed.rank_info import RankInfo
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.registry import get_catalog


def choose_device(requested: str, place: RankInfo | None = None) -> Device:
    """The device that a plugin offers for `requested`: "auto", "cpu", "cuda:1", "npu" ...

    - `place`: this process's among several, each of which gets a device of its own.
    """
    device = _offered(requested)
    if place is not None and place.world_size > 1 and device.type != "cpu":
        if device.index is not None and place.local_world_size > 1:
            raise ToolboxError(
                f"{place.local_world_size} processes on this machine cannot share {device}.",
                where="device",
                hint=f"Use device='{device.type}': each process then gets one of its own.",
            )
        # SLURM may show each process its own device alone, as the first
        alone = "SLURM_LOCALID" in os.environ and torch.get_device_module(device.type).device_count() == 1
        index = 0 if alone else place.local_rank
        device = device if device.index is not None else _offered(f"{device.type}:{index}")
    if device.index is not None and device.type != "cpu":
        torch.get_device_module(device.type).set_device(device.index)  # generators and memory are those of this one
    return device


def _offered(requested: str) -> Device:
    try:
        device = get_catalog().device(requested)
    except ValueError as error:
        raise ToolboxError(str(error), where="device") from error
    if device is None:
        raise ToolboxError(f"No plugin offers the device '{requested}'.", where="device", hint="Try device='cpu'.")
    return device


def set_threads(threads: int | None, processes: int = 1) -> int:
    """Threads of torch's CPU operations. The default does not depend on the number of data workers, since sums are
    split by thread: a run's bits must not change with its workers.

    - `processes`: of the run on this machine, which share its cores.
    """
    count = threads or max(1, cores() // (2 * processes))
    torch.set_num_threads(count)
    return count


def limit_images(recipe: dict[str, Any]) -> None:
    """Let this process read images up to the recipe's `env_cfg.max_image_pixels`, which may be left out."""
    try:
        set_max_image_pixels((recipe.get("env_cfg") or {}).get("max_image_pixels"))
    except ValueError as error:
        raise ToolboxError(f"{error}.", where="env_cfg.max_image_pixels") from error


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(device: Device) -> int:
    """Largest memory so far in bytes: allocated on the device, or resident in this process on a CPU; 0 if unknown."""
    module = torch.get_device_module(device.type)
    if device.type != "cpu" and hasattr(module, "max_memory_allocated"):
        return module.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seed_everything(seed: int) -> None:
    """Every generator that a model may draw from: torch's on all devices, NumPy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state(device: Device) -> dict[str, Any]:
    """The generators that a model may draw from."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    numpy_state = (kind, np.asarray(keys).tolist(), *rest)
    state: dict[str, Any] = {"cpu": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy_state}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device.type).get_rng_state()
    return state


def set_random_state(device: Device, state: dict[str, Any]) -> None:
    """Take back `random_state`; a state of another device type is left aside."""
    torch.set_rng_state(state["cpu"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    if device.type in state and device.type != "cpu":
        torch.get_device_module(device.type).set_rng_state(state[device.type])
