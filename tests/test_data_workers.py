"""What a run says of the processes that read its data: one that dies, one that hangs, and what they raise."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from forked_python import run_python
from test_resume import Said
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import toolbox
from toolbox.engine.data import workers
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
from toolbox.engine.data.batch_plan import TrainBatches
from toolbox.engine.data.loader import batches
from toolbox.errors import ToolboxError
from toolbox.registry import build, get_catalog

PLAIN = ["evaluate_before=False", "val_dataloader=None", "val_evaluator=None"]


@pytest.fixture
def reads(toy, monkeypatch):
    """`reads(action)`: before item 17 of toy.Noise is read, `action()` is called by whoever reads it."""
    toy()
    # so often torch looks whether a worker has died, by default every five seconds
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))
    noise = get_catalog().resolve("toy.Noise", "dataset")
    original = noise.__getitem__

    def install(action, at=17):
        def read(self, index):
            if index == at:
                action()
            return original(self, index)

        monkeypatch.setattr(noise, "__getitem__", read)

    return install


def await_file(path, seconds=60):
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)


def stream(toy, count, **options):
    """Eight batches of eight items each, in order."""
    config = toy()
    dataset = build(config.train_dataloader.dataset)
    sampler = build({"type": "core.Sequential", "batch_size": 8}, "sampler")
    sampler.setup(dataset, seed=0)
    fetch = BatchBuilder(dataset, input_specs(toolbox.build(config)))
    return batches(fetch, TrainBatches(sampler, 0, len(sampler)), workers=count, **options)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL (as the system does when memory runs out)"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "SIGBUS (as when shared memory runs out"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "SIGSEGV (a crash inside a library"),
        (lambda: sys.exit(3), "exited with code 3"),
    ],
)
def test_a_worker_that_dies_is_named_with_what_it_read(toy, reads, action, said):
    reads(action)
    with pytest.raises(ToolboxError) as caught:
        list(stream(toy, 2, where="val_dataloader"))
    (problem,) = caught.value.problems
    assert said in problem.message
    assert "while it read item 17 (batch 2: items 16, 17, 18, 19, 20, 21, 22, 23 of Noise)" in problem.message
    assert "with process id" in problem.message
    assert f"process id {os.getpid()} " not in problem.message
    assert problem.where == "val_dataloader"
    assert "the override val_dataloader.num_workers=0" in problem.hint
    assert "/dev/shm" in problem.hint


def test_a_death_ends_the_run_between_two_steps_with_one_message(toy, reads):
    reads(lambda: os.kill(os.getpid(), signal.SIGKILL))
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(ToolboxError, match=r"train_dataloader: The data worker .* was ended by SIGKILL"):
        toolbox.train(toy([*PLAIN, "train_dataloader.num_workers=2"]), out="w")
    assert signal.getsignal(signal.SIGCHLD) is before  # torch's would raise in the middle of a step


@pytest.mark.parametrize("count", [0, 1])
def test_a_defect_of_a_dataset_keeps_its_traceback_and_names_the_item(toy, reads, count):
    def broken():
        return {}["colour"]

    reads(broken)
    with pytest.raises(KeyError) as caught:
        list(stream(toy, count))
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "This happened at item 17 of Noise." in told
    if count:
        assert "in broken" in told  # the worker's own traceback


@pytest.mark.parametrize("count", [0, 1])
def test_items_that_make_no_batch_are_named(toy, monkeypatch, count):
    reading = stream(toy, count)
    monkeypatch.setattr(torch, "tensor", lambda labels: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        list(reading)
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "as items 0, 1, 2, 3, 4, 5, 6, 7 of Noise became a batch" in told


@pytest.mark.parametrize("count", [0, 2])
def test_a_read_that_hangs_is_told_again_and_again_and_the_run_goes_on(toy, reads, monkeypatch, tmp_path, count):
    monkeypatch.setattr(workers, "PATIENCE", 0.4)
    reads(lambda: await_file(tmp_path / "twice"))
    said = []

    def log(line):
        said.extend([line] * ("Batch 2 of" in line))
        if len(said) == 2:
            (tmp_path / "twice").touch()

    found = [batch.indices for batch in stream(toy, count, log=log)]
    assert [index for indices in found for index in indices] == list(range(64))
    assert len(said) >= 2
    assert "Batch 2 of train_dataloader has been awaited for" in said[0]
    assert "has been reading item 17 for" in said[0]
    assert "It holds items 16, 17, 18, 19, 20, 21, 22, 23 of Noise" in said[0]
    assert ("process " + str(os.getpid()) in said[0]) == (count == 0)


def test_a_hanging_read_is_told_in_the_log_of_the_run(toy, reads, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "PATIENCE", 0.4)
    reads(lambda: await_file(tmp_path / "told"))

    class Telling(Said):
        def show(self, text):
            super().show(text)
            if "has been awaited for" in text:
                (tmp_path / "told").touch()

    toolbox.train(toy([*PLAIN, "train_dataloader.num_workers=1"]), out="w", console=Telling())
    assert (tmp_path / "told").exists()


def test_nobody_looks_after_a_loader_that_is_done(toy, monkeypatch):
    import threading

    monkeypatch.setattr(workers, "PATIENCE", 0.04)
    said = []
    reading = stream(toy, 0, log=said.append)
    next(reading)
    said.clear()  # on a busy machine it may have been awaited
    watching = [thread for thread in threading.enumerate() if thread.name == "data watch"]
    assert len(watching) == 1
    time.sleep(0.2)  # the run is busy: nothing is awaited
    reading.close()
    watching[0].join(30)
    assert not watching[0].is_alive()
    assert said == []


def test_a_batch_that_finds_no_shared_memory_says_so(toy, monkeypatch):
    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(ToolboxError, match="No space left on device") as caught:
        list(stream(toy, 1))
    assert "--shm-size" in caught.value.problems[0].hint
    assert len(list(stream(toy, 0))) == 8  # nothing is shared without workers


def test_a_process_that_cannot_be_started_says_so(toy, monkeypatch):
    def refuse(self):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    with pytest.raises(ToolboxError, match="No process could be started") as caught:
        list(stream(toy, 1))
    assert "num_workers=0" in caught.value.problems[0].hint


@pytest.mark.parametrize("action", ["raises", "hangs"])
def test_no_worker_outlives_its_loader(toy, reads, monkeypatch, action):
    """They ignore SIGTERM, so one that hangs would keep the process of the run from ending."""
    monkeypatch.setattr(workers, "_LATE", 0.2)

    def act():
        if action == "hangs":
            time.sleep(60)
        raise KeyError("a defect")

    reads(act)
    reading, started = stream(toy, 2), time.monotonic()
    next(reading)
    processes = multiprocessing.active_children()
    assert len(processes) >= 2
    if action == "raises":
        with pytest.raises(KeyError):
            list(reading)
    else:
        reading.close()
    assert time.monotonic() - started < 30
    assert not any(process.is_alive() for process in processes)


def test_who_leaves_at_once_takes_its_data_workers_along(tmp_path):
    code = (
        "import multiprocessing, time; from toolbox.engine.signals import leave_at_once\n"
        "worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,), daemon=True)\n"
        "worker.start(); print(worker.pid, flush=True); leave_at_once(130)"
    )
    done = run_python("-c", code)
    assert done.returncode == 130, done.stderr
    state = Path("/proc", done.stdout.strip(), "stat")
    latest = time.monotonic() + 30  # it is killed, and may still have to end
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < latest
        time.sleep(0.05)
