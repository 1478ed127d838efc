"""Bring a dataset from an archive or a folder to where it is to be, completely or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from toolbox_datasets.files import new_folder


def unpack_dataset(source: Path, out: Path, landmark: str) -> None:
    """Fill `out` from `source`; `landmark` is a file that marks the top of the dataset in there: its path from the top.

    Whatever lies above the landmark (a folder of the archive's name, say) is left off. Files that lie elsewhere in
    the archive, links and devices are not taken.

    Raises OSError if `source` is missing or no archive; ValueError if it has no landmark, a path that leads out of the
    folder, or if `out` exists and is not empty.
    """
    with new_folder(out.resolve()) as partial:
        if source.is_dir():
            copy_folder(source.resolve(), partial, landmark)
        else:
            with open_archive(source) as archive:
                extract_files(archive, source, partial, landmark)


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


@contextmanager
def open_archive(source: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """The archive in `source`. Raises OSError if it is missing or of another format."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            yield archive
    elif source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as archive:
            yield archive
    elif source.exists():
        raise OSError(f"{source} is neither a .zip nor a .tar archive: is the download complete?")
    else:
        raise FileNotFoundError(f"{source} does not exist: --source is the downloaded archive, or its unpacked folder")


def extract_files(archive: zipfile.ZipFile | tarfile.TarFile, source: Path, target: Path, landmark: str) -> None:
    """Write the files of `archive` below the landmark's folder into `target`."""
    names = list_files(archive)
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ValueError(f"{source} holds the path '{name}', which leads out of the folder: do not trust it")
    marks = PurePosixPath(landmark).parts
    paths = [PurePosixPath(name) for name in names]
    holders = (path.parents[len(marks) - 1] for path in paths if path.parts[-len(marks) :] == marks)
    tops = sorted(holders, key=count_folders)
    if not tops:
        raise ValueError(f"{source} holds no {landmark}: is it another dataset?")
    needed, free = sum_sizes(archive), shutil.disk_usage(target).free
    if needed > free:
        raise OSError(
            f"{source} unpacks to {needed / 2**30:,.1f} GiB, and {target.parent} has {free / 2**30:,.1f} GiB free"
        )
    for name in names:
        if PurePosixPath(name).is_relative_to(tops[0]):
            file = target / PurePosixPath(name).relative_to(tops[0])
            file.parent.mkdir(parents=True, exist_ok=True)
            with open_file(archive, name) as read, open(file, "wb") as write:
                shutil.copyfileobj(read, write)


def count_folders(path: PurePosixPath) -> int:
    """How many folders deep `path` is."""
    return len(path.parts)


def list_files(archive: zipfile.ZipFile | tarfile.TarFile) -> list[str]:
    """Names of the regular files in `archive`."""
    if isinstance(archive, zipfile.ZipFile):
        return [info.filename for info in archive.infolist() if not info.is_dir()]
    return [member.name for member in archive.getmembers() if member.isfile()]


def sum_sizes(archive: zipfile.ZipFile | tarfile.TarFile) -> int:
    """Bytes of the regular files in `archive`, as its table of contents says; no more is ever unpacked of a file."""
    if isinstance(archive, zipfile.ZipFile):
        return sum(info.file_size for info in archive.infolist())
    return sum(member.size for member in archive.getmembers() if member.isfile())


def open_file(archive: zipfile.ZipFile | tarfile.TarFile, name: str) -> IO[bytes]:
    """The opened file `name`. Raises OSError if it cannot be had."""
    file = archive.open(name) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(name)
    if file is None:
        raise OSError(f"{name} cannot be read from the archive")
    return file
