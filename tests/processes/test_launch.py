"""How a process finds its rank among others, and the message if it cannot."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import pytest

from toolbox.cli.train import main
from toolbox.engine import device
from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.distributed.rank_info import RankInfo, detect_rank, first_host
from toolbox.errors import ToolboxError
from toolbox.plugin import Device

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "2",
}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NODELIST": "gpu[003-004]",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
}


def without(known, *names):
    return {name: value for name, value in known.items() if name not in names}


def test_torchrun_tells_the_place_and_is_recognised():
    for launcher in (None, "pytorch"):
        assert detect_rank(launcher, dict(TORCHRUN)) == RankInfo(3, 4, 1, 2, restarts=2)
    by_hand = without(TORCHRUN, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    assert detect_rank(None, dict(by_hand)) == RankInfo()
    assert detect_rank("pytorch", dict(by_hand)) == RankInfo(3, 4, 1, 2)


def test_slurm_tells_the_place_and_where_to_meet():
    known = dict(SLURM)
    assert detect_rank("slurm", known) == RankInfo(5, 7, 1, 3)
    assert known["MASTER_ADDR"] == "gpu003"
    assert known["RANK"] == "5"
    assert known["WORLD_SIZE"] == "7"
    assert 20000 <= int(known["MASTER_PORT"]) < 40000
    assert detect_rank(None, dict(SLURM)) == RankInfo()  # one process of a job may well train alone


def test_slurm_jobs_and_steps_meet_at_ports_of_their_own():
    ports = set()
    for job, step in (("77", "0"), ("77", "1"), ("78", "0"), ("78", "4294967291"), ("1234567", "0")):
        known = {**SLURM, "SLURM_JOB_ID": job, "SLURM_STEP_ID": step}
        detect_rank("slurm", known)
        ports.add(known["MASTER_PORT"])
        assert 20000 <= int(known["MASTER_PORT"]) < 40000
    assert len(ports) == 5


def test_what_is_set_by_hand_stays_under_slurm():
    known = {**SLURM, "MASTER_ADDR": "elsewhere", "MASTER_PORT": "29501"}
    detect_rank("slurm", known)
    assert (known["MASTER_ADDR"], known["MASTER_PORT"]) == ("elsewhere", "29501")


@pytest.mark.parametrize(
    ("counts", "node", "own"),
    [("4(x2),3", 0, 4), ("4(x2),3", 1, 4), ("4(x2),3", 2, 3), ("8", 0, 8), ("2(x3)", 2, 2)],
)
def test_slurm_tells_how_many_processes_share_a_machine(counts, node, own):
    known = {**SLURM, "SLURM_NTASKS": "11", "SLURM_STEP_TASKS_PER_NODE": counts, "SLURM_NODEID": str(node)}
    assert detect_rank("slurm", known | {"SLURM_LOCALID": "0"}).local_world_size == own


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu003", "gpu003"),
        ("gpu003,gpu004", "gpu003"),
        ("gpu[003-006,9],big1", "gpu003"),
        ("gpu[9,11-12]", "gpu9"),
        ("rack1-node[07-08]", "rack1-node07"),
        ("login,gpu[1-2]", "login"),
        ("n[1-2]-ib0", "n1-ib0"),
        ("a-b-c", "a-b-c"),
        ("gpu[3]", "gpu3"),
        ("rack[1-2]node[3-4]", "rack1node3"),
        ("node1.cluster.example.org", "node1.cluster.example.org"),
    ],
)
def test_the_first_machine_of_a_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize("nodes", ["", "[1-2]", ","])
def test_a_list_without_a_machine_is_refused(nodes):
    with pytest.raises(ToolboxError, match="names no machine"):
        first_host(nodes)


@pytest.mark.parametrize(
    ("launcher", "known", "message"),
    [
        ("pytorch", without(TORCHRUN, "MASTER_PORT", "RANK"), "no RANK, MASTER_PORT"),
        ("pytorch", TORCHRUN | {"RANK": "one"}, "RANK=one is no whole number"),
        ("pytorch", TORCHRUN | {"MASTER_PORT": "abc"}, "MASTER_PORT=abc is no whole number"),
        ("slurm", SLURM | {"MASTER_PORT": "abc"}, "MASTER_PORT=abc is no whole number"),
        ("pytorch", TORCHRUN | {"RANK": "4"}, "do not fit together: RANK=4"),
        ("pytorch", TORCHRUN | {"LOCAL_RANK": "2"}, "do not fit together"),
        ("pytorch", {}, "Start it with torchrun"),
        ("slurm", without(SLURM, "SLURM_PROCID"), "no SLURM_PROCID"),
        ("slurm", {}, "Start it with srun"),
        ("none", TORCHRUN, "torchrun has started 4 processes"),
    ],
)
def test_an_environment_that_does_not_fit_its_launcher_is_told(launcher, known, message):
    with pytest.raises(ToolboxError, match=message):
        detect_rank(launcher, dict(known))


def test_one_process_of_torchrun_may_train_alone():
    alone = {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert detect_rank("none", alone) == RankInfo()


def test_the_command_ends_with_2_and_one_message(toy, monkeypatch, capfd):
    from runs import RECIPE

    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert main([str(RECIPE), "--launcher", "pytorch"]) == 2
    assert "Start it with torchrun" in capfd.readouterr().err
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert main([str(RECIPE), "--launcher", "none"]) == 2
    said = capfd.readouterr().err
    assert "torchrun has started 4 processes" in said
    assert "Traceback" not in said
    assert not os.path.exists("work_dirs")


def test_a_port_in_use_is_told(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        with (
            pytest.raises(ToolboxError, match=f"127.0.0.1:{port}: the port is in use") as told,
            DistributedContext(RankInfo(0, 2, 0, 2)),
        ):
            pass
    assert "master_port" in str(told.value)


@pytest.fixture
def accelerators(monkeypatch):
    """`accelerators(count)`: a device type of which this process sees so many; returns those that are made current."""

    def have(count):
        chosen = []
        module = SimpleNamespace(device_count=lambda: count, set_device=chosen.append)
        monkeypatch.setattr(device.torch, "get_device_module", lambda kind: module)

        def offered(requested):
            kind, _, index = requested.partition(":")
            if index and int(index) >= count:
                raise ToolboxError(f"the last one is {kind}:{count - 1}")
            return Device(kind, "fake", int(index) if index else None)

        monkeypatch.setattr(device, "_offered", offered)
        return chosen

    return have


def test_every_process_gets_a_device_of_its_own(accelerators):
    chosen = accelerators(2)
    for rank in range(4):
        assert str(device.choose_device("fake", RankInfo(rank, 4, rank % 2, 2))) == f"fake:{rank % 2}"
    assert chosen == [0, 1, 0, 1]
    with pytest.raises(ToolboxError, match="fake:1"):
        device.choose_device("fake", RankInfo(2, 3, 2, 3))
    with pytest.raises(ToolboxError, match="cannot share fake:1"):
        device.choose_device("fake:1", RankInfo(0, 2, 0, 2))
    assert str(device.choose_device("fake:1", RankInfo(1, 2, 0, 1))) == "fake:1"  # alone on its machine


def test_a_process_to_which_slurm_shows_one_device_takes_it(accelerators, monkeypatch):
    accelerators(1)
    with pytest.raises(ToolboxError, match="the last one is fake:0"):
        device.choose_device("fake", RankInfo(1, 2, 1, 2))
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert str(device.choose_device("fake", RankInfo(1, 2, 1, 2))) == "fake:0"
