"""A trained model as a folder for other libraries, checked by loading it with them before it appears."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from toolbox.base import Backbone, Model
from toolbox.base.exported_backbone import run_lines
from toolbox.base.files import check_folder
from toolbox.engine.checkpoint.files import as_json, new_folder
from toolbox.engine.parts import backbones, model_state
from toolbox.errors import ToolboxError
from toolbox.exporters import onnx_file
from toolbox.exporters.compare import compare
from toolbox.exporters.export_readme import ExportedPart, write_readme
from toolbox.exporters.towers import embed_images, export_text_tower, write_image_lines
from toolbox.exporters.whole import assign_pixels, export_whole, write_whole_readme, writes_itself
from toolbox.utils.messages import shorten_error

RECORD = "export.json"
_HINT = "Choose another folder."
_USE = "Use the checkpoint by toolbox.load."


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise ToolboxError where an export could not be written, to be asked before long work.

    - `overwrite`: whether an earlier export may be replaced; nothing else ever is.
    """
    try:
        if target.exists() and not target.is_dir():
            raise ToolboxError(f"{target} is a file.", hint=_HINT)
        if target.is_dir() and any(target.iterdir()):
            if not (target / RECORD).is_file():
                raise ToolboxError(f"{target} is not empty, and holds no earlier export.", hint=_HINT)
            if not overwrite:
                raise ToolboxError(f"{target} holds an export already.", hint=f"{_HINT[:-1]}, or give overwrite=True.")
        above = target.absolute().parent
        while not above.exists():
            above = above.parent
        check_folder(above, hint="Choose a folder of yours.")
    except OSError as error:
        reason = error.strerror or error
        raise ToolboxError(f"{target} cannot be written: {reason}.", hint="Choose a folder of yours.") from error


def export(
    model: Model,
    target: Path,
    *,
    origin: dict[str, Any],
    classes: list[str] | None = None,
    merge: bool,
    onnx: bool,
    log: Callable[[str], None],
) -> dict[str, float]:
    """Write the folder `target`; returns the largest differences that were found, by what was compared.

    - `model`: ready to encode, on the CPU. `merge`, and `onnx` too, leave it without adapters; so does a model that
      writes itself (`Model.export`).
    - `origin`: what the record of the export says of where the model is from.
    - `classes`: the names of the classes of the training data, None where nobody knows them.
    - `merge`: put adapters into the weights, instead of beside their base.
    - `onnx`: also write the whole model's `predict` as model.onnx.
    - `log`: called with a sentence for each comparison.

    Raises ToolboxError, and leaves nothing, where a backbone has no export, or what was written gives other numbers.
    """
    model.eval()
    parts = backbones(model)
    whole = writes_itself(model)
    _check_parts(parts, merge=merge, whole=whole, onnx=onnx)
    pixels = {path: _draw_pixels(backbone) for path, backbone in parts.items() if backbone.modality == "image"}
    if onnx:
        try:
            model.prepare_export()
        except ValueError as error:
            raise ToolboxError(f"This model cannot become model.onnx: {error}.", hint="Or leave onnx out.") from error
    with new_folder(target, hint="Free some space, or choose another folder.") as folder, _explain_full_disk():
        if classes is not None:
            (folder / "classes.json").write_text(json.dumps(classes, indent=0) + "\n", encoding="utf-8")
        if whole:
            exported, inputs, differences = export_whole(model, folder, parts=parts, pixels=pixels, log=log)
            record = {"library": exported.library, "merged": True}
            write_whole_readme(folder, exported, origin, classes=classes, onnx=onnx)
        else:
            written, differences = _export_parts(model, folder, parts, pixels, origin, classes, merge, onnx, log)
            inputs = assign_pixels(model, parts, pixels) if onnx else {}
            record = {"library": {part.path: part.exported.library for part in written}, "merged": merge}
        if onnx:
            differences |= onnx_file.write(model, folder / "model.onnx", inputs, log, classes=classes)
        record = {**origin, **record, "differences": differences}
        (folder / RECORD).write_text(as_json(record), encoding="utf-8")
    return differences


