"""Locks on files, where the system and the disk have them."""

from __future__ import annotations

import errno
from typing import IO, Any

_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


def try_lock(file: IO[Any], *, wait: bool = False) -> bool | None:
    """Lock an open file for this process, until it is closed.

    - `wait`: until the process that holds it lets go.

    Returns True for a lock, False where another process holds it, and None where files cannot be locked: on Windows,
    and on disks without flock (some network and container file systems).
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def explain_missing_lock(what: str) -> str:
    """The warning for the user where `try_lock` gave None; `what`: the thing that is not protected."""
    return f"{what} cannot be locked on this disk or system: see to it that no other process writes there."
