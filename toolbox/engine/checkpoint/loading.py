"""A checkpoint's tensors into a model: what goes where, what was changed before, what must have been frozen."""

from __future__ import annotations

import torch
from safetensors import SafetensorError

from toolbox.base import Backbone, Model
from toolbox.engine.checkpoint.checkpoint import Checkpoint
from toolbox.engine.checkpoint.transfer import Transfer, chosen, match, touched
from toolbox.engine.distributed.tensors import placed_like
from toolbox.engine.parts import adapted, backbones, frozen_identity, left_out
from toolbox.errors import ToolboxError


def compare(model: Model, checkpoint: Checkpoint) -> Transfer:
    """What of a checkpoint would go where in a model, which may be on torch's meta device.

    Raises ToolboxError naming what is missing, unexpected or of another shape.
    """
    unused = tuple(f"{name}." for name in model.training_only if getattr(model, name, None) is None)
    held = {name: shape for name, shape in checkpoint.shapes().items() if not name.startswith(unused)}
    parts, path = checkpoint.parts, str(checkpoint.path)
    plain = _held_plain(model, checkpoint)
    here = {f"{name}.adapter": (name, one) for name, one in adapted(model).items() if name not in plain}
    there = {f"{name}.adapter": name for name in checkpoint.adapters() if not f"{name}.".startswith(unused)}
    cut = [part for part in parts or [] for name, _ in here.values() if part.startswith(f"model.{name}.")]
    if cut:
        raise ToolboxError(
            f"'{cut[0]}' is part of a backbone with an adapter.",
            where="load_parts",
            hint="An adapter is loaded whole: name the backbone.",
        )
    model.fit_buffers({name: shape for name, shape in held.items() if chosen(name, parts)})
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    # an adapter counts as one tensor; its own are compared when they are loaded
    whole = torch.Size()
    skip = left_out(model)
    for name in plain:  # what went in, or would have, before its tensors were given other names
        others = {key: shape for key, shape in shapes.items() if not key.startswith(f"{name}.")}
        shapes = others | _plain_shapes(model, name)
        if model.get_submodule(name).weights_id is not None:
            skip |= _plain_shapes(model, name).keys()
    transfer = match(shapes | dict.fromkeys(here, whole), skip, held | dict.fromkeys(there, whole), parts)
    transfer.check(path)
    return transfer


def load_plain(model: Model, checkpoint: Checkpoint) -> set[str]:
    """Load whole backbones that a checkpoint holds as they are before `quantize` and `tune`; returns their paths.

    To be called before those are applied; `load_into` loads the rest after them. Backbones with weights of their own
    are left alone.
    """
    changing = {
        path: backbone
        for path, backbone in backbones(model).items()
        if backbone.weights_id is None and not (backbone.quantize is None and backbone.tune is None)
    }
    paths = {
        path
        for path, backbone in changing.items()
        if chosen(path, checkpoint.parts) and _holds(checkpoint, path, backbone)
    }
    tensors = checkpoint.model_tensors() if paths else {}
    for path in paths:
        prefix = f"{path}."
        changing[path].load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )
    return paths


def _holds(checkpoint: Checkpoint, path: str, backbone: Backbone) -> bool:
    shapes = {f"{path}.{name}": tensor.shape for name, tensor in backbone.state_dict().items()}
    return {name: shape for name, shape in checkpoint.shapes().items() if name.startswith(f"{path}.")} == shapes


def _held_plain(model: Model, checkpoint: Checkpoint) -> list[str]:
    """Paths of backbones that a checkpoint holds as they were before `quantize` or `tune` changed their tensors."""
    names = _filled(checkpoint.shapes())
    paths = []
    for path, backbone in backbones(model).items():
        held = {name for name in names if name.startswith(f"{path}.")}
        plain = _filled(_plain_shapes(model, path)) if backbone.plain is not None else None
        changed = plain != _filled({f"{path}.{name}": one.shape for name, one in backbone.state_dict().items()})
        if chosen(path, checkpoint.parts) and held == plain and changed:
            paths.append(path)
    return paths


def _filled(shapes: dict[str, torch.Size]) -> set[str]:
    """Names of tensors that have values: whether a checkpoint holds others says nothing."""
    return {name for name, shape in shapes.items() if shape.numel()}


def _plain_shapes(model: Model, path: str) -> dict[str, torch.Size]:
    return {f"{path}.{name}": shape for name, shape in (backbones(model)[path].plain or {}).items()}


def load_into(model: Model, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's tensors, or those of its `parts`, into a model whose frozen weights are already in place.

    Backbones that `load_plain` has loaded are in place too.

    Raises ToolboxError naming what is missing, unexpected or of another shape, or if other weights were frozen.
    """
    taken = set(compare(model, checkpoint).taken)
    _check_frozen(model, checkpoint)
    state = model.state_dict()
    taken -= {name for path in _held_plain(model, checkpoint) for name in _plain_shapes(model, path)}
    tensors = {name: placed_like(t, state[name]) for name, t in checkpoint.model_tensors().items() if name in taken}
    model.load_state_dict(tensors, strict=False)
    for name, backbone in adapted(model).items():
        if f"{name}.adapter" not in taken:
            continue
        try:
            held, saved = backbone.adapter.state_dict(), checkpoint.adapter_tensors(name)
            backbone.adapter.load_state_dict({key: placed_like(t, held.get(key, t)) for key, t in saved.items()})
        except (OSError, SafetensorError, ValueError) as error:
            raise ToolboxError(f"The checkpoint {checkpoint.path} has another adapter for {name}: {error}") from error


def _check_frozen(model: Model, checkpoint: Checkpoint) -> None:
    for path, here in frozen_identity(model).items():
        if not touched(path, checkpoint.parts):
            continue
        then = checkpoint.frozen.get(path)
        if then is None or then["sha256"] != here["sha256"]:
            was = then["weights"] if then else "none"
            ways = [one.get("quantize") for one in (then or {}, here)]
            if ways[0] != ways[1]:
                quantised = [f"quantised by {way}" if way else "not quantised" for way in ways]
                raise ToolboxError(
                    f"The backbone {path} is {quantised[1]}, and that of the checkpoint was {quantised[0]}.",
                    where=f"model.{path}.quantize",
                    hint="Use the checkpoint's own setting: its features are others.",
                )
            raise ToolboxError(
                f"The frozen weights of {path} ({here['weights']}) are not those that the checkpoint was trained on "
                f"({was}).",
                hint=f"Give the original weights, e.g. the override model.{path}.name=<folder>.",
            )
