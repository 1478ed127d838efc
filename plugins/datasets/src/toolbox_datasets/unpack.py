"""Bring a dataset from an archive or a folder to where it is to be, completely or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from toolbox_datasets.files import new_folder


def unpack_dataset(source: Path, out: Path, landmark: str) -> None:
    """Fill `out` from `source`; `landmark` is a file that marks the top of the dataset in there: its path from the top.

    Whatever lies above the landmark (a folder of the archive's name, say) is left off. Files that lie elsewhere in
    the archive, links and devices are not taken.

    Raises OSError if `source` is missing or no archive; ValueError if it has no landmark, a path that leads out of the
    folder, or if `out` exists and is not empty.
    """
    with new_folder(out.resolve()) as folder:
        if source.is_dir():
            copy_folder(source.resolve(), folder, landmark)
        else:
            with open_archive(source) as files:
                extract_files(files, source, folder, landmark)


def copy_folder(source: Path, target: Path, landmark: str) -> None:
    """Link, or else copy, the files from the folder below `source` that holds `landmark`."""
    steps = len(PurePosixPath(landmark).parts)
    tops = sorted((path.parents[steps - 1] for path in source.rglob(landmark)), key=lambda path: len(path.parts))
    if not tops:
        raise ValueError(f"{source} holds no {landmark}: is it another dataset?")
    if target.is_relative_to(tops[0]):
        raise ValueError(f"{target.parent} lies in the dataset itself: choose an --out elsewhere")
    shutil.copytree(tops[0], target, dirs_exist_ok=True, copy_function=link_or_copy)


def link_or_copy(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)


class ArchivedFile(NamedTuple):
    """A regular file in an archive: its size as the table of contents says, and a function that opens it."""

    size: int
    open: Callable[[], IO[bytes] | None]


@contextmanager
def open_archive(source: Path) -> Iterator[dict[str, ArchivedFile]]:
    """{name: file} of the archive in `source`. Raises OSError if it is missing or of another format."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            yield {info.filename: ArchivedFile(info.file_size, partial(archive.open, info)) for info in infos}
    elif source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            members = [member for member in tar.getmembers() if member.isfile()]
            yield {member.name: ArchivedFile(member.size, partial(tar.extractfile, member)) for member in members}
    elif source.exists():
        raise OSError(f"{source} is neither a .zip nor a .tar archive: is the download complete?")
    else:
        raise FileNotFoundError(f"{source} does not exist: --source is the downloaded archive, or its unpacked folder")


def extract_files(files: dict[str, ArchivedFile], source: Path, target: Path, landmark: str) -> None:
    """Write the files of the archive `source` that lie below the landmark's folder into `target`."""
    for name in files:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ValueError(f"{source} holds the path '{name}', which leads out of the folder: do not trust it")
    marks = PurePosixPath(landmark).parts
    paths = {name: PurePosixPath(name) for name in files}
    holders = [path.parents[len(marks) - 1] for path in paths.values() if path.parts[-len(marks) :] == marks]
    if not holders:
        raise ValueError(f"{source} holds no {landmark}: is it another dataset?")
    top = min(holders, key=lambda path: len(path.parts))
    needed, free = sum(file.size for file in files.values()), shutil.disk_usage(target).free
    if needed > free:
        raise OSError(
            f"{source} unpacks to {needed / 2**30:,.1f} GiB, and {target.parent} has {free / 2**30:,.1f} GiB free"
        )
    for name, path in paths.items():
        content = files[name].open() if path.is_relative_to(top) else None
        if content is not None:
            written = target / path.relative_to(top)
            written.parent.mkdir(parents=True, exist_ok=True)
            with content, open(written, "wb") as file:
                shutil.copyfileobj(content, file)
