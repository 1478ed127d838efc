"""Scripts that run as several processes of one run, each started as a launcher would do it."""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path

from forked_python import ForkedPython

_PORTS = itertools.cycle(range(20000 + os.getpid() % 500 * 24, 20024 + os.getpid() % 500 * 24))
"""Below those that systems choose for connections, and others for each process that runs tests."""


def free_port() -> int:
    """A port that nobody listens on."""
    return next(port for port in _PORTS if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Group:
    """Processes that know of each other, each the leader of a process group of its own.

    - `size`: how many; `command`: what each of them runs, after the interpreter.
    - `environment`: further variables, or None to take one away.
    """

    def __init__(
        self, size: int, *command: str | Path, cwd: Path | None = None, environment: dict | None = None
    ) -> None:
        port = free_port()
        self.processes = [
            ForkedPython(*command, cwd=cwd, environment=_environment(rank, size, port) | (environment or {}))
            for rank in range(size)
        ]

    def end(self, timeout: float = 300) -> list[tuple[int, str, str]]:
        """Exit code, standard output and standard error of each. Those that do not end in time are killed: -9."""
        until = time.monotonic() + timeout
        for process in self.processes:
            process.wait(max(0.1, until - time.monotonic()))
        return [process.end(0) for process in self.processes]


def run(size: int, *command: str | Path, **options) -> None:
    """Run a script in several processes; all must end well."""
    timeout = options.pop("timeout", 300)
    found = Group(size, *command, **options).end(timeout)
    said = "\n".join(f"--- process {rank}: {code}\n{err[-4000:]}" for rank, (code, _, err) in enumerate(found) if code)
    assert not said, said


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
