"""Ctrl-C and SIGTERM end a run at the next step, with a checkpoint; a second one ends it at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn


class Interrupted(Exception):
    """The run was asked to end and has saved what it had; the process should exit with 128 + `signum`."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignal:
    """While active, remembers the first SIGINT or SIGTERM in `received` instead of dying of it."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if self.received is not None:
            leave_at_once(128 + signum)
        self.received = signum


def leave_at_once(code: int) -> NoReturn:
    """End this process without tidying up, and its data workers, which else would stay for seconds."""
    try:
        for child in multiprocessing.active_children():
            child.kill()
    finally:
        os._exit(code)
