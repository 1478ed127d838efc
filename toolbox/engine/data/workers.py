"""What the processes that read data are doing: for the message when one dies, and the warning when one hangs."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

from torch.utils.data import get_worker_info

from toolbox.engine.data.batch_plan import BatchPlan
from toolbox.errors import ToolboxError

PATIENCE = 60.0
"""Seconds that a batch is awaited before each warning."""

_LATE = 5.0  # seconds that workers have to finish the item that they read when a run ends
_IDLE, _COLLATING = -1, -2
_CELLS = 4  # pid, draw, item, since when
_GUESSES = {
    "SIGKILL": "as the system does when memory runs out",
    "SIGBUS": "as when shared memory runs out: /dev/shm has {free} free",
    "SIGSEGV": "a crash inside a library, such as the decoder of a damaged file",
}


def _tell(text: str) -> None:
    print(f"Warning: {text}", file=sys.stderr, flush=True)


class WorkerStatus:
    """Which item every worker is reading, in memory that all processes see. A note costs a few stores.

    - `workers`: how many; 0 for the main process alone.
    """

    def __init__(self, workers: int) -> None:
        size = _CELLS * max(workers, 1)
        self._cells: Any = multiprocessing.RawArray("d", size) if workers else [0.0] * size

    def reading(self, draw: int, item: int) -> None:
        """This process reads `item` now."""
        worker = get_worker_info()
        at = _CELLS * (worker.id if worker else 0)
        self._cells[at : at + _CELLS] = [os.getpid(), draw, item, time.monotonic()]

    def collating(self, draw: int) -> None:
        """This process puts together the batch of `draw`."""
        self.reading(draw, _COLLATING)

    def idle(self) -> None:
        """This process has handed its batch over."""
        self.reading(0, _IDLE)

    def rows(self) -> list[tuple[int, int, int, float]]:
        """(process id, draw, item, seconds) of every process that has begun."""
        now = time.monotonic()
        rows = [self._cells[at : at + _CELLS] for at in range(0, len(self._cells), _CELLS)]
        return [(int(pid), int(draw), int(item), now - since) for pid, draw, item, since in rows if pid]


class WorkerMonitor:
    """Follows one loader: the batches that are under way, its processes, and how long the next batch has been awaited.

    - `plan`: yields the draws of every batch from number `plan.start` on.
    - `dataset`: its name, `where`: the recipe's key of its dataloader; for messages.
    - `log`: gets a warning for every `patience` seconds that a batch is awaited.
    """

    def __init__(
        self,
        plan: BatchPlan,
        workers: int,
        *,
        dataset: str,
        where: str,
        log: Callable[[str], None] | None = None,
        patience: float | None = None,
    ) -> None:
        self.plan, self.board, self.dataset, self.where = plan, WorkerStatus(workers), dataset, where
        self._tell, self._patience = log or _tell, patience or PATIENCE
        self._processes: list[Any] = []
        self._under_way: deque[tuple[int, list[tuple[int, int]]]] = deque()
        self._since: float | None = None
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number, draws in enumerate(self.plan, self.plan.start):
            self._under_way.append((number, draws))
            yield draws

    def __len__(self) -> int:
        return len(self.plan)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Within, the loader starts its processes."""
        others = set(multiprocessing.active_children())
        main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGCHLD) if main and hasattr(signal, "SIGCHLD") else None
        try:
            yield
        except OSError as error:
            raise ToolboxError(
                f"No process could be started to read data: {error.strerror or error}.",
                where=f"{self.where}.num_workers",
                hint=f"Try fewer: the override {self.where}.num_workers=0",
            ) from error
        finally:
            if handler is not None:
                # torch has put in one that raises wherever the main process is, as in the middle of an update; without
                # it a death is found when the next batch is awaited, within five seconds
                signal.signal(signal.SIGCHLD, handler)
        self._processes = [child for child in multiprocessing.active_children() if child not in others]
        atexit.register(self._end_processes)
        threading.Thread(target=self._look, name="data watch", daemon=True).start()

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Within, the next batch is awaited. Raises ToolboxError when a worker has died."""
        self._since = time.monotonic()
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            if not isinstance(error, RuntimeError):  # a worker that is just ending no longer hands its batches over
                ending = connection.wait([process.sentinel for process in self._processes], timeout=5)
                for process in self._processes:
                    process.join(5 if process.sentinel in ending else 0)
            if dead := [process for process in self._processes if process.exitcode is not None]:
                raise self._death(dead) from error
            raise
        finally:
            self._since = None
        if self._under_way:
            self._under_way.popleft()

    def close(self, stream: Any = None) -> None:
        """End the processes of `stream`, the loader's iterator, and stop looking.

        Left to the garbage collector, torch may wait for every worker in vain, and one that hangs in a read would keep
        the process from ever ending: workers ignore SIGTERM, which reaches the main process too.
        """
        self._closed.set()
        try:
            if sys.is_finalizing():  # no thread can start any more: waiting for one would never end
                return
            late = threading.Timer(_LATE, self._end_processes)
            late.start()
            try:
                if hasattr(stream, "_shutdown_workers"):
                    stream._shutdown_workers()
            finally:
                late.cancel()
        finally:
            self._end_processes()
            atexit.unregister(self._end_processes)

    def _end_processes(self) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()
        for process in self._processes:
            process.join(1)

    # ---- what it says

    def _look(self) -> None:
        told = 0.0
        while not self._closed.wait(self._patience / 4):
            since = self._since
            if since is None or time.monotonic() - max(since, told) < self._patience:
                continue
            told = time.monotonic()
            self._tell(self._stall(told - since))

    def _stall(self, seconds: float) -> str:
        under_way = list(self._under_way)
        if not under_way:
            return f"A batch has been awaited for {seconds:.0f} s."
        number, draws = under_way[0]
        items = {item for _, item in draws}
        reading = [
            f"process {pid} has {'put it together' if item == _COLLATING else f'been reading item {item}'} "
            f"for {spent:.0f} s"
            for pid, draw, item, spent in self.board.rows()
            if item in items or (item == _COLLATING and any(draw == drawn for drawn, _ in draws))
        ]
        return (
            f"Batch {number} of {self.where} has been awaited for {seconds:.0f} s: "
            f"{'; '.join(reading) or 'no process is reading it'}. It holds {self._items(draws)}. The run goes on "
            f"waiting; is the disk or the network they are read from slow?"
        )

    def _death(self, dead: list[Any]) -> ToolboxError:
        rows = {pid: (draw, item) for pid, draw, item, _ in self.board.rows()}
        told = []
        for process in dead:
            draw, item = rows.get(process.pid, (0, None))
            batch = next(((n, d) for n, d in self._under_way if any(draw == drawn for drawn, _ in d)), None)
            if item is None or item == _IDLE:
                doing = "before it read anything" if item is None else "between two batches"
            else:
                doing = "while it put a batch together" if item == _COLLATING else f"while it read item {item}"
                doing += f" (batch {batch[0]}: {self._items(batch[1])})" if batch else ""
            told.append(f"The data worker with process id {process.pid} {_end(process.exitcode)} {doing}.")
        return ToolboxError(
            " ".join(told),
            where=self.where,
            hint=f"Try fewer workers; the override {self.where}.num_workers=0 reads in the main process and shows the "
            f"error itself. /dev/shm, through which batches pass, has {_free_shared()} free.",
        )

    def _items(self, draws: list[tuple[int, int]], most: int = 12) -> str:
        indices = [str(item) for _, item in draws]
        more = f" and {len(indices) - most} more" if len(indices) > most else ""
        return f"items {', '.join(indices[:most])}{more} of {self.dataset}"


def _end(code: int) -> str:
    """How a process ended, as the middle of a sentence."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"was ended by signal {-code}"
    guess = _GUESSES.get(name)
    return f"was ended by {name}" + (f" ({guess.format(free=_free_shared())})" if guess else "")


def _free_shared() -> str:
    try:
        found = os.statvfs("/dev/shm")
    except (OSError, AttributeError):  # Windows has neither
        return "nothing known"
    return f"{found.f_bavail * found.f_frsize / 2**20:.0f} MB"
