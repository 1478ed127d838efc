"""A model that a library knows whole, as a folder that the model writes itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolbox.base import Backbone, ExportedModel, Model
from toolbox.base.exported_backbone import run_lines
from toolbox.errors import ToolboxError
from toolbox.exporters import onnx_file
from toolbox.exporters.compare import compare
from toolbox.utils.messages import shorten_error


def writes_itself(model: Model) -> bool:
    """Whether a model has an `export` of its own, instead of one for each backbone."""
    return type(model).export is not Model.export


def assign_pixels(model: Model, parts: dict[str, Backbone], pixels: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each input of a model gets, of `pixels` for each of its backbones."""
    path_of = {id(backbone): path for path, backbone in parts.items()}
    return {name: pixels[path_of[id(backbone)]] for name, backbone in model.inputs.items()}


def export_whole(
    model: Model, folder: Path, *, parts: dict[str, Backbone], pixels: dict[str, Tensor], log: Callable[[str], None]
) -> tuple[ExportedModel, dict[str, Any], dict[str, float]]:
    """Let a model write itself into `folder`, and compare; returns its lines, the inputs and the largest differences.

    - `parts`: its backbones, whose adapters are put into the weights: a whole model has one set of them.
    - `pixels`: random images for each of them; `log`: called with a sentence for each comparison.

    Raises ToolboxError where it cannot be written, or gives other numbers.
    """
    for path, backbone in parts.items():
        if backbone.adapter is not None:
            backbone.adapter.merge()
            log(f"The adapter of {path} is merged: the model is written whole.")
    try:
        exported = model.export(folder)
    except ValueError as error:
        raise ToolboxError(f"{error}.", where="model", hint="Use the checkpoint by toolbox.load.") from error
    inputs = exported.inputs or assign_pixels(model, parts, pixels)
    with torch.no_grad():
        predicted = onnx_file.Predict(model, list(inputs))(*inputs.values())
    try:
        lines = [*exported.imports, *exported.load, *exported.outputs]
        outputs = run_lines(lines, folder=str(folder), inputs=inputs)["outputs"]
        same = sorted(outputs.keys() & predicted.keys())
    except Exception as error:  # every library has its own way to fail
        raise ToolboxError(
            f"{exported.library} cannot use what the model wrote ({type(error).__name__}: {shorten_error(error)}).",
            hint="Nothing was left behind.",
        ) from error
    if not same:
        raise ToolboxError(
            f"The export cannot be compared: its lines give {', '.join(outputs) or 'nothing'}, and the model "
            f"{', '.join(predicted)}."
        )
    by = exported.library
    return exported, inputs, {name: compare(f"{name} by {by}", predicted[name], outputs[name], log) for name in same}


def write_whole_readme(
    folder: Path, exported: ExportedModel, origin: dict[str, Any], *, classes: list[str] | None, onnx: bool
) -> None:
    """Write README.md: where the model is from, and the lines that use it."""
    code = [*exported.imports, "", 'folder = "."  # this folder', *exported.load, *(exported.usage or exported.outputs)]
    text = [
        "# A model, exported",
        f"Trained with vision-encoder-toolbox; exported from {origin['checkpoint']}, step {origin['step']}. Loaded by "
        f"{exported.library} alone:",
        "```python\n" + "\n".join(code) + "\n```",
        *exported.notes,
    ]
    if classes is not None:
        text.append(f"classes.json holds the names of the {len(classes)} classes that it was trained on.")
    if onnx:
        text.append("model.onnx is the whole model, from finished inputs to what it predicts.")
    (folder / "README.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
