"""Where the time of a step goes: a trace for Chrome, a table, and how often the processor waited for the device."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent

from toolbox.base import Hook, Run
from toolbox.engine.checkpoint.files import write_text
from toolbox.plugin import Device

WARM_UP = 3
"""Steps before the first that is profiled: the first ones choose kernels, fill caches and compile."""

PHASES = ("waiting for data", "forward", "backward", "optimizer")
_OURS, _BETWEEN = "phase: ", "what lies between"
_WAITS = re.compile(r"(cuda|hip|acl|aclrt|npu)?(Stream|Device|Event)_?Synchronize|(cu|aclrt)(Ctx|Stream)Synchronize")
_NOTHING = nullcontext()


def phase(name: str) -> AbstractContextManager:
    """Names a stretch of a step in the trace and in the table; costs nothing while nothing is profiled."""
    if not torch.autograd.profiler._is_profiler_enabled:
        return _NOTHING
    return torch.profiler.record_function(_OURS + name)


class Profiler(Hook):
    """Profiles steps of a run and writes `profile/trace.json` and `profile/table.txt` into its folder.

    - `steps`: how many; a step reaches from the end of the one before to its own, logging, validation and checkpoints
      between them included.
    - `device`: of the run.

    Whatever goes wrong is told and ends the profile, never the run.
    """

    def __init__(self, steps: int, device: Device) -> None:
        self.steps, self.device, self.done = steps, device, -WARM_UP
        self._profiler: torch.profiler.profile | None = None
        self._failed = False

    def after_step(self, run: Run) -> None:
        self.done += 1
        if self._failed or self.done > self.steps:
            return
        with self._harmless(run):
            if self.done == 0:
                on_cpu = self.device.type == "cpu"  # then the profiler need not look for an accelerator
                activities = [torch.profiler.ProfilerActivity.CPU] if on_cpu else None
                self._profiler = torch.profiler.profile(activities=activities)
                self._profiler.start()
            elif self.done == self.steps and self._profiler is not None:
                self._write(run, self._profiler)

    def after_run(self, run: Run) -> None:
        """Write what there is, if the run ended before all steps were profiled."""
        if self._failed or self.done >= self.steps:
            return
        with self._harmless(run):
            if self._profiler is None:
                run.warn(f"Nothing was profiled: the run had no step after the first {WARM_UP}.")
            else:
                self._write(run, self._profiler)

    def _write(self, run: Run, profiler: torch.profiler.profile) -> None:
        self._profiler = None
        profiler.stop()
        folder = Path(run.work_dir) / "profile"
        folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(folder / "trace.json"))
        found = summarize(profiler.events(), max(1, min(self.done, self.steps)))
        write_text(folder / "table.txt", found.text())
        run.info(f"Profile of {found.steps} steps: {folder / 'table.txt'}; {found.waits_said()}")

    @contextmanager
    def _harmless(self, run: Run) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failed = True
            run.warn(f"The profile failed, and the run goes on without it: {type(error).__name__}: {error}")


@dataclass
class Summary:
    """What profiled steps spent, in microseconds.

    - `phases`: name -> (time of the processor, time of the device). `operators`: name -> (calls, own time of the
      processor, own time of the device).
    - `waits`: (phase, call, what was waiting) -> how often the processor waited for the device.
    """

    steps: int
    phases: dict[str, list[float]] = field(default_factory=dict)
    operators: dict[str, list[float]] = field(default_factory=dict)
    waits: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def waits_said(self) -> str:
        """One sentence on waiting for the device."""
        inside = sum(count for (where, _, _), count in self.waits.items() if where != _BETWEEN)
        outside = sum(self.waits.values()) - inside
        return (
            f"the processor waited for the device {inside / self.steps:g} times a step, and {outside} times in all "
            "between steps (logging, validation, checkpoints)."
        )

    def text(self, top: int = 25) -> str:
        """The table, with the `top` operators by own time."""
        lines = [f"{self.steps} steps, milliseconds a step", "", f"{'phase':<24}{'processor':>12}{'device':>12}"]
        for name, (cpu, device) in self.phases.items():
            lines.append(f"{name:<24}{cpu / self.steps / 1000:>12.3f}{device / self.steps / 1000:>12.3f}")
        lines += ["", self.waits_said()[0].upper() + self.waits_said()[1:]]
        for (where, call, what), count in sorted(self.waits.items(), key=lambda item: -item[1]):
            lines.append(f"  {count:>6} x {call} in {where}, from {what}")
        lines += ["", f"{'operator, by own time':<64}{'calls':>10}{'processor':>12}{'device':>12}"]
        order = sorted(self.operators.items(), key=lambda item: -max(item[1][1:]))
        for name, (calls, cpu, device) in order[:top]:
            shown = name if len(name) <= 62 else name[:59] + "..."
            numbers = f"{calls / self.steps:>10.1f}{cpu / self.steps / 1000:>12.3f}{device / self.steps / 1000:>12.3f}"
            lines.append(f"{shown:<64}{numbers}")
        return "\n".join(lines) + "\n"


def summarize(events: Iterable[FunctionEvent], steps: int) -> Summary:
    """Add up the events of `steps` profiled steps."""
    found = Summary(steps)
    phases: dict[str, list[float]] = {name: [0.0, 0.0] for name in PHASES}
    operators: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    events = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    spans = []
    for event in events:
        if event.name.startswith(_OURS):
            name = event.name.removeprefix(_OURS)
            spans.append((event.time_range.start, event.time_range.end, name))
            total = phases.setdefault(name, [0.0, 0.0])
            total[0] += event.time_range.elapsed_us()
            total[1] += event.device_time_total
        else:
            row = operators[event.name]
            row[0] += 1
            row[1] += event.self_cpu_time_total
            row[2] += event.self_device_time_total
    found.phases, found.operators = phases, dict(operators)
    for event in waits(events):
        at = event.time_range.start
        where = next((name for start, end, name in spans if start <= at <= end), _BETWEEN)
        key = (where, event.name, _caller(event))
        found.waits[key] = found.waits.get(key, 0) + 1
    return found


def waits(events: Iterable[FunctionEvent]) -> list[FunctionEvent]:
    """The calls that wait for the device. A number read from a CPU tensor waits for nothing and is not among them."""
    return [event for event in events if _WAITS.fullmatch(event.name)]


def _caller(event: Any) -> str:
    """The operators around a call, the outermost first."""
    names: list[str] = []
    parent = event.cpu_parent
    while parent is not None and not parent.name.startswith(_OURS):
        names.append(parent.name)
        parent = parent.cpu_parent
    return " > ".join(reversed(names)) or "outside operators"
