"""The live bar of a terminal; elsewhere plain lines with the same numbers."""

from __future__ import annotations

import sys
import time

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from toolbox.engine.console import Console

NOTABLE_WAIT = 0.1
"""The share of the time spent waiting for data from which on a narrow line names it."""


def choose_console() -> Console:
    """The console that fits standard output: a bar on a terminal, else lines."""
    return LiveConsole() if sys.stdout.isatty() else LineConsole()


class LineConsole(Console):
    """A line of numbers with throughput and remaining time, at most one a second unless the run is young."""

    def __init__(self) -> None:
        super().__init__()
        self._last = 0.0

    def start(self, step: int, steps: int) -> None:
        self._begun, self._first, self._steps = time.monotonic(), step, steps

    def advance(self, step: int, values: dict[str, float]) -> None:
        if not values:
            return
        now = time.monotonic()
        line = f"step {step}/{self._steps} " + describe(values)
        if now - self._last >= 1 or step == self._steps:
            self._last = now
            left = (now - self._begun) / (step - self._first) * (self._steps - step)
            self.show(f"step {step}/{self._steps} {summarize(values)} ETA {format_clock(left)}")
        self._keep(line)


class LiveConsole(Console):
    """A progress bar with throughput and remaining time; messages scroll above it."""

    def __init__(self) -> None:
        super().__init__()
        self._terminal = Terminal()
        self._bar: Progress | None = None

    def show(self, text: str) -> None:
        self._terminal.print(text, highlight=False, soft_wrap=True, markup=False)

    def start(self, step: int, steps: int) -> None:
        bar = (BarColumn(bar_width=10), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
        self._start_bar(bar, steps, step)

    def reach(self, what: str, done: int, total: int) -> None:
        bar = self._bar or self._start_bar((TextColumn(what), BarColumn(bar_width=10), MofNCompleteColumn()), total)
        bar.update(self._task, completed=done)

    def _start_bar(self, columns: tuple[ProgressColumn, ...], total: int, completed: int = 0) -> Progress:
        columns = (*columns, TextColumn("ETA"), TimeRemainingColumn(compact=True))
        self._bar = bar = Progress(*columns, console=self._terminal)
        self._task = bar.add_task("", total=total, completed=completed, numbers="")
        bar.start()
        return bar

    def advance(self, step: int, values: dict[str, float]) -> None:
        if self._bar is None:
            return
        self._bar.update(self._task, completed=step)
        if values:
            self._bar.update(self._task, numbers=summarize(values))
            self._keep(f"step {step} " + describe(values))

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        super().stop()


def describe(values: dict[str, float]) -> str:
    """The numbers of a step that a person follows; without a loss where every update was left out."""
    text = f"loss {values['loss']:.4f}" if "loss" in values else "loss not finite"
    text += f" lr {values['lr']:.2e}"
    if "grad_norm" in values:
        text += f" grad_norm {values['grad_norm']:.2f}"
    if values.get("skipped_steps"):
        text += f" {values['skipped_steps']} left out so far,"
    return f"{text} {values['items_per_second']:.0f} items/s, {values['data_wait_share']:.0%} waiting for data"


def summarize(values: dict[str, float]) -> str:
    """The same for a terminal of 80 columns, beside a step number, a bar and a time; the log has the rest."""
    text = f"loss {values['loss']:.4g}" if "loss" in values else "loss not finite"
    text += f" lr {values['lr']:.1e} {values['items_per_second']:.0f}/s"
    if values.get("skipped_steps"):
        return f"{text} {values['skipped_steps']} skipped"
    waiting = values["data_wait_share"]
    return f"{text} wait {waiting:.0%}" if waiting >= NOTABLE_WAIT else text


def format_clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
