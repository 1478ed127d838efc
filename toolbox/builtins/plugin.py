"""The built-in plugin, namespace `core`: it comes through the same door as any other plugin."""

from __future__ import annotations

import re
from pathlib import Path

from toolbox.plugin import Command, Component, Device, Kind, hookimpl


@hookimpl
def toolbox_kinds() -> list[Kind]:
    return [Kind("tower", "toolbox.utils.tower:Tower", "one side of a model with several: backbone, pool and head")]


@hookimpl
def toolbox_components() -> list[Component]:
    return [
        Component(
            "model",
            "PooledFeatures",
            "toolbox.builtins.pooled_features:PooledFeatures",
            "a backbone and its pool, without a head",
        ),
        Component(
            "quantize",
            "Quantize",
            "toolbox.builtins.quantizing.quantize:LinearQuantization",
            "linear layers in 4 or 8 bits",
            default=True,
        ),
        Component(
            "tune",
            "Tune",
            "toolbox.builtins.tune:BackboneTuning",
            "frozen, LoRA, last blocks or full training",
            ("peft",),
            default=True,
        ),
        Component("pool", "Pool", "toolbox.utils.pool:TokenPool", "cls, mean, cls+mean, gem or last token"),
        Component("tower", "Tower", "toolbox.utils.tower:Tower", "a backbone, its pool and a head", default=True),
        Component("head", "Projection", "toolbox.builtins.projection:Projection", "one linear layer or an MLP"),
        Component(
            "head", "BNNeck", "toolbox.builtins.bn_neck:BNNeck", "batch norm without shift, after a linear layer"
        ),
        Component("dataset", "FewItems", "toolbox.builtins.few_items:FewItems", "a few items of another dataset"),
        Component("sampler", "Shuffled", "toolbox.builtins.samplers:Shuffled", "a new random order every epoch"),
        Component("sampler", "Sequential", "toolbox.builtins.samplers:Sequential", "the order of the dataset"),
        Component(
            "augment", "Augment", "toolbox.builtins.augment:RandomViews", "random crop, flip, rotation, color ..."
        ),
        Component("mix", "Mix", "toolbox.builtins.mix:MixupCutMix", "Mixup and CutMix"),
        Component("optimizer", "AdamW", "toolbox.builtins.optim:AdamW", "Adam with decoupled weight decay"),
        Component(
            "optimizer",
            "AdamW8bit",
            "toolbox.builtins.optim:AdamW8bit",
            "AdamW with its state in 8 bits",
            ("bitsandbytes",),
        ),
        Component("optimizer", "SGD", "toolbox.builtins.optim:SGD", "gradient descent with momentum"),
        Component(
            "schedule", "WarmupCosine", "toolbox.builtins.schedules:WarmupCosine", "linear warm-up, then a cosine"
        ),
        Component("schedule", "Constant", "toolbox.builtins.schedules:Constant", "the same learning rate throughout"),
        Component("hook", "TensorBoard", "toolbox.builtins.trackers:TensorBoard", "event files", ("tensorboard",)),
        Component("hook", "WandB", "toolbox.builtins.trackers:WandB", "logs to Weights & Biases", ("wandb",)),
        Component("hook", "Trackio", "toolbox.builtins.trackers:Trackio", "logs with Trackio, locally", ("trackio",)),
        Component("hook", "SwanLab", "toolbox.builtins.trackers:SwanLab", "logs to SwanLab", ("swanlab",)),
        Component("hook", "MLflow", "toolbox.builtins.trackers:MLflow", "logs with MLflow", ("mlflow",)),
        Component("hook", "EarlyStop", "toolbox.builtins.early_stop:EarlyStop", "ends a run that no longer improves"),
    ]


@hookimpl
def toolbox_commands() -> list[Command]:
    summaries = {
        "train": "train a recipe, or check it without training",
        "test": "evaluate a checkpoint, or a pretrained backbone",
        "embed": "write the embeddings of images, or of a recipe's data, to a file",
        "export": "write a trained model as a folder that other libraries load",
        "list_components": "list all components, or show one with its arguments",
        "prepare_data": "download, convert or check a dataset",
        "audit_data": "find duplicates, leaks between splits and unreadable files in a recipe's data",
        "extract": "compute and cache the features of a recipe's frozen backbones",
        "cache": "list or remove cached features",
        "recipes": "list the installed recipes, and the plugins that each needs",
        "compare": "compare runs, and show the items whose result differs",
    }
    return [Command(name, f"toolbox.cli.{name}:main", summary) for name, summary in summaries.items()]


@hookimpl
def toolbox_config_dirs() -> list[str]:
    package = Path(__file__).parents[1]
    checkout = package.parent
    in_checkout = (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir()
    return [str((checkout if in_checkout else package) / "configs")]


@hookimpl
def toolbox_foreign_keys() -> list[str]:
    return [str(Path(__file__).with_name("foreign_keys.toml"))]


@hookimpl
def toolbox_device(requested: str) -> Device | None:
    """cpu and cuda. "auto" is cuda where there is one, else cpu; an absent GPU raises ValueError."""
    match = re.fullmatch(r"(auto|cpu|cuda)(?:(?<=cuda):(\d+))?", requested)
    if match is None:
        return None
    import torch

    name, index = match[1], None if match[2] is None else int(match[2])
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return Device("cpu", "gloo", precisions=("fp32", "bf16"), fused_optimizer=True)
    if not torch.cuda.is_available():
        raise ValueError(f"'{requested}' was asked for, and torch finds no usable GPU here. Try device='cpu'.")
    count = torch.cuda.device_count()
    if index is not None and index >= count:
        raise ValueError(
            f"'{requested}' was asked for, and the last GPU here is cuda:{count - 1}. "
            f"Try device='cuda:{count - 1}' or device='cpu'."
        )
    precisions = ("fp32", "fp16", "bf16") if torch.cuda.is_bf16_supported() else ("fp32", "fp16")
    return Device("cuda", "nccl", index=index, precisions=precisions, fused_optimizer=True)
