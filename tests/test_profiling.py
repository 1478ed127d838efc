"""The profile of a run: its files, what it counts, and that the run is the same with it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_exactness import assert_same, trained
from test_resume import Said

import toolbox
from toolbox.engine.hooks import profiler
from toolbox.engine.hooks.engine_hooks import build_engine_hooks


def table(folder: str) -> str:
    return Path(folder, "profile/table.txt").read_text()


def test_a_profiled_run_writes_a_trace_and_a_table_and_is_otherwise_the_same(toy):
    toolbox.train(toy(), out="plain")
    toolbox.train(toy(), out="profiled", profile=4)
    assert_same(Path("plain"), Path("profiled"))
    assert trained(Path("plain"))[2]["hooks"] == trained(Path("profiled"))[2]["hooks"] == []
    events = json.loads(Path("profiled/profile/trace.json").read_text())["traceEvents"]
    for name in profiler.PHASES:
        assert sum(event.get("name") == f"phase: {name}" and event["ph"] == "X" for event in events) == 4, name
    said = table("profiled")
    assert said.startswith("4 steps, milliseconds a step")
    assert "The processor waited for the device 0 times a step, and 0 times in all" in said
    assert "aten::addmm" in said
    rows = {line[:24].strip(): line.split()[-2:] for line in said.splitlines()[3:7]}
    assert rows.keys() == set(profiler.PHASES)
    assert all(float(processor) > 0 and float(device) == 0 for processor, device in rows.values())


@pytest.mark.parametrize("manner", ["optim_wrapper.grad_cache=dict(chunk_size=3)", "env_cfg.compile=False"])
def test_chunks_have_a_phase_of_their_own(toy, manner):
    toolbox.train(toy([manner]), out="w", profile=2)
    assert ("forward and backward in chunks" in table("w")) == ("chunk_size" in manner)


def test_a_run_that_is_shorter_writes_what_there_is(toy):
    toolbox.train(toy(["train_cfg.max_steps=5"]), out="short", profile=10)
    assert table("short").startswith("2 steps")
    said = Said()
    toolbox.train(toy(["train_cfg.max_steps=2"]), out="none", profile=10, console=said)
    assert any("Nothing was profiled" in line for line in said.lines)
    assert not Path("none/profile").exists()


@pytest.mark.parametrize("method", ["start", "stop", "export_chrome_trace", "events"])
def test_a_profile_that_fails_ends_no_run(toy, monkeypatch, method):
    failed, stop = [], torch.profiler.profile.stop

    def fail(self, *arguments):
        failed.append(self)
        raise RuntimeError("no counters here")

    toolbox.train(toy(), out="plain")
    monkeypatch.setattr(torch.profiler.profile, method, fail)
    said = Said()
    toolbox.train(toy(), out="w", profile=3, console=said)
    assert_same(Path("plain"), Path("w"))
    assert sum("the run goes on without it: RuntimeError: no counters here" in line for line in said.lines) == 1
    if method == "stop":
        stop(failed[0])  # for the tests that follow


def test_only_the_main_process_profiles(toy):
    for is_main in (False, True):
        setup = SimpleNamespace(settings=lambda path: None, device=None)
        hooks = build_engine_hooks(SimpleNamespace(setup=setup, is_main=is_main), profile=3)
        assert any(isinstance(hook, profiler.Profiler) for hook in hooks) == is_main


def test_a_number_of_steps_below_one_is_refused(toy):
    with pytest.raises(toolbox.ToolboxError, match="from 1 up, not 0"):
        toolbox.train(toy(), out="w", profile=0)


def event(name: str, start: float, end: float, parent=None, device=torch.autograd.DeviceType.CPU, **times):
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    own = {"self_cpu_time_total": end - start, "self_device_time_total": 0.0, "device_time_total": 0.0} | times
    return SimpleNamespace(name=name, time_range=span, cpu_parent=parent, device_type=device, **own)


def test_waiting_for_the_device_is_counted_with_its_place():
    """Events as a CUDA run gives them: no GPU is at hand."""
    forward = event("phase: forward", 0, 100, device_time_total=900.0)
    item = event("aten::item", 10, 30, forward)
    read = event("aten::_local_scalar_dense", 11, 29, item)
    found = profiler.summarize(
        [
            forward,
            item,
            read,
            event("cudaMemcpyAsync", 12, 14, read),
            event("cudaStreamSynchronize", 15, 28, read),
            event("cudaLaunchKernel", 40, 41, forward),
            event("cudaDeviceSynchronize", 200, 201),
            event("hipEventSynchronize", 210, 211),
            event("aten::_local_scalar_dense", 300, 301),
            event("cudaStreamSynchronize", 16, 18, device=torch.autograd.DeviceType.CUDA),
        ],
        steps=2,
    )
    assert found.waits == {
        ("forward", "cudaStreamSynchronize", "aten::item > aten::_local_scalar_dense"): 1,
        ("what lies between", "cudaDeviceSynchronize", "outside operators"): 1,
        ("what lies between", "hipEventSynchronize", "outside operators"): 1,
    }
    said = found.text()
    assert "waited for the device 0.5 times a step, and 2 times in all between steps" in said
    assert "1 x cudaStreamSynchronize in forward, from aten::item > aten::_local_scalar_dense" in said
    assert found.phases["forward"] == [100, 900.0]


def test_the_command_takes_the_number_of_steps():
    from toolbox.cli.train import make_parser

    assert make_parser().parse_args(["r"]).profile is None
    assert make_parser().parse_args(["r", "--profile"]).profile == 5
    assert make_parser().parse_args(["r", "--profile", "7"]).profile == 7
