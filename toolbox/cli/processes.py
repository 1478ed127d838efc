"""Commands that several processes run together, as torchrun or srun starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from typing import TYPE_CHECKING

from toolbox.cli.common import prepare_process, report_interruption

if TYPE_CHECKING:
    from toolbox.engine.distributed.context import DistributedContext
    from toolbox.engine.signals import Interrupted


def run_in_processes(
    command: Callable[[DistributedContext], int], launcher: str | None = None, *, leaves_together: bool = False
) -> int:
    """Run a command as one of the processes of a launcher, or alone; returns its exit code, 128 + n after signal n.

    - `command`: is given the processes; it calls `DistributedContext.start` before they compute together. Of
      several, only the main process's standard output is seen.
    - `launcher`: "none", "pytorch", "slurm"; None is torchrun where it started this process.
    - `leaves_together`: after a signal all processes leave the command at the same place. Else the first one that
      leaves ends the others.
    """
    prepare_process()
    from toolbox.engine.distributed.context import DistributedContext, OtherProcessFailed
    from toolbox.engine.distributed.rank_info import detect_rank
    from toolbox.engine.signals import Interrupted

    place = detect_rank(launcher)
    try:
        with ExitStack() as ends:
            if place.rank:
                ends.enter_context(redirect_stdout(ends.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            with DistributedContext(place) as distributed:
                try:
                    return command(distributed)
                except Interrupted as interrupted:
                    if leaves_together or distributed.world_size == 1:
                        raise
                    raise _UnsharedInterruption(interrupted) from interrupted  # which ends the others
    except (Interrupted, _UnsharedInterruption) as error:
        signal = error if isinstance(error, Interrupted) else error.interrupted
        return 128 + signal.signum if place.rank else report_interruption(signal)
    except OtherProcessFailed as failure:  # that one says why
        return failure.code


class _UnsharedInterruption(Exception):
    """A signal has ended this process's work, and the others may not have heard of it."""

    def __init__(self, interrupted: Interrupted) -> None:
        super().__init__(str(interrupted))
        self.interrupted = interrupted
