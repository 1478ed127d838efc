"""The processes of a run: they meet, agree between two steps, and end together.

Beside torch's process group, which carries tensors on the device, they have one of their own on the CPU: what is agreed
there never waits for a device.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from toolbox.base.functional import gather_integers
from toolbox.engine.distributed.rank_info import RankInfo
from toolbox.engine.signals import Interrupted, leave_at_once
from toolbox.errors import ToolboxError
from toolbox.plugin import Device

T = TypeVar("T")

_FAILED = "failed"
_WAIT = timedelta(minutes=5)  # for all processes to come
_TIMEOUT = timedelta(hours=2)  # a process that writes a checkpoint or reads a dataset lets the others wait
_PATIENCE = timedelta(seconds=30)  # how long a failing main process waits until all others have heard of it
_PATIENCE_FOR_LOST = timedelta(seconds=3)  # the same where one of them is gone, who will never hear
_SILENCE = 120.0  # seconds after which a process that tells nothing is taken for dead
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "connectFullMesh",
)


class OtherProcessFailed(Exception):
    """Another process of the run has failed and says why; this one ends with its exit code, `code`."""

    def __init__(self, rank: int, code: int) -> None:
        super().__init__(f"Process {rank} failed.")
        self.rank, self.code = rank, code


class DistributedContext:
    """The processes of a run, as one of them sees it; a single process sends nothing.

    A context: who leaves it by an error ends all others, which then raise OtherProcessFailed.

    - `rank_info`: this process's.
    """

    def __init__(self, rank_info: RankInfo | None = None) -> None:
        self.rank_info = rank_info or RankInfo()
        self.rank, self.world_size = self.rank_info.rank, self.rank_info.world_size
        self.is_main = self.rank == 0
        self._store: dist.Store | None = None
        self._launch: dist.Store | None = None  # torchrun's own, which outlives a restart
        self._control: dist.ProcessGroup | None = None
        self._watcher: threading.Thread | None = None
        self._left = threading.Event()
        self._first_failure: OtherProcessFailed | None = None  # as far as this process has heard

    def __enter__(self) -> DistributedContext:
        """Meet the others. Raises ToolboxError when they do not come, or cannot."""
        if self.world_size > 1:
            try:
                store, _, _ = next(dist.rendezvous("env://", timeout=_WAIT))
                self._launch = dist.PrefixStore("toolbox/launch", store)
                self._store = dist.PrefixStore(f"toolbox/{self.rank_info.restarts}", store)
                self._count_in()
            except (dist.DistError, RuntimeError, ValueError) as error:
                raise _cannot_meet(error, self.world_size) from error
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    @property
    def _meeting_store(self) -> dist.Store:
        """Where the processes have met; a single process has none."""
        assert self._store is not None
        return self._store

    def _count_in(self) -> None:
        """Wait for everyone: the first to fail must find all others listening."""
        self._meeting_store.set(f"here/{self.rank}", "")
        self._meeting_store.wait([f"here/{rank}" for rank in range(self.world_size)], _WAIT)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if self.world_size == 1:
            return
        try:
            if error is None or isinstance(error, Interrupted):  # all come here; one may still fail in its last lines
                self.barrier()
        except RuntimeError as lost:
            self._leave()
            if error is None:
                self._fail(lost)
                raise
            return
        self._leave()
        if error is None and dist.is_initialized():
            dist.destroy_process_group()
        elif isinstance(error, OtherProcessFailed):
            if self._store is not None:  # one that waits to be heard may be ended before it speaks
                with suppress(dist.DistError, RuntimeError):
                    self._store.set(f"heard/{self.rank}", "")
        elif error is not None and not isinstance(error, Interrupted):
            self._fail(error)

    def _leave(self) -> None:
        """End the watch: a thread in the store's own code when Python ends takes the process with it."""
        self._left.set()
        if self._watcher is not None:
            self._watcher.join(timeout=5)

    def _fail(self, error: BaseException) -> None:
        """Tell the others; raises OtherProcessFailed where one has failed before."""
        first = self._who_failed(claim=f"{self.rank}:{_exit_code(error)}")
        if first is not None and first.rank != self.rank:
            raise first from error
        if self.is_main and self._store is not None:  # the store may end with this process: let the others hear first
            with suppress(dist.DistError, RuntimeError):
                patience = _PATIENCE_FOR_LOST if _is_lost(error) else _PATIENCE
                self._store.wait([f"heard/{rank}" for rank in range(1, self.world_size)], patience)
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            get_error_handler().record_exception(error)  # torchrun's last lines then say what it was
        if _is_lost(error):
            raise ToolboxError(
                "The connection to another process is lost: it was killed, or its machine went away.",
                hint="Look at its last lines (out of memory?). Go on with resume=True; torchrun --max-restarts=3 does.",
            ) from error

    def start(self, device: Device) -> None:
        """Join torch's process group, once. Raises ToolboxError when it cannot be made."""
        if self.world_size == 1 or self._control is not None:
            return
        self._meet_again()
        backend = device.backend if device.type == "cpu" else f"cpu:gloo,{device.type}:{device.backend}"
        store = dist.PrefixStore("torch", self._meeting_store)
        try:
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world_size, timeout=_TIMEOUT)
            control = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise ToolboxError(
                f"The processes cannot talk over '{backend}': {_first_line(error)}",
                hint="Check the network between the machines (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME).",
            ) from error
        assert isinstance(control, dist.ProcessGroup)  # every process is a member
        self._control = control

    def _meet_again(self) -> None:
        """Wait for everyone, asking now and then: in one long call to the store nothing would be heard of a failure."""
        self._meeting_store.set(f"ready/{self.rank}", "")
        while not self._meeting_store.check([f"ready/{rank}" for rank in range(self.world_size)]):
            time.sleep(0.05)

    # ---- started again by the launcher

    def has_begun(self) -> bool:
        """Whether the run was begun before the launcher started it again, so that its folder is this run's own."""
        if not self.rank_info.restarts or self._launch is None:
            return False
        # where the store is made anew at each start, nobody knows
        return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or self._launch.check(["begun"])

    def begin(self) -> None:
        """Remember, over restarts, that the run's folder is this run's own from now on."""
        if self._launch is not None:
            self._launch.set("begun", "")

    # ---- agreeing; every process must call these, in the same order

    def all_gather(self, value: T) -> list[T]:
        """What each process has, by rank."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value, group=self._control)
        return found

    def all_gather_ints(self, *values: int) -> list[tuple[int, ...]]:
        """The same for a few whole numbers, fast enough for every step."""
        if self.world_size == 1:
            return [values]
        return gather_integers(*values, device=torch.device("cpu"), group=self._control)

    def run_on_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, on all of them; its failure is theirs."""
        if self.world_size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[1] = make()
            except BaseException as error:
                box[0] = _exit_code(error)
                dist.broadcast_object_list(box, src=0, group=self._control)
                raise
        dist.broadcast_object_list(box, src=0, group=self._control)
        if box[0] is not None:
            raise OtherProcessFailed(0, box[0])
        return box[1]

    def barrier(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1 and self._control is not None:
            self.all_gather_ints(0)

    # ---- failing together

    def _watch(self) -> None:
        """End this process when another one fails and it does not notice itself, in a collective call for example."""
        heard: dict[int, tuple[bytes, float]] = {}
        first, rounds = None, 0
        while first is None:
            if self._left.wait(0.5):
                return
            try:
                first = self._who_failed() or (self._listen(heard, rounds // 10) if rounds % 10 == 0 else None)
            except (dist.DistError, RuntimeError):  # the store went away with the main process, which kept it
                first = OtherProcessFailed(0, 1)
            rounds += 1
        if not self._left.wait(5):
            print(f"Process {self.rank} ends: {first}", file=sys.stderr, flush=True)
            leave_at_once(first.code)

    def _listen(self, heard: dict[int, tuple[bytes, float]], beat: int) -> OtherProcessFailed | None:
        """Tell that this process lives; the main one looks whether all others do, and claims that one failed if not.

        - `heard`: by rank, the last that was told, and when it changed.
        """
        store = self._meeting_store
        store.set(f"alive/{self.rank}", str(beat))
        if not self.is_main:
            return None
        now = time.monotonic()
        for rank in range(1, self.world_size):
            key = f"alive/{rank}"
            last_beat = store.get(key) if store.check([key]) else b""
            if rank not in heard or heard[rank][0] != last_beat:
                heard[rank] = (last_beat, now)
            elif now - heard[rank][1] > _SILENCE:
                print(f"Process {rank} has not been heard of for {_SILENCE:.0f} s.", file=sys.stderr, flush=True)
                return self._who_failed(claim=f"{rank}:2")
        return None

    def _who_failed(self, claim: str | None = None) -> OtherProcessFailed | None:
        """The process that failed first; `claim`: what to write where none has."""
        if self._store is None:
            return None
        try:
            if claim is not None:
                told = self._store.compare_set(_FAILED, "", claim).decode()
            elif self._store.check([_FAILED]):
                told = self._store.get(_FAILED).decode()
            else:
                return None
        except (dist.DistError, RuntimeError):
            if claim is None:
                raise
            return self._first_failure  # the main process may end, and the store with it, once the watcher has heard
        rank, code = map(int, told.split(":"))
        self._first_failure = OtherProcessFailed(rank, code)
        if rank != self.rank:
            with suppress(dist.DistError, RuntimeError):
                self._store.set(f"heard/{self.rank}", "")
        return self._first_failure


def check_same(distributed: DistributedContext, facts: dict[str, Any]) -> None:
    """Raise ToolboxError where the processes do not have the same versions, recipe and data, naming what differs."""
    everyone = distributed.all_gather((platform.node(), facts))
    (main_node, main), others = everyone[0], everyone[1:]
    for rank, (node, found) in enumerate(others, start=1):
        different = [name for name in {**main, **found} if found.get(name) != main.get(name)]
        if different:
            name = different[0]
            raise ToolboxError(
                f"Process {rank} on {node} has {name} {found.get(name)}, and process 0 on {main_node} has "
                f"{main.get(name)}.",
                hint="All processes need the same installation, recipe and data.",
            )


SINGLE_PROCESS = DistributedContext()


def _exit_code(error: BaseException) -> int:
    return 2 if isinstance(error, ToolboxError) else 1


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST)
    )


def _cannot_meet(error: Exception, size: int) -> ToolboxError:
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return ToolboxError(
            f"The processes cannot meet at {address}: the port is in use.",
            hint="Choose another: torchrun --master_port=29501 ..., or MASTER_PORT=29501 under SLURM.",
        )
    return ToolboxError(
        f"The {size} processes did not all meet at {address}: {_first_line(error)}",
        hint="Were all of them started, with the same address, and can the machines reach each other?",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