def _export_parts(
    model: Model,
    folder: Path,
    parts: dict[str, Backbone],
    pixels: dict[str, Tensor],
    origin: dict[str, Any],
    classes: list[str] | None,
    merge: bool,
    onnx: bool,
    log: Callable[[str], None],
) -> tuple[list[ExportedPart], dict[str, float]]:
    """Write each backbone and what is left of the model; returns the parts, and the differences that were found."""
    with torch.no_grad():
        tokens = {path: parts[path](values).tokens for path, values in pixels.items()}
    lines, why_not = _write_embedding_lines(model, parts)
    predicted = _predict(model, parts, pixels) if lines else {}
    head = {name: t for name, t in model_state(model).items() if not name.startswith(tuple(f"{p}." for p in parts))}
    if model.closed_set and lines:  # a probe has many more heads than the one that it predicts by
        head = {name: tensor for name, tensor in head.items() if any(f'head["{name}"]' in line for line in lines)}
    if head:
        save_file(head, folder / "head.safetensors", metadata={"format": "pt"})
    written: list[ExportedPart] = []
    differences: dict[str, float] = {}
    for path, backbone in parts.items():
        where = "." if len(parts) == 1 else path
        if backbone.modality == "text":
            part, of_texts = export_text_tower(model, path, backbone, folder, where, log)
            written.append(part)
            differences |= of_texts
            continue
        part = _write(backbone, path, folder, where, merge)
        part.embedding, tower = (lines, None) if len(parts) == 1 else write_image_lines(model, backbone)
        written.append(part)
        result = _run(part, folder, pixels[path], named=classes is not None)
        library = part.exported.library
        differences[path] = compare(f"tokens of {path} by {library}", tokens[path], result["tokens"], log)
        if tower is not None:
            what, ours = f"embeddings of {path} in plain torch", embed_images(tower, pixels[path])
            differences[f"embedding of {path}"] = compare(what, ours, result.get("embedding"), log)
        for name, key in (("embedding", "embeddings"), ("logits", "logits")):
            if key in predicted:
                differences[name] = compare(f"{key} in plain torch", predicted[key], result.get(name), log)
        if classes is not None and "answers" in result:
            answers = [classes[label] for label in predicted["logits"].argmax(dim=1).tolist()]
            if result["answers"] != answers:
                raise ToolboxError("The export is wrong: its lines name other classes than the model.")
    write_readme(
        folder,
        written,
        origin,
        why_not="" if any(part.embedding for part in written) or not pixels else why_not,
        head=sorted(head),
        onnx=onnx,
        classes=classes,
        predictor=model.predictor,
    )
    if onnx:
        for backbone in parts.values():
            if backbone.adapter is not None:
                backbone.adapter.merge()
    return written, differences


@contextmanager
def _explain_full_disk() -> Iterator[None]:
    """What safetensors makes of a full disk becomes the OSError that it was."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _check_parts(parts: dict[str, Backbone], *, merge: bool, whole: bool, onnx: bool) -> None:
    """Raise ToolboxError for backbones that cannot be exported; `whole`: the model writes itself."""
    if not parts and not whole:
        raise ToolboxError("This model has no backbone to export.")
    for path, backbone in parts.items():
        if not re.fullmatch(r"[\w.-]+", path):  # it becomes the name of a folder, and stands in lines that are run
            raise ToolboxError(
                f"A part with the name {path!r} cannot be exported.",
                where="model",
                hint="Names are made of letters, digits and _.",
            )
        if backbone.quantized is not None:
            raise ToolboxError(
                "This backbone is quantised, and an export holds weights in full precision.",
                where=f"model.{path}",
                hint=f"{_USE} An adapter needs no export: peft loads the checkpoint's adapters/{path} on the "
                "backbone's own weights.",
            )
        if whole:
            continue
        if backbone.modality != "image" and onnx:
            raise ToolboxError(
                "model.onnx is written from pixels on, and this is an encoder of texts.",
                where=f"model.{path}",
                hint="Leave onnx out.",
            )
        if type(backbone).export is Backbone.export:
            try:
                backbone.export(Path())
            except ValueError as error:
                raise ToolboxError(f"{error}.", where=f"model.{path}", hint=_USE) from error
    if merge and all(backbone.adapter is None for backbone in parts.values()):
        raise ToolboxError("There is no adapter to merge: all weights were trained.", hint="Leave merge out.")


def _draw_pixels(backbone: Backbone) -> Tensor:
    size = backbone.preprocess().size
    assert size is not None, "an encoder of images has a size"
    height, width = size
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def _predict(model: Model, parts: dict[str, Backbone], pixels: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return onnx_file.Predict(model, list(model.inputs))(*assign_pixels(model, parts, pixels).values())


def _write_embedding_lines(model: Model, parts: dict[str, Backbone]) -> tuple[list[str], str]:
    """The lines from tokens to an embedding; none where there are none, and why."""
    if len(parts) > 1 or len(model.inputs) > 1:
        return [], f"{type(model).__name__} has several backbones"
    if any(backbone.modality != "image" for backbone in parts.values()):
        return [], ""  # a text encoder has lines of its own
    try:
        return model.in_plain_torch(), ""
    except ValueError as error:
        return [], str(error)


def _write(backbone: Backbone, path: str, root: Path, where: str, merge: bool) -> ExportedPart:
    """Write one backbone into `root`/`where`; with an adapter, into base and adapter there."""
    folder = root / where
    try:
        if merge and backbone.adapter is not None:
            backbone.adapter.merge()
        adapter = backbone.adapter
        with nullcontext() if adapter is None else adapter.off():
            exported = backbone.export(folder if adapter is None else folder / "base", as_base=adapter is not None)
    except ValueError as error:
        raise ToolboxError(f"{error}.", where=f"model.{path}") from error
    if adapter is not None:
        (folder / "adapter").mkdir()
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in adapter.state_dict().items()}
        save_file(tensors, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
        adapter.save_config(folder / "adapter", base=exported.hub or "base")
    return ExportedPart(path, where, exported, adapted=adapter is not None)


def _run(part: ExportedPart, root: Path, pixels: Tensor, *, named: bool) -> dict[str, Any]:
    """What the README's lines give for `pixels`: they are run as they will stand there."""
    try:
        return run_lines(part.code(with_data=False, named=named), root=str(root), pixels=pixels)
    except Exception as error:  # every library has its own way to fail
        library = part.exported.library
        raise ToolboxError(
            f"{library} cannot load what was exported of {part.path} ({type(error).__name__}: {shorten_error(error)}).",
            hint="Nothing was left behind." + (" With merge=True no base has to be found." if part.adapted else ""),
        ) from error
