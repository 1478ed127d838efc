"""Files and folders of a run that are either whole or absent, and what a killed process left of them."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolbox.base import files
from toolbox.errors import ToolboxError

_HINT = "What was written before is untouched. Free some space or choose another work_dir, then resume=True."


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(text: str) -> str:
    """Checksum of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # network disks may not know how for a folder
        if not (folder and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(handle)


@contextmanager
def new_folder(target: Path, *, hint: str = _HINT) -> Iterator[Path]:
    """A folder to fill; it appears as `target`, complete and on disk, when the block ends without an error.

    - `hint`: what to try when the disk refuses. Raises ToolboxError then.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
        mask = os.umask(0)
        os.umask(mask)
        for path in [*beside.rglob("*"), beside]:
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)  # safetensors writes for the owner alone
            sync(path)
        if target.exists() and exchange(beside, target):
            sync(target.parent)
            shutil.rmtree(beside, ignore_errors=True)
        elif target.exists():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            os.rename(target, old)
            try:
                os.rename(beside, target)
            except OSError:
                os.rename(old, target)
                raise
            sync(target.parent)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(beside, target)
            sync(target.parent)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise refused(target, error, hint) from error
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


# Python has no name for it: two folders swap names, so that at no moment one is missing
_renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
_HERE, _EXCHANGE = -100, 2


def exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders in one step; False where the system or the disk cannot."""
    return _renameat2 is not None and _renameat2(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0


def recover(folder: Path) -> None:
    """Clean up after a process that was killed while it wrote: finish a replacement, remove what is partial."""
    for path in folder.glob(".*.old"):
        target = folder / path.name[1:].rsplit(".", 2)[0]
        if target.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            try:
                os.rename(path, target)
            except OSError as error:
                raise refused(target, error) from error
    for path in folder.glob(".*.partial"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Take away a folder, in one step for those who look. One that the disk does not let go of stays."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with suppress(OSError):
        os.rename(folder, beside)
        shutil.rmtree(beside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file of a run in one step; bytes of file names that are no text are escaped, as JSON does.

    Raises ToolboxError when the disk refuses.
    """
    files.write_text(path, text, hint="Choose another out folder.", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """JSON as this project writes it: numbers that are not finite are null, bytes that are no text are escaped."""
    text = files.to_json(value, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def point(link: Path, target: Path) -> None:
    """Make `link` lead to the folder `target` beside it, in one step. Raises ToolboxError when the disk refuses.

    It is a relative symbolic link; where the system or the disk has none, a text file that holds the folder's name,
    which `toolbox.base.files.resolve_run_link` reads.
    """
    beside = link.with_name(f".{link.name}.{os.getpid()}.partial")
    try:
        beside.unlink(missing_ok=True)
        try:
            beside.symlink_to(target.name)
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", None) in _FULL:
                raise
            beside.write_text(target.name + "\n", encoding="utf-8")
            sync(beside)
        os.replace(beside, link)
        sync(link.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise refused(link, error) from error


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # no other kind of file would help


def refused(target: Path, error: OSError, hint: str = _HINT) -> ToolboxError:
    """What to raise when the disk does not take `target`."""
    return ToolboxError(f"{target} cannot be written: {error.strerror or error}.", hint=hint)
