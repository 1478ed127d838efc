"""Processes that fail, are killed or stopped: all end soon, one says why, and a resumed run continues exactly."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import group
import pytest
import runs
import torch
from same import assert_equal

from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.distributed.rank_info import RankInfo
from toolbox.errors import ToolboxError

HERE = Path(__file__).parent
TRAIN = HERE.parent.parent / "tools" / "train.py"
PLUGINS = ["--plugin", str(HERE.parent / "toy_plugin.py"), "--plugin", str(HERE / "processes_plugin.py")]


def arguments(*options, resume=False, launcher=True):
    return [
        TRAIN,
        runs.RECIPE,
        *PLUGINS,
        "--work-dir",
        "run",
        *["--resume"] * resume,
        *["--launcher", "pytorch"] * launcher,
        "--device",
        "cpu",
        *(["--cfg-options", *options] if options else []),
    ]


def broken(**how):
    listed = ",".join(f"{name}={value!r}" for name, value in how.items())
    return f"custom_hooks=[dict(type='processes.Break',{listed})]"


def torchrun(folder, *options, processes=2, before=()):
    """A run started by torchrun; its output is one text."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    return subprocess.Popen(
        [*command, f"--master_port={group.free_port()}", *before, *map(str, arguments(*options, launcher=False))],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": _path()},
    )


def _path():
    return os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])


def ended(process, timeout=120):
    try:
        said = process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, said


def train(folder, *options, timeout=120, **how):
    """Two processes by hand; (code, standard output, standard error) of each."""
    path = {"PYTHONPATH": _path()}
    return group.Group(2, *arguments(*options, **how), cwd=folder, environment=path).end(timeout)


def whole(folder, *options):
    folder.mkdir()
    for code, _, said in train(folder, *options):
        assert code == 0, said
    return folder


def same(a, b):
    ours, theirs = (checkpoints.read(folder / "run" / "last") for folder in (a, b))
    assert ours.step == theirs.step
    assert_equal(ours.model_tensors(), theirs.model_tensors(), "model")
    ours, theirs = ours.state(), theirs.state()
    assert_equal(ours, theirs, "state")
    lines = [
        [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()] for folder in (a, b)
    ]
    assert_equal(*lines, "metrics.jsonl")


def test_a_failing_process_ends_all_with_its_own_message_alone(tmp_path):
    two = group.Group(
        2, *arguments("train_cfg.max_steps=100000", broken(step=3)), cwd=tmp_path, environment={"PYTHONPATH": _path()}
    )
    (code, _, said), (other_code, _, other_said) = two.end(90)
    assert "the process of this test broke down" in other_said
    assert "Traceback" not in said
    assert "broke down" not in said
    assert code == other_code == 1  # and not killed: the run would have gone on for hours


def test_a_command_ends_well_in_all_processes_and_one_tells_the_results(tmp_path):
    ends = train(tmp_path, "train_cfg.max_steps=4")
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert ["Report: " in said for _, said, _ in ends] == [True, False]
    again = train(tmp_path, "train_cfg.max_steps=6", resume=True)
    assert [code for code, _, _ in again] == [0, 0], again
    assert not again[1][1], "only the main process writes to the terminal"


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_run_of_which_a_process_was_killed_is_resumed_bit_by_bit(tmp_path, mode):
    options = [f"env_cfg.parallel.mode={mode}", "custom_hooks=[dict(type='processes.Draw')]"]
    reference = whole(tmp_path / "whole", *options)
    for rank in (0, 1):
        folder = tmp_path / f"killed-{rank}"
        folder.mkdir()
        step = random.randint(1, 11)
        hooks = broken(rank=rank, step=step, how="kill").replace("[dict", "[dict(type='processes.Draw'),dict")
        started = time.monotonic()
        codes = [code for code, _, _ in train(folder, options[0], hooks)]
        assert codes[rank] == -9
        assert codes[1 - rank] not in (0, -9), step
        assert time.monotonic() - started < 60
        for code, _, said in train(folder, *options, resume=True):
            assert code == 0, said
        same(folder, reference)


@pytest.mark.faults
def test_torchrun_starts_a_run_again_that_lost_a_process(tmp_path):
    reference, folder = whole(tmp_path / "whole"), tmp_path / "restarted"
    folder.mkdir()
    code, said = ended(torchrun(folder, broken(step=7, how="kill"), before=["--max-restarts=1"]))
    assert code == 0, said
    assert "Resuming at step 6" in said
    assert checkpoints.read(folder / "run" / "last").step == 12
    ours, theirs = (checkpoints.read(path / "run" / "last") for path in (folder, reference))
    assert_equal(ours.model_tensors(), theirs.model_tensors())
    assert_equal(ours.state()["update"], theirs.state()["update"])


@pytest.mark.faults
def test_a_restart_does_not_continue_a_run_that_was_there_before(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    assert ended(torchrun(there))[0] == 0
    code, said = ended(torchrun(there, "train_cfg.max_steps=14", before=["--max-restarts=1"]))
    assert code != 0
    assert said.count("already holds a run") >= 2, said
    assert "Resuming" not in said
    assert checkpoints.read(there / "run" / "last").step == 12


@pytest.mark.parametrize(("agent", "known"), [("True", False), ("False", True)])
def test_only_a_run_that_was_begun_is_continued_by_a_restart(monkeypatch, agent, known):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", agent)
    store = torch.distributed.HashStore()
    first, again = DistributedContext(RankInfo(restarts=0)), DistributedContext(RankInfo(restarts=1))
    first._launch = again._launch = store
    assert (first.has_begun(), again.has_begun()) == (False, known)
    first.begin()
    assert (first.has_begun(), again.has_begun()) == (False, True)


@pytest.mark.faults
def test_a_run_told_to_stop_saves_and_goes_on_exactly(tmp_path):
    reference, folder = whole(tmp_path / "whole"), tmp_path / "stopped"
    folder.mkdir()
    code, said = ended(torchrun(folder, broken(rank=1, step=6, how="terminate")))
    assert code != 0
    stopped = checkpoints.read(folder / "run" / "last").step
    assert 6 <= stopped < 12, said
    assert "Traceback" not in said.partition("torch/distributed")[0]
    for code, _, said in train(folder, resume=True):
        assert code == 0, said
    ours, theirs = (checkpoints.read(path / "run" / "last") for path in (folder, reference))
    assert_equal(ours.model_tensors(), theirs.model_tensors())
    assert_equal(ours.state()["update"], theirs.state()["update"])


def test_a_disk_that_refuses_a_shard_is_one_message_whichever_process_it_reaches_first(tmp_path, monkeypatch):
    class Other(DistributedContext):
        def run_on_main(self, make):
            return tmp_path / "part"

    def full(tensors, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "are_sharded", lambda tensors: True)
    monkeypatch.setattr(checkpoints, "save_shards", full)
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(checkpoints, "model_state", lambda model: model.state_dict())
    monkeypatch.setattr(checkpoints, "adapted", lambda model: {})
    with pytest.raises(ToolboxError, match="checkpoint-3 cannot be written: No space left"):
        checkpoints.write(
            tmp_path / "checkpoint-3", 3, model, None, recipe={}, extra={}, distributed=Other(RankInfo(1, 2, 1, 2))
        )


def test_what_the_main_process_refuses_is_said_under_torchrun(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.py").write_text("")
    code, said = ended(torchrun(tmp_path))
    assert code != 0
    assert "already holds a run" in said
