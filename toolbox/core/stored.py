"""Embeddings in a file, with the ids of the items they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KINDS = (".npz", ".npy", ".parquet")


class StoredEmbeddings:
    """What `write_embeddings` wrote: `ids`, N strings, and `embeddings`, (N, D) float32.

    Raises OSError or ValueError, with what to do, when the file is not there or not such a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.ids, self.embeddings = read_embeddings(self.path)
        self._place = {name: row for row, name in enumerate(self.ids)}

    def rows(self, ids: Sequence[int | str]) -> Tensor:
        """(len(ids), D). Raises ValueError naming ids that the file does not hold."""
        missing = [str(name) for name in ids if str(name) not in self._place]
        if missing:
            raise ValueError(
                f"{self.path} holds no embedding of {', '.join(missing[:3])} ({len(missing)} items of a batch): store "
                "them for the training data, with tools/embed.py"
            )
        return torch.from_numpy(self.embeddings[[self._place[str(name)] for name in ids]])


def write_embeddings(path: Path, ids: Sequence[str], embeddings: np.ndarray) -> None:
    """Write (N, D) float32 embeddings and their ids.

    - `path`: .npz (arrays `ids` and `embeddings`), .parquet (columns `id` and `embedding`), or .npy with the ids, one
      a line, in a file beside it that ends in .ids.txt.

    Raises ValueError for another ending.
    """
    if path.suffix == ".npz":
        np.savez(path, ids=np.asarray(ids, dtype=np.str_), embeddings=embeddings)
    elif path.suffix == ".npy":
        np.save(path, embeddings)
        _beside(path).write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    elif path.suffix == ".parquet":
        arrow, parquet = _pyarrow()
        width = arrow.list_(arrow.float32(), embeddings.shape[1])
        rows = arrow.FixedSizeListArray.from_arrays(arrow.array(embeddings.reshape(-1)), type=width)
        parquet.write_table(arrow.table({"id": arrow.array(list(ids), arrow.string()), "embedding": rows}), path)
    else:
        raise ValueError(f"{path} must end in {', '.join(KINDS)}")


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """The ids and the (N, D) float32 embeddings of a file as `write_embeddings` writes it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: make it with tools/embed.py")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                ids, embeddings = arrays["ids"].tolist(), arrays["embeddings"]
        elif path.suffix == ".npy":
            embeddings = np.load(path, allow_pickle=False)
            ids = _beside(path).read_text(encoding="utf-8").splitlines()
        elif path.suffix == ".parquet":
            table = _pyarrow()[1].read_table(path)
            ids = table["id"].to_pylist()
            embeddings = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
        else:
            raise ValueError(f"the ending must be {', '.join(KINDS)}")
    except ImportError:
        raise
    except Exception as error:  # zip, npy and arrow readers have complaints of their own
        raise ValueError(f"{path} holds no embeddings as tools/embed.py writes them: {error}") from error
    if embeddings.ndim != 2 or len(ids) != len(embeddings) or len(set(ids)) < len(ids):
        raise ValueError(
            f"{path} must hold one row for each of its ids, all different, and has {embeddings.shape} and "
            f"{len(set(ids))} different ids"
        )
    return [str(name) for name in ids], np.ascontiguousarray(embeddings, dtype=np.float32)


def _beside(path: Path) -> Path:
    return path.with_suffix(".ids.txt")


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("Parquet files need pyarrow: python -m pip install pyarrow, or choose .npz") from error
    return pyarrow, pyarrow.parquet
