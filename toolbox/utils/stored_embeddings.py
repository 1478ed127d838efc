"""Embeddings in a file, with the ids of the items they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolbox.base.files import check_file, new_file

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
        if missing := [str(name) for name in ids if str(name) not in self._place]:
            raise ValueError(
                f"{self.path} holds no embedding of {', '.join(missing[:3])} ({len(missing)} items of a batch): store "
                "them for the training data, with the command `embed`"
            )
        return torch.from_numpy(self.embeddings[[self._place[str(name)] for name in ids]])


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Whether `write_embeddings` could write there, to be asked before the embeddings are computed.

    - `overwrite`: whether a file that is there may be replaced.

    Raises ValueError for another ending or a missing pyarrow, ToolboxError as `check_file`.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path} must end in {', '.join(KINDS)}")
    if path.suffix == ".parquet":
        _import_pyarrow()
    for file in [path, _get_ids_path(path)] if path.suffix == ".npy" else [path]:
        check_file(file, overwrite=overwrite)


def check_ids(path: Path, ids: Sequence[int | str]) -> None:
    """Whether `write_embeddings` could write these ids there; to be asked early as well, where they are known.

    Raises ValueError naming one that the format has no place for.
    """
    for name in map(str, ids):
        if path.suffix == ".npy" and "\n" in name:
            raise ValueError(f"the id {name!r} is no line of a text file: choose .npz or .parquet")
        if path.suffix == ".parquet":
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"the id {name!r} is no Unicode text: choose .npz") from error


def write_embeddings(
    path: Path, ids: Sequence[int | str], embeddings: np.ndarray, *, about: Mapping[str, str] | None = None
) -> None:
    """Write (N, D) embeddings as float32, and their ids as texts. The file is whole or absent.

    - `path`: .npz (arrays `ids` and `embeddings`), .parquet (columns `id` and `embedding`), or .npy with the ids, one
      a line, in a file beside it that ends in .ids.txt. A file that is there is replaced.
    - `about`: what made them, e.g. `{"precision": "bf16"}`: JSON in the array `about` of an .npz, in the metadata of a
      .parquet, under "toolbox"; an .npy has no place for it.

    Raises ValueError for another ending, for rows and ids that do not fit together, and for NaN or infinity,
    ToolboxError when the disk refuses.
    """
    path, names = Path(path), [str(name) for name in ids]
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    _check(path, names, embeddings)
    check_ids(path, names)
    if path.suffix == ".npz":
        with new_file(path) as file, file.open("wb") as stream:
            extra: dict[str, Any] = {"about": np.asarray(json.dumps(dict(about)))} if about else {}
            np.savez(stream, ids=np.asarray(names, dtype=np.str_), embeddings=embeddings, **extra)
    elif path.suffix == ".npy":
        with new_file(path) as file, new_file(_get_ids_path(path)) as listing:
            with file.open("wb") as stream:
                np.save(stream, embeddings)
            with listing.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
                stream.writelines(f"{name}\n" for name in names)
            path.unlink(missing_ok=True)  # ids without rows are an error, ids of other rows would not be noticed
    elif path.suffix == ".parquet":
        arrow, parquet = _import_pyarrow()
        column = arrow.array(names, arrow.string())
        width = arrow.list_(arrow.float32(), embeddings.shape[1])
        rows = arrow.FixedSizeListArray.from_arrays(arrow.array(embeddings.reshape(-1)), type=width)
        with new_file(path) as file:
            table = arrow.table({"id": column, "embedding": rows})
            if about:
                table = table.replace_schema_metadata({"toolbox": json.dumps(dict(about))})
            parquet.write_table(table, file)
    else:
        raise ValueError(f"{path} must end in {', '.join(KINDS)}")


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """The ids and the (N, D) float32 embeddings of a file as `write_embeddings` writes it.

    Raises FileNotFoundError, or ValueError that tells what the file lacks.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: make it with the command `embed`")
    parquet = _import_pyarrow()[1] if path.suffix == ".parquet" else None
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                ids, embeddings = arrays["ids"].tolist(), arrays["embeddings"]
        elif path.suffix == ".npy":
            embeddings = np.load(path, allow_pickle=False)
            with _get_ids_path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
                ids = stream.read().split("\n")[:-1]
        elif parquet is not None:
            table = parquet.read_table(path)
            ids = table["id"].to_pylist()
            embeddings = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
        else:
            raise ValueError(f"the ending must be {', '.join(KINDS)}")
        ids, embeddings = [str(name) for name in ids], np.ascontiguousarray(embeddings, dtype=np.float32)
    except Exception as error:  # zip, npy and arrow readers have complaints of their own
        raise ValueError(f"{path} holds no embeddings as the command `embed` writes them: {error}") from error
    _check(path, ids, embeddings)
    return ids, embeddings


def _check(path: Path, ids: list[str], embeddings: np.ndarray) -> None:
    if embeddings.ndim != 2 or 0 in embeddings.shape or len(ids) != len(embeddings) or len(set(ids)) < len(ids):
        raise ValueError(
            f"{path} takes one row for each of its ids, all different, and these are {embeddings.shape} and "
            f"{len(ids)} ids, {len(set(ids))} of them different"
        )
    if bad := sum(int((~np.isfinite(part).all(axis=1)).sum()) for part in np.array_split(embeddings, 64)):
        raise ValueError(f"{path}: {bad} of {len(ids)} embeddings hold NaN or infinity: training diverged")


def _get_ids_path(path: Path) -> Path:
    return path.with_suffix(".ids.txt")


def _import_pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("Parquet files need pyarrow: python -m pip install pyarrow, or choose .npz") from error
    return pyarrow, pyarrow.parquet
