"""Scripts that run as several processes of one run, each started as a launcher would do it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Group:
    """Processes that know of each other, each the leader of a process group of its own.

    - `size`: how many; `command`: what each of them runs, after the interpreter.
    - `environment`: further variables, or None to take one away; `port`: where they meet, by default a free one.
    - `each`: what a process has beyond that, by rank.
    """

    def __init__(
        self,
        size: int,
        *command: str | Path,
        cwd: Path | None = None,
        environment: dict | None = None,
        port: int | None = None,
        each: dict[int, dict[str, str]] | None = None,
    ) -> None:
        port = port or free_port()
        self.outputs = [(tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")) for _ in range(size)]  # noqa: SIM115
        self.processes = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=cwd,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
                env=_environment(rank, size, port, environment, (each or {}).get(rank)),
            )
            for rank, (out, err) in enumerate(self.outputs)
        ]

    def end(self, timeout: float = 300) -> list[tuple[int, str, str]]:
        """Exit code, standard output and standard error of each. Those that do not end in time are killed: -9."""
        until = time.monotonic() + timeout
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        found = []
        for process, files in zip(self.processes, self.outputs, strict=True):
            texts = []
            for file in files:
                file.seek(0)
                texts.append(file.read())
                file.close()
            found.append((process.returncode, *texts))
        return found


def run(size: int, *command: str | Path, **options) -> None:
    """Run a script in several processes; all must end well."""
    timeout = options.pop("timeout", 300)
    found = Group(size, *command, **options).end(timeout)
    said = "\n".join(f"--- process {rank}: {code}\n{err[-4000:]}" for rank, (code, _, err) in enumerate(found) if code)
    assert not said, said


def _environment(rank: int, size: int, port: int, more: dict | None, own: dict | None) -> dict[str, str]:
    known = {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        **(more or {}),
        **(own or {}),
    }
    return {name: value for name, value in known.items() if value is not None}
