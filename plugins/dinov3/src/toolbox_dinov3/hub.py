"""Weights of released encoders: from the local cache, else from the Hub, else the steps that get them."""

from __future__ import annotations

from pathlib import Path

from toolbox.utils import hub
from toolbox_dinov3.ids import COMPONENTS, Known

FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")


def snapshot(known: Known, revision: str | None, timm: bool = False) -> Path:
    """The folder with the weights of `known` at `revision` (None: main).

    - `timm`: from timm's repository instead of the authors'.

    Raises OSError, with the steps to take, when they cannot be had.
    """
    repository = known.timm_id if timm else known.id

    def message(reason: str) -> str:
        return steps(known, repository, revision, reason)

    return hub.snapshot(repository, FILES, is_complete, message, revision)


def is_complete(folder: Path) -> bool:
    """Whether the configuration and at least one weight file are there."""
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def steps(known: Known, repository: str, revision: str | None, reason: str) -> str:
    """The message for weights that cannot be had: `reason`, then what to do, in order."""
    folder = f"weights/{known.short}" + ("" if repository == known.id else "-timm")
    at = f" --revision {revision}" if revision else ""
    todo = [
        "In mainland China: export HF_ENDPOINT=https://hf-mirror.com",
        f"hf download {repository}{at} --local-dir {folder}",
        f"Run again with the override model.backbone.name={folder}",
    ]
    if repository == known.id:  # timm's copies can be downloaded by anyone
        todo = [f"Accept the licence, signed in, at https://huggingface.co/{repository}", "hf auth login", *todo]
    copy = f"\nOr take timm's copy, which anyone can download: the override model.backbone.name=timm/{known.timm}"
    lines = "\n".join(f"  {number}. {step}" for number, step in enumerate(todo, start=1))
    return (
        f"The weights of {COMPONENTS[known.family]} {known.short!r} ({repository}) are not on this machine: {reason}.\n"
        f"{lines}{copy if repository == known.id else ''}\n"
        f"Or try the recipe with random weights: the override model.backbone.weights=False"
    )
