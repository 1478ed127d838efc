"""Encoders with their pool and head: text towers as folders that take strings, image towers of several as lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Backbone, ExportedBackbone, Features, Model, l2_normalize
from toolbox.base.exported_backbone import run_lines
from toolbox.errors import ToolboxError
from toolbox.exporters.compare import compare
from toolbox.exporters.export_readme import ExportedPart
from toolbox.utils.messages import shorten_error
from toolbox.utils.sentence_folder import append_dense, append_normalize
from toolbox.utils.tower import Tower

TEXTS = ["a red apple", "two green pears on a wooden table, and a knife beside them", "x", "Ein Boot am Ufer, 1890."]
"""What is compared: of several lengths, so that some are padded."""

_ENCODE = "embedding = model.encode(texts, convert_to_tensor=True)"


def export_text_tower(
    model: Model, path: str, backbone: Backbone, root: Path, where: str, log: Callable[[str], None]
) -> tuple[ExportedPart, dict[str, float]]:
    """Write the text encoder at `path` of a model, and what its tower makes of it, into `root`/`where`.

    An adapter is put into the weights: sentence-transformers reads one folder. A linear head becomes a part of the
    folder; of another one the lines read head.safetensors.

    Returns the part, and the largest differences. Raises ToolboxError where the library gives other numbers.
    """
    if backbone.adapter is not None:
        backbone.adapter.merge()
        log(f"The adapter of {path} is merged: a folder of texts is written whole.")
    folder = root / where
    try:
        exported = backbone.export(folder)
    except ValueError as error:
        raise ToolboxError(f"{error}.", where=f"model.{path}") from error
    part = ExportedPart(path, where, exported, adapted=False)
    preprocess = backbone.preprocess()
    with torch.no_grad():
        features = backbone(preprocess.finish(preprocess.collate([preprocess(text) for text in TEXTS])))
    pooled = _run(part, root)["pooled"]
    differences = {path: compare(f"texts of {path} by {exported.library}", features.tokens[:, 0], pooled, log)}
    place, tower = find_tower(model, backbone)
    if tower is None:
        return part, differences
    embeddings = _embed(model, tower, features)
    if embeddings is None:
        exported.notes.append("The model's pool is not the encoder's own: pool `tokens` of the encoder as it does.")
        return part, differences
    head = tower.head if uses_head(model) else None
    _add_head(part, folder, head, f"{place}.head".lstrip("."), tower.pool.dim(backbone.dim))
    result = _run(part, root)
    if "embedding" in result:
        name = f"embedding of {path}"
        differences[name] = compare(f"embeddings of {path} by {exported.library}", embeddings, result["embedding"], log)
    return part, differences


def write_image_lines(model: Model, backbone: Backbone) -> tuple[list[str], Tower | None]:
    """Lines from `tokens` of an image tower to its embedding, and the tower; none where they cannot be written."""
    place, tower = find_tower(model, backbone)
    if tower is None:
        return [], None
    try:
        lines = tower.pool.in_plain_torch(f"{place}.pool")
        lines += [] if tower.head is None else tower.head.in_plain_torch(f"{place}.head")
    except ValueError:
        return [], None
    if tower.pool.keeps_tokens:
        return [], None
    return [*lines, "embedding = F.normalize(x, dim=-1)"], tower


def embed_images(tower: Tower, pixels: Tensor) -> Tensor:
    """The embeddings of an image tower, of length 1."""
    with torch.no_grad():
        return l2_normalize(tower.apply_head(tower.pool(tower.backbone(pixels))).float())


def find_tower(model: Model, backbone: Backbone) -> tuple[str, Tower | None]:
    """The tower of a backbone and its path in the model; None where it stands in none."""
    for path, module in model.named_modules():
        if isinstance(module, Tower) and module.backbone is backbone:
            return path, module
    return "", None


def uses_head(model: Model) -> bool:
    """Whether what a model predicts has passed its head."""
    return getattr(model, "predicts_through_head", True) or not isinstance(model, Tower)


def find_linear_map(head: nn.Module, width: int) -> tuple[Tensor, Tensor] | None:
    """(weight (out, in), bias (out,)) of a head that is a linear map in evaluation mode; None of another one."""
    with torch.no_grad():
        inputs = torch.randn(8, width, generator=torch.Generator().manual_seed(0))
        bias = head(torch.zeros(1, width))[0]
        weight = (head(torch.eye(width)) - bias).T
        outputs = head(inputs)
    if outputs.ndim != 2 or not torch.allclose(inputs @ weight.T + bias, outputs, rtol=1e-4, atol=1e-5):
        return None
    return weight, bias


def _embed(model: Model, tower: Tower, features: Features) -> Tensor | None:
    """The embeddings of a tower, of length 1; None where its pool does not give the encoder's own vectors."""
    with torch.no_grad():
        pooled = tower.pool(features)
        own = features.tokens[:, 0]
        if pooled.shape != own.shape or not torch.allclose(pooled, own, rtol=1e-4, atol=1e-5):
            return None
        return l2_normalize((tower.apply_head(pooled) if uses_head(model) else pooled).float())


def _add_head(part: ExportedPart, folder: Path, head: nn.Module | None, name: str, width: int) -> None:
    """Make a head, and length 1, a part of the folder, or else lines after the pooled vectors."""
    linear = None if head is None else find_linear_map(head, width)
    if (folder / "modules.json").is_file() and (head is None or linear is not None):
        if linear is not None:
            weight, bias = linear
            append_dense(folder, weight, bias if bias.any() else None)
        append_normalize(folder)
        part.exported.texts = [_ENCODE]
        return
    lines = ["x = pooled"]
    if head is not None:
        try:
            lines += head.in_plain_torch(name)  # type: ignore[operator]
        except (AttributeError, ValueError) as error:
            part.exported.notes.append(f"The embedding is not computed above: {error}.")
            return
    part.embedding = [*lines, "embedding = F.normalize(x, dim=-1)"]


def _run(part: ExportedPart, root: Path) -> dict[str, Any]:
    """What the README's lines give for `TEXTS`."""
    exported: ExportedBackbone = part.exported
    try:
        return run_lines(part.code(with_data=False), root=str(root), texts=TEXTS)
    except ImportError as error:
        raise ToolboxError(
            f"The export of {part.path} needs {exported.library}: {error}.",
            hint=f"python -m pip install {exported.library}",
        ) from error
    except Exception as error:  # every library has its own way to fail
        raise ToolboxError(
            f"{exported.library} cannot load what was exported of {part.path} "
            f"({type(error).__name__}: {shorten_error(error)}).",
            hint="Nothing was left behind.",
        ) from error
