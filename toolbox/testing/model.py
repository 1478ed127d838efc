"""The contract of a model, checked on a small batch of what its backbones read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Batch, Model, Preprocess
from toolbox.testing.material import check_registered, check_state_dict, is_close, is_same, make_image, require

ROWS, CLASSES = 6, 3
TEXTS = ["a red apple", "two green pears on a table", "one", "a plate", "no fruit at all", "red"]
OUTPUTS = {"image": "embeddings", "text": "text_embeddings"}
"""What a model gives of the inputs of one modality alone."""


def check_model(make: Callable[[], Model]) -> None:
    """Check a model against `toolbox.base.Model`; raises AssertionError that names the broken contract.

    It predicts a batch of six items in three classes with one image or text each, also in parts where it has an
    `encode`, also of one modality where it has `reads_modalities_alone`. Its loss is looked at where its `check` finds
    no problem. Weights are as `make` leaves them: none is loaded.

    - `make`: returns a new instance at every call, small enough for a few passes on a CPU.
    """
    name = type(make()).__name__
    require(isinstance(make(), Model), f"{name} must be a subclass of toolbox.base.Model.")

    def ready() -> Model:
        model = make()
        model.connect(CLASSES)
        return model.eval()

    model = ready()
    batch = _make_batch(model, name)
    for mode in ("predict", "baseline"):
        _check_predictions(model, batch, mode, name)
    if type(model).encode is not Model.encode:
        _check_encode(model, batch, name)
    check_registered(model, name)
    check_state_dict(model, ready(), lambda m: _join(_run(m, batch, "predict")), name)
    if not model.check():
        _check_loss(ready().train(), batch, name)


def _make_batch(model: Model, name: str) -> Batch:
    backbones, conversions = model.inputs, model.preprocess()
    require(
        bool(backbones) and conversions.keys() == backbones.keys(),
        f"{name}.inputs must name its inputs, and preprocess() give the conversion of each.",
    )
    inputs = {key: _make_input(backbones[key].modality, preprocess) for key, preprocess in conversions.items()}
    texts = {key: torch.arange(ROWS) for key, backbone in backbones.items() if backbone.modality == "text"}
    return Batch.example(inputs, labels=torch.arange(ROWS) % CLASSES, owners=texts, texts=dict(texts))


def _make_input(modality: str, preprocess: Preprocess) -> Any:
    values: list[Any] = TEXTS
    if modality == "image":
        assert preprocess.size is not None
        values = [make_image(preprocess.size, seed=seed) for seed in range(ROWS)]
    return preprocess.finish(preprocess.collate([preprocess(value) for value in values]))


def _run(model: nn.Module, batch: Batch, mode: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return model(batch, mode)


def _join(outputs: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([outputs[key].double().flatten(1) for key in sorted(outputs)], dim=1)


def _check_predictions(model: Model, batch: Batch, mode: str, name: str) -> None:
    outputs = _run(model, batch, mode)
    require(
        isinstance(outputs, dict) and bool(outputs) and all(isinstance(value, Tensor) for value in outputs.values()),
        f"{name}.{mode} must return {{name: tensor}}.",
    )
    for key, value in outputs.items():
        require(
            value.ndim > 0 and len(value) == ROWS,
            f"{name}.{mode}: {key!r} must have a row for each of {ROWS} items, not {tuple(value.shape)}.",
        )
        require(bool(value.isfinite().all()), f"{name}.{mode}: {key!r} must be finite.")
    require(is_same(outputs, _run(model, batch, mode)), f"{name}.{mode} must give the same again in eval mode.")
    if model.reads_modalities_alone:
        _check_modalities(model, batch, mode, outputs, name)


def _check_modalities(model: Model, batch: Batch, mode: str, outputs: dict[str, Tensor], name: str) -> None:
    """What is of one modality is the same without the other."""
    modalities = {key: backbone.modality for key, backbone in model.inputs.items()}
    for modality in sorted(set(modalities.values())):
        inputs = {key: value for key, value in batch.inputs.items() if modalities[key] == modality}
        texts = {key: rows for key, rows in batch.texts.items() if key in inputs}
        alone = _run(model, Batch.example(inputs, owners=texts, texts=dict(texts)), mode)
        own = OUTPUTS[modality]
        require(own in alone, f"{name}.{mode} must give {own!r} of the inputs that are {modality}s alone.")
        for key, value in alone.items():
            require(
                key in outputs and is_close(value, outputs[key]),
                f"{name}.{mode} must give the same {key!r} with and without inputs of other modalities.",
            )


def _check_encode(model: Model, batch: Batch, name: str) -> None:
    """Parts of a batch give the rows of the whole, as chunks need it."""
    whole = _run(model, batch, "encode")
    for rows in (slice(0, 2), slice(2, ROWS)):
        part = _run(model, Batch(inputs={key: _cut(value, rows) for key, value in batch.inputs.items()}), "encode")
        require(
            part.keys() == whole.keys() and all(is_close(part[key], whole[key][rows]) for key in whole),
            f"{name}.encode must give each row from that row of the inputs alone: parts of a batch gave others.",
        )


def _cut(value: Any, rows: slice) -> Any:
    return {key: _cut(item, rows) for key, item in value.items()} if isinstance(value, Mapping) else value[rows]


def _check_loss(model: Model, batch: Batch, name: str) -> None:
    outputs = model(batch, "loss")
    loss = outputs.get("loss") if isinstance(outputs, dict) else None
    if loss is None:
        raise AssertionError(f"{name}.loss must return {{'loss': scalar}}, with whatever else is logged.")
    for key, value in outputs.items():
        scalar = torch.as_tensor(value)
        require(scalar.numel() == 1, f"{name}.loss: {key!r} must be one number, not {tuple(scalar.shape)}.")
        require(bool(scalar.isfinite().all()), f"{name}.loss: {key!r} must be finite, not {scalar}.")
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    if not trained:
        return
    require(loss.requires_grad, f"{name}.loss must carry a gradient: is something detached?")
    loss.backward()
    grads = [value.grad for value in trained.values() if value.grad is not None]
    require(any(bool(grad.any()) for grad in grads), f"{name}.loss must pass a gradient to what trains.")
    require(all(bool(grad.isfinite().all()) for grad in grads), f"{name}.loss must pass finite gradients.")
    model.after_step(0, 1)
