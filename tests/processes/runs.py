"""Whole runs by several processes; what they leave in their folders is looked at afterwards."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from wrapped import only_through_wrapper

import toolbox
from toolbox.engine.console import QuietConsole
from toolbox.engine.distributed.context import DistributedContext
from toolbox.errors import ToolboxError
from toolbox.registry import add_local

RECIPE = Path(__file__).parent.parent / "toy_recipe.py"
KEEP = dict(type="processes.Keep")
SHORT = {
    "train_cfg": dict(max_steps=6, val_interval=3),
    "default_hooks.checkpoint.interval": 3,
}
# what sharded runs must do like replicated ones
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "optim_wrapper.accumulative_counts": 2,
        "optim_wrapper.grad_cache.chunk_size": 3,
        "optim_wrapper.layer_decay": 0.5,
        "optim_wrapper.clip_grad.max_norm": 0.1,
        "optim_wrapper.average": dict(decay=0.6, start=0.3),
        "train_dataloader.sampler": dict(type="retrieval.PK", classes=3, per_class=3),
    },
    "lora": {"model.backbone.tune": dict(type="core.Tune", mode="lora", rank=2)},
    "no registers": {
        "model.backbone": dict(type="processes.NoRegisters"),
        "optim_wrapper.average": dict(decay=0.6, start=0.3),
    },
    "frozen": {"model.backbone.tune": dict(type="core.Tune", mode="frozen")},
    "skipped": {
        "model.loss": dict(type="processes.Explodes"),
        "optim_wrapper.on_nonfinite": "skip",
        "optim_wrapper.clip_grad": None,
    },
    "bf16": {"optim_wrapper.precision": "bf16"},
    "classifier": {
        "model": dict(
            type="classification.Classifier",
            backbone=dict(type="toy.Patches", tune=dict(mode="full")),
            pool="mean",
            head=dict(type="classification.MLP"),
            loss=dict(type="losses.CrossEntropy", label_smoothing=0.1),
        ),
        "train_dataloader.mix": dict(type="core.Mix"),
    },
}
# dropout of another number of processes is drawn otherwise
ALL_KEPT = {"default_hooks.checkpoint.max_keep_ckpts": 9}
STEADY = {"model.backbone.dropout": 0.0, **ALL_KEPT}
REFUSED: dict[str, dict[str, Any]] = {
    "batch norm": {"model.head": dict(type="core.Projection", dim=8, norm="batch")},
    "small batch": {"train_dataloader.sampler": dict(type="core.Shuffled", batch_size=1)},
    "own numbers": {"val_evaluator": dict(type="processes.Own")},
    "other plugin": {"custom_hooks": [dict(type="mixed.Nothing")]},
}
MIXED = '''
from toolbox.base import Hook
from toolbox.plugin import Component, hookimpl

namespace = "mixed"


@hookimpl
def toolbox_components():
    return [Component("hook", "Nothing", f"{__name__}:Nothing", "does nothing")]


class Nothing(Hook):
    """Of process PROCESS."""
'''


class Noted(QuietConsole):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def show(self, text: str) -> None:
        self.said.append(text)


def train(
    distributed: DistributedContext, folder: Path, mode: str, options: dict[str, Any], **how: Any
) -> dict[str, Any]:
    """A run of the toy recipe in `folder`: its results, and "said", what it told."""
    recipe = toolbox.load_config(RECIPE, {**options, "env_cfg.parallel.mode": mode})
    console = Noted()
    return toolbox.train(recipe, out=folder, console=console, distributed=distributed, device="cpu", **how) | {
        "said": console.said
    }


def everything(distributed: DistributedContext, folder: Path) -> dict[str, Any]:
    """Two processes run all; another number of them goes on from what these have left."""
    if distributed.world_size != 2:
        source = folder / "steady-fsdp" / "checkpoint-4"
        return {
            "resumed": train(
                distributed, folder / f"steady-by-{distributed.world_size}", "fsdp", STEADY, resume=str(source)
            )
        }
    found: dict[str, Any] = {}
    for mode in ("ddp", "fsdp"):
        for name, options in SETTINGS.items():
            hooks = {"custom_hooks": [KEEP]}
            found[f"{name}-{mode}"] = train(distributed, folder / f"{name}-{mode}", mode, {**SHORT, **options, **hooks})
        found |= resumed(distributed, folder, mode)
        found |= catch_plugin_error(distributed, folder, mode)
    train(distributed, folder / "steady-fsdp", "fsdp", STEADY)
    return found | {"refused": refused(distributed, folder)}


def resumed(distributed: DistributedContext, folder: Path, mode: str) -> dict[str, Any]:
    """A run with dropout, and the same one continued from two of its checkpoints."""
    options = {
        **ALL_KEPT,
        "custom_hooks": [dict(type="processes.Draw")],
        "optim_wrapper.average": dict(decay=0.8, start=0.2),
    }
    found = {f"whole-{mode}": train(distributed, folder / f"whole-{mode}", mode, options)}
    for step in (4, 8):
        source, target = folder / f"whole-{mode}", folder / f"from-{step}-{mode}"
        if distributed.is_main:
            _copy(source, target, step)
        distributed.barrier()
        found[target.name] = train(distributed, target, mode, options, resume=True)
    return found


def _copy(source: Path, target: Path, step: int) -> None:
    """What a run that died after `step` had left."""
    shutil.copytree(source, target, symlinks=True)
    for path in target.glob("checkpoint-*"):
        if int(path.name.partition("-")[2]) > step:
            shutil.rmtree(path)


def catch_plugin_error(distributed: DistributedContext, folder: Path, mode: str) -> dict[str, Any]:
    """A run in which nobody may call the model past its wrapper, and runs in which somebody does."""
    found: dict[str, Any] = {}
    test = {"test_dataloader": dict(dataset=dict(type="toy.Noise", seed=2), batch_size=16, num_workers=0)}
    test |= {"test_evaluator": dict(type="toy.Nearest"), "evaluate_pixels": True}
    for name, options in {"plain": test, "chunks": {"optim_wrapper.grad_cache.chunk_size": 2}}.items():
        with only_through_wrapper(mode) as called:
            train(distributed, folder / f"guarded-{name}-{mode}", mode, {**SHORT, **options})
        found[f"guarded-{name}-{mode}"] = called
    for function in (None,) if mode == "ddp" else ("forward", "predict", "encode"):
        hooks = {"custom_hooks": [dict(type="processes.Past", function=function)]}
        name = f"past-{function}-{mode}"
        with only_through_wrapper(mode), contextlib.suppress(AssertionError):
            train(distributed, folder / name, mode, {**SHORT, **hooks})
            found[name] = "nobody noticed"
    return found


def refused(distributed: DistributedContext, folder: Path) -> dict[str, str]:
    """What recipes that several processes cannot run are told."""
    plugin = folder / f"process-{distributed.rank}" / "mixed_plugin.py"
    plugin.parent.mkdir()
    plugin.write_text(MIXED.replace("PROCESS", str(distributed.rank)))
    add_local([str(plugin)])
    found = {}
    for name, options in REFUSED.items():
        try:
            train(distributed, folder / f"refused-{name}", "ddp", options)
        except ToolboxError as error:
            found[name] = str(error)
    return found
