"""A run that is killed or stopped again and again ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from pathlib import Path

import pytest
from faults_plugin import PACE
from lives import Life, assert_same_run, to_the_end

from toolbox.engine.checkpoint import checkpoint as checkpoints

WORKERS = (0, 1, 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`whole(steps) -> folder`: an uninterrupted run."""
    done = {}

    def run(steps: int) -> Path:
        if steps not in done:
            folder = tmp_path_factory.mktemp("whole")
            to_the_end(folder, [f"train_cfg.max_steps={steps}"], resume=False)
            done[steps] = folder / "run"
        return done[steps]

    return run


def options(steps: int, workers: int) -> list[str]:
    return [f"train_cfg.max_steps={steps}", f"train_dataloader.num_workers={workers}"]


def finished(folder: Path) -> bool:
    return (folder / "run/report.html").exists()


def kill_again_and_again(folder: Path, whole: Path, steps: int, kills: int, seed: int) -> list[str]:
    """Where it was hit."""
    moments, places = random.Random(seed), []
    while len(places) < kills:
        # two of five in the middle of writing something, one of ten before training begins
        kind = "start" if len(places) % 10 == 9 else "write" if len(places) % 5 in (1, 3) else "time"
        kind = "write" if finished(folder) else kind
        call = moments.randint(1, 8 if finished(folder) else 120)
        life = Life(folder, options(steps, WORKERS[len(places) % 3]), **{"call": call} if kind == "write" else {})
        if kind == "start":
            time.sleep(moments.uniform(0.5, 3))
        elif kind == "time" and life.wait_for("training begins"):
            time.sleep(moments.uniform(0, 1.5 * steps * PACE / kills))
        if kind != "write":
            life.send(signal.SIGKILL)
        code, said = life.end()
        assert code in (-signal.SIGKILL, 0), said
        if code:
            places.append(f"{kind} {call if kind == 'write' else ''} {at(folder)}")
    to_the_end(folder, options(steps, 2))
    assert_same_run(whole, folder / "run")
    return places


def at(folder: Path) -> str:
    found = checkpoints.all_in(folder / "run")
    return f"after {found[-1].name}" if found else "before any checkpoint"


@pytest.mark.faults
def test_25_kills_over_one_run_change_no_bit_of_it(whole, tmp_path):
    places = kill_again_and_again(tmp_path / "killed", whole(300), 300, kills=25, seed=0)
    print("\n".join(places))
    assert len(set(places)) > 8  # they hit it all over


def test_some_kills_change_no_bit_of_a_run(whole, tmp_path):
    kill_again_and_again(tmp_path / "killed", whole(60), 60, kills=3, seed=1)


def stop_again_and_again(folder: Path, whole: Path, steps: int, signals: list[int], seed: int) -> None:
    moments, stops = random.Random(seed), []
    for number, signum in enumerate(signals):
        life = Life(folder, options(steps, WORKERS[number % 3]))
        assert life.wait_for("training begins"), life.end()
        time.sleep(moments.uniform(0, 0.8 * steps * PACE / len(signals)))
        life.send(signum, group=signum == signal.SIGINT)  # a terminal's Ctrl-C reaches the data workers too
        code, said = life.end()
        if finished(folder):
            break
        assert code == 128 + signum, said
        step = int(re.search(rf"Interrupted at step (\d+) of {steps}", said)[1])
        assert checkpoints.read(folder / "run/last").step == step
        assert "Traceback" not in said
        stops.append(step)
    assert len(stops) == len(signals), f"it ended after {len(stops)} signals"
    assert stops == sorted(stops)
    to_the_end(folder, options(steps, 2))
    assert_same_run(whole, folder / "run")


@pytest.mark.faults
@pytest.mark.parametrize(("signum", "count"), [(signal.SIGTERM, 25), (signal.SIGINT, 8)])
def test_signals_over_one_run_change_no_bit_of_it(whole, tmp_path, signum, count):
    stop_again_and_again(tmp_path / "stopped", whole(300), 300, [signum] * count, seed=2)


def test_some_signals_change_no_bit_of_a_run(whole, tmp_path):
    stop_again_and_again(tmp_path / "stopped", whole(60), 60, [signal.SIGTERM, signal.SIGINT], seed=3)


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.faults)])
def test_a_second_signal_ends_a_long_step_at_once(tmp_path, signum):
    life = Life(tmp_path, options(60, 1), sleep=6)
    assert life.wait_for("asleep"), life.end()
    life.send(signum)
    time.sleep(0.3)
    assert life.process.poll() is None  # it waits for its step
    started = time.monotonic()
    life.send(signum)
    code, said = life.end()
    assert code == 128 + signum, said
    assert time.monotonic() - started < 5
    assert checkpoints.read(tmp_path / "run/last").step == 4
    again = Life(tmp_path, options(20, 1))  # a process that left at once holds nothing back
    assert again.end()[0] == 0
    assert json.loads((tmp_path / "run/train_results.json").read_text())["steps"] == 20
