"""What the checks are made of: a plain way to fail, small inputs, and comparisons."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from toolbox.base import Dataset, Sample


def require(condition: Any, sentence: str) -> None:
    """Raise AssertionError with `sentence`, which names the contract, unless `condition` holds."""
    if not condition:
        raise AssertionError(sentence)


def make_image(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """An RGB image of (height, width): smooth colors with some noise, another one for every seed."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + generator.integers(-20, 21, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


class LabelledImages(Dataset):
    """Small labelled images with a text: `sizes[c]` items of class c, class after class, in two groups."""

    def __init__(self, sizes: Iterable[int] = (7, 3, 5, 1, 8, 6, 4, 6)):
        sizes = list(sizes)
        self.labels: list[int] = [label for label, size in enumerate(sizes) for _ in range(size)]
        self.classes = [f"class {label}" for label in range(len(sizes))]
        self.groups = [("even", "odd")[label % 2] for label in self.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        image = make_image((16, 16), seed=index)
        return {"image": image, "text": f"item {index}", "label": self.labels[index], "id": index}


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, as the loader does before an augmentation."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def is_same(a: Any, b: Any) -> bool:
    """Whether two raw values (images, arrays, tensors, containers of these) are equal to the bit."""
    if isinstance(a, Image.Image):
        return isinstance(b, Image.Image) and a.size == b.size and a.mode == b.mode and a.tobytes() == b.tobytes()
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(is_same, a, b))
    return bool(a == b)


def is_close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors of one shape agree up to rounding: a share of their largest magnitude."""
    if a.shape != b.shape:
        return False
    scale = max(float(a.detach().abs().max()), float(b.detach().abs().max()), 1e-6) if a.numel() else 1.0
    return bool(((a.detach().double() - b.detach().double()).abs() <= tolerance * scale).all())


def list_without_gradient(module: nn.Module) -> list[str]:
    """Names of the trainable parameters that the backward pass left without a gradient, or with zeros only."""
    return [
        name
        for name, p in module.named_parameters()
        if p.requires_grad and p.numel() and (p.grad is None or not bool(p.grad.any()))
    ]


def check_state_dict(module: nn.Module, fresh: nn.Module, run: Callable[[nn.Module], Tensor], name: str) -> None:
    """A state dict carries everything that `run` depends on: `fresh` gives the same after loading it."""
    expected = run(module)
    with torch.no_grad():
        for tensor in fresh.state_dict().values():
            tensor.add_(1) if tensor.dtype != torch.bool else tensor.logical_not_()
    fresh.load_state_dict(module.state_dict())
    require(
        is_close(expected, run(fresh)),
        f"{name}: a checkpoint must restore it: after state_dict -> load_state_dict another instance gives other "
        "values. Keep what it learns in parameters or persistent buffers.",
    )


def check_registered(module: nn.Module, name: str) -> None:
    """No trainable tensor is hidden from the optimizer and from checkpoints."""
    known = {id(parameter) for parameter in module.parameters()}
    for child_name, child in module.named_modules():
        for attribute, value in vars(child).items():
            values = value if isinstance(value, (list, tuple)) else [value]
            hidden = [v for v in values if isinstance(v, Tensor) and v.requires_grad and id(v) not in known]
            if attribute != "_frozen" and hidden:
                path = f"{child_name}.{attribute}" if child_name else attribute
                require(False, f"{name}: the trainable tensor {path!r} must be an nn.Parameter of the module.")


class _NoModules(pickle.Pickler):
    def persistent_id(self, obj: Any) -> None:
        require(not isinstance(obj, nn.Module), f"it holds an nn.Module ({type(obj).__name__})")


def copy_by_pickle(value: Any, name: str) -> Any:
    """`value` after pickling, as a data worker gets it; it must hold no module."""
    buffer = io.BytesIO()
    try:
        _NoModules(buffer).dump(value)
        return pickle.loads(buffer.getvalue())
    except AssertionError as error:
        raise AssertionError(f"{name} must travel to data workers without the model: {error}.") from None
    except Exception as error:
        raise AssertionError(f"{name} must be picklable, for data workers: {type(error).__name__}: {error}") from error
