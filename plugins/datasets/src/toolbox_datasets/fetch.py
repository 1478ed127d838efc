"""Download an archive from its authors' site and unpack it, completely or not at all."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from pathlib import Path
from typing import NamedTuple

from toolbox_datasets.files import require_free
from toolbox_datasets.unpack import unpack_dataset

DEADLINE = 30.0
"""Seconds without an answer after which a site is given up."""


class Archive(NamedTuple):
    """Where a dataset's archive is: `url`, the file's `name`, and its `md5` as its authors publish it."""

    url: str
    name: str
    md5: str


def fetch_dataset(out: Path, archive: Archive, landmark: str, source: str | None, download: bool) -> None:
    """Fill `out` from `source` or by `download`; nothing is done where neither is asked for, or `out` is filled.

    - `landmark`: a path that the dataset's folder holds.

    The archive is kept beside `out` until it is unpacked, and checked before. Raises ValueError if both are asked for,
    or for a file of another checksum; OSError if it cannot be had.
    """
    if source is not None and download:
        raise ValueError("--source and --download both say where the dataset comes from: give one of them")
    if source is not None:
        unpack_dataset(Path(source), out, landmark)
    elif download and not (out / landmark).is_file():
        require_free(out)
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        file = out.resolve().with_name(archive.name)
        if not (file.is_file() and compute_md5(file) == archive.md5):
            download_archive(archive, file)
        unpack_dataset(file, out, landmark)
        file.unlink()


def download_archive(archive: Archive, file: Path) -> None:
    """Download `archive` to `file`. Raises OSError if that fails, ValueError if what came is something else."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with urllib.request.urlopen(archive.url, timeout=DEADLINE) as response, open(partial, "wb") as target:
            shutil.copyfileobj(response, target, 1 << 20)
        if compute_md5(partial) != archive.md5:
            raise ValueError(f"{archive.url} gave another file than was published (MD5 {archive.md5}): try again")
        partial.rename(file)
    except OSError as error:
        raise OSError(
            f"{archive.url} cannot be downloaded ({type(error).__name__}: {error}). Get {archive.name} in another way "
            "and give it as --source"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def compute_md5(file: Path) -> str:
    """The MD5 of a file: it finds broken downloads; it is no protection from forgers."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
