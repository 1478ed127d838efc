"""Where a run's messages go. The plain one prints lines; the command line puts a live bar in its place."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from toolbox.base.intervals import split_intervals

MOST_PARTS = 8
"""How many numbers of one prefix ("linear/cls/0.01") a line shows; of more it counts them."""


def shown(metrics: dict[str, float]) -> str:
    """Metrics on one line, with their intervals."""
    numbers, bounds = split_intervals(metrics)
    parts = [name for name in numbers if "/" in name]
    hidden = parts if len(parts) > MOST_PARTS else []
    words = [
        f"{name} {digits(value)}" + (f" ({bounds[name][0]:.4f} to {bounds[name][1]:.4f})" if name in bounds else "")
        for name, value in numbers.items()
        if name not in hidden
    ]
    return " ".join([*words, f"and {len(hidden)} more"] if hidden else words)


def digits(value: float) -> str:
    """A count as it is; else four decimals, more for what would come out as zero, fewer for what is large."""
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:.10g}"
    return f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


class Console:
    """Lines on standard output, and in train.log once a run has a folder."""

    def __init__(self) -> None:
        self.log_file: Path | None = None
        self._activity, self._reported = "", 0.0

    def info(self, text: str) -> None:
        """Say something."""
        self.show(text)
        self._keep(text)

    def warn(self, text: str) -> None:
        """Say something that the user should not miss."""
        self.show(f"Warning: {text}")
        self._keep(f"Warning: {text}")

    def show(self, text: str) -> None:
        """Print a line; a reader that has gone ends the printing, not the run."""
        try:
            print(text.encode(errors="backslashreplace").decode(), flush=True)  # names of files may be no text
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def start(self, step: int, steps: int) -> None:
        """Training begins at `step` of `steps`."""

    def advance(self, step: int, values: dict[str, float]) -> None:
        """`step` steps are done; `values` are new numbers, often none."""
        if values:
            self.info(f"step {step}: " + " ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def reach(self, what: str, done: int, total: int) -> None:
        """`done` of `total` items of some work beside training are done; `stop` ends it. Said every few seconds."""
        now = time.monotonic()
        if what != self._activity:
            self._activity, self._reported = what, now
        elif now - self._reported >= 5:
            self._reported = now
            self.show(f"{what}: {done:,} of {total:,}")

    def stop(self) -> None:
        """Training has ended, one way or another."""
        sys.stdout.flush()

    def _keep(self, text: str) -> None:
        if self.log_file is not None:
            # a line of the log is not worth a run: what the run needs will complain itself
            with suppress(OSError), self.log_file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")


class QuietConsole(Console):
    """Prints nothing; train.log is written as ever."""

    def show(self, text: str) -> None:
        pass


class CallbackConsole(Console):
    """Passes every line on, where standard output belongs to something else.

    - `log`: gets them.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__()
        self.log = log

    def show(self, text: str) -> None:
        self.log(text)


class NullConsole(Console):
    """Says nothing and writes nothing: of several processes, one speaks for all."""

    def info(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def reach(self, what: str, done: int, total: int) -> None:
        pass
