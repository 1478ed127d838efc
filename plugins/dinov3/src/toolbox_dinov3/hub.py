"""Weights of released encoders: from the local cache, else from the Hub, else the steps that get them."""

from __future__ import annotations

from pathlib import Path

from toolbox.utils import hub
from toolbox_dinov3.ids import COMPONENTS, ReleasedModel

FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")


def snapshot(known: ReleasedModel, revision: str | None, timm: bool = False) -> Path:
    """The folder with the weights of `known` at `revision` (None: main).

    - `timm`: from timm's repository instead of the authors'.

    Raises OSError, with the steps to take, when they cannot be had.
    """
    repository = known.timm_id if timm else known.id

    def message(reason: str) -> str:
        return describe_steps(known, repository, revision, reason)

    return hub.snapshot(repository, FILES, is_complete, message, revision)


def is_complete(folder: Path) -> bool:
    """Whether the configuration and at least one weight file are there."""
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def describe_steps(known: ReleasedModel, repository: str, revision: str | None, reason: str) -> str:
    """The message for weights that cannot be had: `reason`, then what to do, in order."""
    subject = f"The weights of {COMPONENTS[known.family]} {known.short!r} ({repository}) are"
    if repository != known.id:  # timm's copies can be downloaded by anyone
        folder, alternatives = f"weights/{known.short}-timm", [hub.RANDOM_WEIGHTS]
        return hub.format_download_steps(
            subject, repository, folder, reason, revision=revision, alternatives=alternatives
        )
    access = [f"Accept the licence, signed in, at https://huggingface.co/{repository}", "hf auth login"]
    copy = f"Or take timm's copy, which anyone can download: the override model.backbone.name=timm/{known.timm}"
    return hub.format_download_steps(
        subject,
        repository,
        f"weights/{known.short}",
        reason,
        revision=revision,
        access=access,
        alternatives=[copy, hub.RANDOM_WEIGHTS],
    )
