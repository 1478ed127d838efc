"""Fine-tuning speed: images a second, and the share of the device's own matrix rate that a step makes use of."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.grad_cache import make_image_batch
from benchmarks.timing import measure_seconds
from toolbox.base import Batch, Model
from toolbox.engine import speed
from toolbox.engine.assemble import apply_tuning, build_structure
from toolbox.engine.device import choose_device, cores, set_threads
from toolbox.engine.distributed.parallel import Parallel
from toolbox.engine.param_groups import parameter_groups
from toolbox.engine.precision import DTYPES, Precision
from toolbox.engine.train_step import TrainStep
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.registry import build

PROMISE = 0.45
"""Share of the measured matrix rate, of ViT-B/16 at 224 pixels in bf16 with compiled blocks on an NVIDIA GPU."""

VARIANTS = {
    "plain": {"compile": False, "channels_last": False},
    "compiled": {"compile": True, "channels_last": False},
    "channels_last": {"compile": False, "channels_last": True},
    "compiled_channels_last": {"compile": True, "channels_last": True},
}
_SMALL: dict[str, dict[str, Any]] = {
    "small": {
        "type": "dinov3.ViT",
        "name": None,
        "arch": {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768},
    },
    "demo": {
        "type": "dinov3.ConvNeXt",
        "name": None,
        "arch": {"hidden_sizes": [32, 64, 128, 192], "depths": [1, 1, 2, 1], "layer_scale_init_value": 1.0},
    },
}
_ON_CPU = {"small": (96, 16), "demo": (32, 128)}


def run(
    *,
    pairs: int = 7,
    backbone: str = "auto",
    size: int = 0,
    batch: int = 0,
    steps: int = 0,
    device: str = "auto",
    variants: str = "auto",
) -> dict[str, Any]:
    """Time steps of the engine's own `TrainStep` on a batch that lies on the device, the variants in turn.

    - `backbone`: a name of dinov3.ViT, "type:name" of another component ("namespace.Name:name"), "small" (a ViT) or
      "demo" (the demo's ConvNeXt); "auto" is vitb16, and small on a CPU. Weights are random and all of them train.
    - `size`: pixels a side; `batch`: images; 0 is 224 and 128, on a CPU 96 and 16.
    - `steps`: a measurement; 0 is 20, on a CPU 4.
    - `variants`: of `VARIANTS`, with commas between; "auto" is plain and compiled, on a CPU plain.

    Computes in bf16, on a CPU in fp32. Floating-point operations are counted in one plain step, forward and backward;
    the device's rate is that of its fastest square matrix product in the same precision. Returns for each variant
    "images_per_second_<variant>", "tflops_<variant>", "share_<variant>" (of that rate) and "ratio_<variant>" (plain
    seconds / its own), the `spread` of plain against plain, and the names of device and precision.
    """
    chosen = choose_device(device)
    on_cpu = chosen.type == "cpu"
    if on_cpu:
        set_threads(None)
    backbone = ("small" if on_cpu else "vitb16") if backbone == "auto" else backbone
    default = _ON_CPU.get(backbone, (96, 16)) if on_cpu else (224, 128)
    size, batch, steps = size or default[0], batch or default[1], steps or (4 if on_cpu else 20)
    names = choose_variants(("plain,compiled" if not on_cpu else "plain") if variants == "auto" else variants)
    precision = "fp32" if on_cpu else "bf16"
    images = make_image_batch(batch, size, str(chosen))
    updates = {name: _make_step(_make_recipe(backbone, size), VARIANTS[name], chosen, precision) for name in names}
    with FlopCounterMode(display=False) as counter:  # a product of matrices: a multiplication and an addition
        updates["plain"]([images], 0, 1)
    flops = counter.get_total_flops()
    stretches = {name: _stretch(update, images, steps, chosen) for name, update in updates.items()}
    for warm_up in stretches.values():
        warm_up(3)
    rate = measure_matmul_rate(chosen, DTYPES.get(precision, torch.float32))
    # in turn, the plain one once more each time
    rounds = [([stretch() for stretch in stretches.values()], stretches["plain"]()) for _ in range(pairs)]
    seconds = dict(zip(names, map(list, zip(*(row for row, _ in rounds), strict=True)), strict=True))
    repeats = [again / plain for (plain, *_), again in rounds]
    # others may have used the device
    rate = max(rate, measure_matmul_rate(chosen, DTYPES.get(precision, torch.float32)))
    return {
        "name": "throughput",
        "device": get_device_name(chosen),
        "backbone": backbone,
        "size": size,
        "batch": batch,
        "precision": precision,
        "matmul_tflops": rate / 1e12,
        "gflops_per_image": flops / batch / 1e9,
        "spread": [min(repeats), max(repeats)],
        "promise": PROMISE,
        **_summarize(seconds, batch * steps, flops * steps, rate),
    }


def choose_variants(names: str) -> list[str]:
    """The plain variant, and those with commas between. Raises ToolboxError for one that is not there."""
    variants = list(dict.fromkeys(["plain", *names.split(",")]))
    if unknown := sorted(set(variants) - VARIANTS.keys()):
        raise ToolboxError(f"There is no variant {', '.join(unknown)}.", hint=f"There are: {', '.join(VARIANTS)}.")
    return variants


def _summarize(seconds: dict[str, list[float]], images: int, flops: int, rate: float) -> dict[str, Any]:
    """The numbers of each variant; `images`, `flops`: of one measurement, `rate`: of the device."""
    numbers: dict[str, Any] = {}
    for name, measured in seconds.items():
        median = statistics.median(measured)
        numbers |= {
            f"images_per_second_{name}": images / median,
            f"tflops_{name}": flops / median / 1e12,
            f"share_{name}": flops / median / rate,
            f"ratio_{name}": statistics.median(a / b for a, b in zip(seconds["plain"], measured, strict=True)),
            f"seconds_{name}": measured,
        }
    return numbers


def measure_matmul_rate(device: Device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the fastest of several square matrix products, best of five each."""
    where = torch.device(str(device))
    best = 0.0
    for side in (512, 1024, 2048) if device.type == "cpu" else (2048, 4096, 8192, 16384):
        a, b = (torch.randn(side, side, device=where, dtype=dtype) for _ in range(2))
        out = torch.empty(side, side, device=where, dtype=dtype)
        repeat = max(1, (10**10 if device.type == "cpu" else 2 * 10**13) // (2 * side**3))

        def products(a: Any = a, b: Any = b, out: Any = out, repeat: int = repeat) -> None:
            for _ in range(repeat):
                torch.mm(a, b, out=out)

        products(repeat=1)
        best = max(best, *(2 * side**3 * repeat / _measure_seconds(products, device) for _ in range(5)))
    return best


def get_device_name(device: Device) -> str:
    """The device's own name."""
    if device.type != "cpu":
        return torch.get_device_module(device.type).get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} of {cores()} cores"


def _make_recipe(backbone: str, size: int) -> dict[str, Any]:
    component, _, name = backbone.rpartition(":")
    structure = _SMALL.get(backbone) or {"type": component or "dinov3.ViT", "name": name}
    return {
        "type": "retrieval.Embedder",
        "backbone": structure | {"size": size, "weights": False},
        "head": {"type": "core.Projection", "dim": 128},
        "loss": {"type": "losses.SupCon"},
    }


def _make_step(recipe: dict[str, Any], switches: dict[str, bool], device: Device, precision: str) -> TrainStep:
    torch.manual_seed(0)
    where = torch.device(str(device))
    model: Model = build_structure({"model": recipe}, classes=2).to(where).train()
    apply_tuning(model)
    speed.prepare(model, switches, where)
    optimizer = build({"type": "core.AdamW", "lr": 1e-5}, "optimizer")
    return TrainStep(
        Parallel(model),
        parameter_groups(model, optimizer, {}),
        lambda groups: optimizer.build(groups, device.fused_optimizer),
        [],
        Precision(precision, device),
        max_norm=1.0,
    )


def _stretch(update: TrainStep, batch: Batch, steps: int, device: Device) -> Callable[..., float]:
    """A function that takes some steps and returns the seconds, the device's work included."""

    def take(count: int) -> None:
        for step in range(count):
            update([batch], step, count)

    return lambda count=steps: _measure_seconds(lambda: take(count), device)


def _measure_seconds(action: Callable[[], Any], device: Device) -> float:
    wait = (lambda: None) if device.type == "cpu" else torch.get_device_module(device.type).synchronize

    def run_and_wait() -> None:
        action()
        wait()

    wait()
    return measure_seconds(run_and_wait)
