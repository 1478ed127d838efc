"""Python processes that start at once: forked from a server that has imported torch and the toolbox, and nothing else.

They are as `python SCRIPT ARGUMENTS` would be, but for the imports, which take seconds. What is to be seen of imports,
of the interpreter's options or of its end needs `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.fsdp", "torchvision", "toolbox.engine.trainer", "toolbox.cli.train"]
)
_FOR_ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class ForkedPython:
    """A process, the leader of a process group of its own; what it writes goes to files.

    - `arguments`: those of the interpreter: a script or "-c" with code, and what `sys.argv` holds beyond.
    - `environment`: further variables, or None to take one away.
    """

    def __init__(self, *arguments: object, cwd: Path | None = None, environment: dict | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("out", "err")]
        for file in self._files:
            file.touch()
        variables = {**os.environ, **_FOR_ONE_THREAD, **(environment or {})}
        variables = {name: value for name, value in variables.items() if value is not None}
        self._process = _CONTEXT.Process(
            target=_run, args=(list(map(str, arguments)), cwd or Path.cwd(), variables, *self._files)
        )
        with _environment(_FOR_ONE_THREAD):  # of the server, if this is its first process
            self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As of `subprocess.Popen`; None while it runs."""
        return self._process.exitcode

    def lines(self) -> Iterator[str]:
        """The lines of its standard output, as they are written."""
        with self._files[0].open() as file:
            line, ended = "", False
            while not ended:
                ended = self.returncode is not None  # what it wrote before is read once more
                while part := file.readline():
                    line += part
                    if line.endswith("\n"):
                        yield line
                        line = ""
                time.sleep(0.01)

    def kill_group(self, signum: int) -> None:
        """Send a signal to it and its children."""
        os.killpg(self.pid, signum)

    def wait(self, timeout: float) -> None:
        """Wait until it ends, for so many seconds at most."""
        self._process.join(timeout)

    def end(self, timeout: float = 120) -> tuple[int, str, str]:
        """Exit code, standard output and standard error; one that does not end in time is killed: -9."""
        self.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            self.kill_group(signal.SIGKILL)
        self._process.join()
        texts = [file.read_text() for file in self._files]
        self._folder.cleanup()
        return self.returncode, *texts


def run_python(*arguments: object, timeout: float = 300, **options) -> CompletedProcess:
    """As `subprocess.run`; `options` as of `ForkedPython`."""
    code, out, err = ForkedPython(*arguments, **options).end(timeout)
    return CompletedProcess(arguments, code, out, err)


def run_ranks(*script: object, folder: Path, size: int = 2) -> None:
    """Run `SCRIPT RANK FOLDER` in several processes at once; all must end well."""
    processes = [ForkedPython(*script, rank, folder) for rank in range(size)]
    ends = [process.end() for process in processes]
    assert [code for code, *_ in ends] == [0] * size, ends


def _run(arguments: list[str], cwd: Path, variables: dict[str, str], out: Path, err: Path) -> None:
    """What the process does, in place of the interpreter."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the system's, not that of the server
    os.fsync = lambda descriptor: None  # as in tests/conftest.py
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, file in enumerate((out, err), start=1):
        target = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(target, descriptor)
        os.close(target)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
    sys.path[:0] = variables.get("PYTHONPATH", "").split(os.pathsep)
    script, *sys.argv = arguments if arguments[0] == "-c" else [arguments[0], *arguments]
    try:
        if script == "-c":
            code, sys.argv[0] = sys.argv[0], "-c"
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
