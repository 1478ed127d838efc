"""CIFAR-10's version in Python's pickles -> the binary one. Nothing that a pickle asks for is run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolbox_datasets.files import new_folder


class ArrayStub:
    """Stands for what NumPy's pickles call: it keeps what they say of an array or dtype, and computes nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ArrayStub,
    ("numpy._core.multiarray", "_reconstruct"): ArrayStub,
    ("numpy", "ndarray"): ArrayStub,
    ("numpy", "dtype"): ArrayStub,
}


class PlainUnpickler(pickle.Unpickler):
    """Reads plain values and arrays; any other class or function is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise ValueError(f"it asks for {module}.{name}, which CIFAR-10 has no use for: do not trust it")
        return ALLOWED[module, name]


def convert_pickles(source: Path, out: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Write the binary version of the folder `source` (data_batch_1 ... test_batch, batches.meta) to `out`.

    - `files`: {part: names of the files to write}; without .bin these are the names of the pickles.

    Raises ValueError if a pickle is malformed, holds something else, or `out` is not empty; OSError if one is missing.
    """
    names = read_pickle(source / "batches.meta").get(b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise ValueError(f"{source / 'batches.meta'} has no list 'label_names'")
    with new_folder(out) as partial:
        for name in (name for part in files.values() for name in part):
            (partial / name).write_bytes(read_images(source / name.removesuffix(".bin")).tobytes())
        (partial / "batches.meta.txt").write_bytes(b"\n".join(names) + b"\n")


def read_images(path: Path) -> np.ndarray:
    """(images, 3073) uint8: label and pixels of each image of one pickle. Raises ValueError if it has another form."""
    content = read_pickle(path)
    labels: Any = content.get(b"labels")
    data: Any = content.get(b"data")
    try:
        _, shape, dtype, by_columns, buffer = data.state
        pixels = np.frombuffer(buffer, dtype=np.uint8).reshape(shape)
        label = np.array(labels, dtype=np.uint8).reshape(-1, 1)
        fits = dtype.arguments[0] in (b"u1", "u1") and not by_columns and pixels.shape == (len(label), 3072)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} holds no 'labels' and 'data' as CIFAR-10 has them: {error}") from None
    if not fits:
        raise ValueError(f"{path}: 'data' must be one row of 3,072 bytes for each label")
    return np.concatenate([label, pixels], axis=1)


def read_pickle(path: Path) -> dict[bytes, Any]:
    """The dictionary in a pickle. Raises ValueError if there is none, or it would run code; OSError if unreadable."""
    with open(path, "rb") as file:
        try:
            content = PlainUnpickler(file, encoding="bytes").load()
        except Exception as error:  # the bytes of a broken pickle are instructions: anything may be raised
            raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no dictionary")
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}
