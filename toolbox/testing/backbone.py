"""The contract of a backbone, checked on a small instance."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Backbone, Features, Preprocess
from toolbox.base.exported_backbone import run_lines
from toolbox.testing.material import (
    check_registered,
    check_state_dict,
    copy_by_pickle,
    is_close,
    is_same,
    list_without_gradient,
    make_image,
    require,
)

TEXTS = ["a red apple", "two green pears on a table", "one"]


def check_backbone(make: Callable[[], Backbone]) -> None:
    """Check a backbone against `toolbox.base.Backbone`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call, small enough for a few passes on a CPU: `lambda: MyViT(depth=2)`.
    """
    backbone = make()
    name = type(backbone).__name__
    require(isinstance(backbone, Backbone), f"{name} must be a subclass of toolbox.base.Backbone.")
    _check_attributes(backbone, name)
    inputs = _check_preprocess(backbone, name)
    backbone.eval()
    features = _check_forward(backbone, inputs, name)
    _check_layers(backbone, name)
    _check_abilities(make, inputs, features, name)
    _check_gradients(make(), inputs, features, name)
    check_registered(backbone, name)
    check_state_dict(backbone, make().eval(), lambda m: m(inputs).tokens.detach(), name)
    _check_freeze(make(), inputs, name)
    _check_export(make().eval(), inputs, name)


def _check_attributes(backbone: Backbone, name: str) -> None:
    require(backbone.modality in ("image", "text"), f"{name}.modality must be 'image' or 'text'.")
    dim = getattr(backbone, "dim", None)
    require(isinstance(dim, int) and dim > 0, f"{name}.dim must be the width of its tokens, a positive int.")
    unknown = set(backbone.abilities) - {"layers", "mask", "checkpointing"}
    require(not unknown, f"{name}.abilities holds unknown words: {sorted(unknown)}.")
    require(
        backbone.weights_id is None or isinstance(backbone.weights_id, str),
        f"{name}.weights_id must be a string or None.",
    )


def _check_preprocess(backbone: Backbone, name: str) -> Any:
    """The inputs of a small batch."""
    preprocess = backbone.preprocess()
    require(isinstance(preprocess, Preprocess), f"{name}.preprocess() must return a toolbox.base.Preprocess.")
    values: list[Any] = TEXTS
    if backbone.modality == "image":
        size = preprocess.size
        fine = isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(side, int) for side in size)
        if size is None or not fine:
            raise AssertionError(f"{name}.preprocess().size must be (height, width).")
        height, width = size
        sizes = ((height, width), (height + 7, width * 2 + 3), (height, width))
        values = [make_image(size, seed=seed) for seed, size in enumerate(sizes)]
    items = [preprocess(value) for value in values]
    copy = copy_by_pickle(preprocess, f"{name}.preprocess()")
    require(
        all(is_same(item, copy(value)) for item, value in zip(items, values, strict=True)),
        f"{name}.preprocess() must give the same after pickling, and at every call.",
    )
    return preprocess.finish(preprocess.collate(items))


def _check_forward(backbone: Backbone, inputs: Any, name: str) -> Features:
    with torch.no_grad():
        features = backbone(inputs)
        again = backbone(inputs)
    require(isinstance(features, Features), f"{name}.forward must return toolbox.base.Features.")
    tokens, prefix, grid = features.tokens, features.prefix, features.grid
    require(
        tokens.ndim == 3 and tokens.shape[0] == 3 and tokens.shape[2] == backbone.dim,
        f"{name}: tokens must be (B, N, dim={backbone.dim}), not {tuple(tokens.shape)} for a batch of 3.",
    )
    require(bool(tokens.isfinite().all()), f"{name}: tokens must be finite.")
    require(0 <= prefix <= tokens.shape[1], f"{name}: prefix={prefix} must count some of the {tokens.shape[1]} tokens.")
    if backbone.modality == "image":
        require(grid is not None and len(grid) == 2, f"{name}: grid must be (h, w) for images.")
        require(
            prefix + grid[0] * grid[1] == tokens.shape[1],
            f"{name}: prefix + h * w must be the number of tokens: {prefix} + {grid[0]} * {grid[1]} is not "
            f"{tokens.shape[1]}.",
        )
    if features.valid is not None:
        require(
            features.valid.dtype == torch.bool and features.valid.shape == tokens.shape[:2],
            f"{name}: valid must be (B, N) bool.",
        )
    require(features.blocks is None, f"{name}: blocks must be None when one layer is asked for.")
    require(torch.equal(tokens, again.tokens), f"{name}: in eval mode the same input must give the same tokens.")
    require(not is_close(tokens[0], tokens[1]), f"{name}: different inputs must give different tokens.")
    if isinstance(inputs, Tensor) and backbone.modality == "image":
        with torch.no_grad():
            alone = backbone(inputs[:1]).tokens
        require(is_close(alone, tokens[:1]), f"{name}: in eval mode an item's tokens must not depend on its batch.")
    return features


def _check_layers(backbone: Backbone, name: str) -> None:
    layers = backbone.layers()
    require(
        isinstance(layers, list) and layers and all(isinstance(layer, nn.Module) for layer in layers),
        f"{name}.layers() must be a list of at least one module.",
    )
    inside = set(map(id, backbone.modules()))
    require(all(id(layer) in inside for layer in layers), f"{name}.layers() must hold modules of the backbone itself.")
    require(len(set(map(id, layers))) == len(layers), f"{name}.layers() must not repeat a module.")
    require(id(backbone.adapter_root()) in inside, f"{name}.adapter_root() must be a module of the backbone.")


def _check_abilities(make: Callable[[], Backbone], inputs: Any, features: Features, name: str) -> None:
    backbone = make().eval()
    if "layers" in backbone.abilities:
        with torch.no_grad():
            several = backbone(inputs, layers=2)
        require(
            isinstance(several.blocks, tuple) and len(several.blocks) == 2,
            f"{name} declares 'layers': layers=2 must return two blocks.",
        )
        require(
            {block.shape for block in several.blocks} == {features.tokens.shape},
            f"{name} declares 'layers': every block must have the shape of the tokens.",
        )
        require(
            is_close(several.blocks[-1], several.tokens),
            f"{name} declares 'layers': blocks are normed, the earliest first, so the last one equals the tokens.",
        )
    if "mask" in backbone.abilities:
        with torch.no_grad():
            mask = _make_mask(features)
            require(
                not is_close(backbone(inputs, mask=mask).tokens, backbone(inputs, mask=~mask).tokens),
                f"{name} declares 'mask': another mask must give other tokens.",
            )
    if "checkpointing" not in backbone.abilities:
        try:
            backbone.enable_checkpointing()
        except ValueError:
            return
        require(False, f"{name} must declare 'checkpointing', or let enable_checkpointing raise ValueError.")


def _check_gradients(backbone: Backbone, inputs: Any, features: Features, name: str) -> None:
    """Every trainable parameter learns; checkpointing, where it is offered, changes no gradient."""
    backbone.eval()  # dropped paths would leave parameters without a gradient by chance
    weight = torch.randn(features.tokens.shape, generator=torch.Generator().manual_seed(0))
    mask = {"mask": _make_mask(features)} if "mask" in backbone.abilities else {}

    def gradients() -> dict[str, Tensor]:
        backbone.zero_grad()
        (backbone(inputs, **mask).tokens * weight).sum().backward()
        return {key: p.grad.clone() for key, p in backbone.named_parameters() if p.grad is not None}

    plain = gradients()
    missing = list_without_gradient(backbone)
    require(
        not missing,
        f"{name}: gradients must reach every trainable parameter; none reaches {', '.join(missing[:5])}. "
        "Drop or freeze what forward does not use.",
    )
    if "checkpointing" in backbone.abilities:
        backbone.enable_checkpointing()
        backbone.train()
        again = gradients()
        require(
            plain.keys() == again.keys() and all(is_close(plain[key], again[key]) for key in plain),
            f"{name} declares 'checkpointing': it must not change gradients (without dropout).",
        )


def _check_freeze(backbone: Backbone, inputs: Any, name: str) -> None:
    backbone.freeze()
    backbone.train()
    require(backbone.frozen, f"{name}: after freeze() nothing may train.")
    require(
        not any(module.training for module in backbone.modules()),
        f"{name}: a frozen backbone must stay in eval mode, also after train().",
    )
    require(not backbone(inputs).tokens.requires_grad, f"{name}: tokens of a frozen backbone must need no gradient.")


def _check_export(backbone: Backbone, inputs: Any, name: str) -> None:
    """What another library makes of the export, where there is one, is the same."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            exported = backbone.export(Path(folder))
        except ValueError:
            return
        lines = [*exported.imports, *exported.load, *exported.tokens, *exported.texts]
        try:
            variables = run_lines(lines, folder=folder, pixels=inputs, texts=TEXTS)
        except ImportError:
            return  # of a library that only exports need
        tokens = variables.get("tokens")
    with torch.no_grad():
        features = backbone(inputs)
    if backbone.modality == "text":
        pooled = variables.get("pooled")
        require(
            isinstance(pooled, Tensor) and is_close(pooled, features.tokens[:, 0]),
            f"{name}.export: {exported.library} must give the first token of forward for each text.",
        )
        return
    require(
        isinstance(tokens, Tensor) and tokens.shape == features.tokens.shape and is_close(tokens, features.tokens),
        f"{name}.export: {exported.library} must give the tokens of forward for what was written.",
    )
    require(exported.prefix == features.prefix, f"{name}.export: prefix must be that of its features.")


def _make_mask(features: Features) -> Tensor:
    """(B, h * w) bool: every second patch."""
    patches = features.tokens.shape[1] - features.prefix
    return (torch.arange(patches) % 2 == 0).expand(len(features.tokens), -1)
