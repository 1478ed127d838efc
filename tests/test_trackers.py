"""Trackers: every logged line once, also after interruptions and crashes; and nothing they do harms a run."""

from __future__ import annotations

import json
import random
import re
import sys
from collections import namedtuple
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from pretrained import with_hooks
from test_exactness import assert_same, interrupt_at
from test_resume import Said, interrupted, metrics

import toolbox
from toolbox import api
from toolbox.base import Hook
from toolbox.cli import train
from toolbox.engine.data import bad_items
from toolbox.engine.signals import Interrupted
from toolbox.registry import get_catalog
from toolbox.registry.catalog import _is_installed
from toolbox.testing import isolated_catalog

TIMED = ("items_per_second", "data_wait_share")


class Crash(RuntimeError):
    pass


def crash_at(monkeypatch, step: int) -> None:
    """Let a run die in a step, without a checkpoint."""
    original, calls = bad_items.BadItems.check, []

    def check(self, got, processes):
        calls.append(True)
        if len(calls) == step:
            raise Crash
        original(self, got, processes)

    monkeypatch.setattr(bad_items.BadItems, "check", check)


def logged(folder: str) -> dict[str, list[tuple[int, float]]]:
    """{name: [(step, value)]} of metrics.jsonl."""
    found: dict[str, list] = {}
    for line in metrics(folder):
        for name, value in line.items():
            if name not in ("step", "epoch"):
                found.setdefault(name, []).append((line["step"], value))
    return found


# --- TensorBoard, the real one -----------------------------------------------------------------------------------

BOARD = "custom_hooks=[dict(type='core.TensorBoard')]"


def on_board(folder: str) -> dict[str, list[tuple[int, float]]]:
    """{name: [(step, value)]} as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder)
    events.Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {step for step, _ in found["epoch"]} == {step for step, _ in found["loss"]} | {0, 6, 12}
    return {name: points for name, points in found.items() if name not in (*TIMED, "epoch")}


def assert_on_board(folder: str) -> None:
    found, expected = on_board(f"{folder}/tensorboard"), logged(folder)
    assert found.keys() == expected.keys() >= {"loss", "lr", "val/nearest"}
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-6)


def test_tensorboard_shows_every_line_and_the_recipe(toy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    toolbox.train(toy([BOARD]), out="w")
    assert_on_board("w")
    events = EventAccumulator("w/tensorboard")
    events.Reload()
    (text,) = events.Tensors("config/text_summary")
    assert "retrieval.Embedder" in text.tensor_proto.string_val[0].decode()


@pytest.mark.parametrize("end", [interrupt_at, crash_at])
def test_a_resumed_run_shows_every_line_once(toy, monkeypatch, end):
    toolbox.train(toy([BOARD]), out="whole")
    with monkeypatch.context() as patch:
        end(patch, 11)  # the newest checkpoint of the one that crashes is of step 8; step 9 was logged
        if end is interrupt_at:
            interrupted(toy([BOARD, "default_hooks.checkpoint.by_epoch=False"]), out="w")
        else:
            with pytest.raises(Crash):
                toolbox.train(toy([BOARD, "default_hooks.checkpoint.by_epoch=False"]), out="w")
    toolbox.train(toy([BOARD]), out="w", resume=True)
    assert_on_board("w")
    assert on_board("w/tensorboard") == on_board("whole/tensorboard")
    assert len(list(Path("w/tensorboard").iterdir())) == 2


def test_a_replaced_run_shows_nothing_of_the_old_one(toy):
    toolbox.train(toy([BOARD, "default_hooks.logger.interval=1"]), out="w")
    toolbox.train(toy([BOARD]), out="w", overwrite=True)
    assert_on_board("w")


def test_runs_share_a_folder_under_their_names(toy):
    shared = "custom_hooks=[dict(type='core.TensorBoard',log_dir='boards')]"
    toolbox.train(toy([shared]), out="runs/a")
    toolbox.train(toy([shared, "randomness.seed=1"]), out="runs/b")
    assert on_board("boards/a") != on_board("boards/b")


def test_a_tracker_changes_no_bit_of_the_run(toy):
    toolbox.train(toy([BOARD]), out="w")
    toolbox.train(toy(), out="plain")
    assert_same(Path("w"), Path("plain"))


# --- services, by stand-ins with the real signatures -------------------------------------------------------------


class Server(ModuleType):
    """What a service has stored: {run: {"config", "lines"}}; `ended` are the runs' ends."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.runs, self.ended, self.started, self.broken = {}, [], [], False

    def store(self, key, config, *, new):
        assert json.dumps(config)
        self.started.append((key, new))
        if new or key not in self.runs:
            self.runs[key] = {"config": config, "lines": []}
        return self.runs[key]["lines"]

    def lines(self) -> dict[str, list[tuple[int, float]]]:
        """{name: [(step, value)]} of the only run."""
        ((_, run),) = self.runs.items()
        found: dict[str, list] = {}
        for step, values in run["lines"]:
            for name, value in values.items():
                found.setdefault(name, []).append((step, value))
        assert found.pop("epoch")
        return {name: points for name, points in found.items() if name not in TIMED}


class Handle:
    """A run of a service."""

    def __init__(self, server, lines):
        self.server, self.lines = server, lines

    def add(self, values, step):
        random.random()  # a library may draw
        if self.server.broken:
            raise ConnectionError("the network is down\nand more")
        self.lines.append((step, dict(values)))


def wandb() -> Server:
    server = Server("wandb")

    class Run(Handle):
        axes = ()

        def define_metric(self, name, step_metric=None, step_sync=None, hidden=None, summary=None, overwrite=None):
            self.axes = (*self.axes, (name, step_metric))

        def log(self, data, step=None, commit=None):
            assert step is None, "W&B ignores what a resumed run logs at the last step that it knows"
            assert self.axes == (("step", None), ("*", "step"))
            data = dict(data)
            self.add(data, data.pop("step"))

        def finish(self, exit_code=None, quiet=None):
            server.ended.append(exit_code)

    def init(
        entity=None,
        project=None,
        dir=None,
        id=None,
        name=None,
        notes=None,
        tags=None,
        config=None,
        allow_val_change=None,
        group=None,
        job_type=None,
        mode=None,
        reinit=None,
        resume=None,
        resume_from=None,
        fork_from=None,
        settings=None,
    ):
        assert project == "chairs"
        assert Path(dir).is_dir()
        assert mode in ("online", "offline", "disabled", None)
        assert resume in ("allow", "must", "never", "auto", None)
        assert not set("/\\#?%:") & set(id)
        return Run(server, server.store(id, config, new=resume is None))

    server.init = init
    return server


def trackio() -> Server:
    server = Server("trackio")

    class Run(Handle):
        def log(self, metrics, step=None):
            self.add(metrics, step)  # Trackio keeps what comes twice

        def finish(self):
            server.ended.append(None)

    def init(project, name=None, group=None, space_id=None, config=None, resume="never", settings=None, embed=True):
        assert project == "chairs"
        assert resume in ("allow", "must", "never")
        while resume == "never" and name in server.runs:
            name += "'"
        return Run(server, server.store(name, config, new=resume == "never"))

    server.init = init
    return server


def swanlab() -> Server:
    server = Server("swanlab")

    class Run(Handle):
        def log(self, data, step=None, print_to_console=False):
            known = {name for at, values in self.lines if at == step for name in values}
            assert all(isinstance(value, int | float) for value in data.values())
            self.add({name: value for name, value in data.items() if name not in known}, step)

        def finish(self, state=None, error=None):
            server.ended.append(error)

    def init(
        project=None,
        workspace=None,
        experiment_name=None,
        description=None,
        job_type=None,
        group=None,
        tags=None,
        config=None,
        logdir=None,
        mode=None,
        load=None,
        public=None,
        callbacks=None,
        settings=None,
        id=None,
        resume=None,
        reinit=None,
    ):
        assert project == "chairs"
        assert mode in ("cloud", "local", "offline", "disabled", None)
        assert len(id) == 21
        assert id.isalnum()
        return Run(server, server.store(id, config, new=resume not in ("allow", "must")))

    server.init = init
    return server


def mlflow() -> Server:
    server = Server("mlflow")
    server.entities = ModuleType("mlflow.entities")
    server.entities.Metric = namedtuple("Metric", "key value timestamp step")
    server.entities.Param = namedtuple("Param", "key value")

    class Run(Handle):
        def finish(self, status):
            server.ended.append(status)

    def init(key, new):
        return Run(server, server.store(key, {}, new=new))

    class MlflowClient:
        def __init__(self, tracking_uri=None, registry_uri=None):
            assert tracking_uri.startswith("sqlite:////")

        def get_experiment_by_name(self, name):
            assert name == "chairs"

        def create_experiment(self, name, artifact_location=None, tags=None):
            return "1"

        def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
            key = f"{len(server.runs):032x}"
            self.run = server.init(key=key, new=True)
            return SimpleNamespace(info=SimpleNamespace(run_id=key))

        def update_run(self, run_id, status=None, name=None):
            assert status == "RUNNING"
            self.run = server.init(key=run_id, new=False)

        def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
            assert len(params) <= 100
            assert all(re.fullmatch(r"[\w\-. :/]+", param.key) for param in params)
            known = server.runs[run_id]["config"]
            assert not known.keys() & {param.key for param in params}
            known.update(params)
            if metrics:
                (step,) = {metric.step for metric in metrics}
                self.run.add({metric.key: metric.value for metric in metrics}, step)

        def set_terminated(self, run_id, status=None, end_time=None):
            self.run.finish(status=status)

    server.init, server.MlflowClient = init, MlflowClient
    return server


SERVICES = {"WandB": wandb, "Trackio": trackio, "SwanLab": swanlab, "MLflow": mlflow}


@contextmanager
def looked_for_again():
    """Within, and afterwards, packages are looked for afresh."""
    _is_installed.cache_clear()
    try:
        yield
    finally:
        _is_installed.cache_clear()


@pytest.fixture(params=SERVICES)
def service(request, monkeypatch):
    """(the override that turns a tracker on, what its service has stored)."""
    server = SERVICES[request.param]()
    monkeypatch.setitem(sys.modules, server.__name__, server)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = "project"
    if request.param == "MLflow":
        monkeypatch.setitem(sys.modules, "mlflow.entities", server.entities)
        place = "experiment"
    with looked_for_again(), isolated_catalog("toolbox_retrieval.plugin"):
        yield f"custom_hooks=[dict(type='core.{request.param}',{place}='chairs')]", server


def assert_sent(server: Server, folder: str) -> None:
    expected = {name: points for name, points in logged(folder).items() if name not in TIMED}
    assert server.lines() == expected
    assert expected.keys() >= {"loss", "lr", "val/nearest"}


def test_a_service_gets_every_line_and_the_recipe(service, toy):
    option, server = service
    toolbox.train(toy([option]), out="w")
    assert_sent(server, "w")
    ((_, run),) = server.runs.items()
    config = run["config"]
    assert (config["model.type"] if server.__name__ == "mlflow" else config["model"]["type"]) == "retrieval.Embedder"
    assert server.ended in ([0], [None], ["FINISHED"])


@pytest.mark.parametrize("end", [interrupt_at, crash_at])
@pytest.mark.parametrize("step", [7, 11])
def test_a_resumed_run_goes_on_in_the_same_run_and_repeats_no_line(service, toy, monkeypatch, end, step):
    option, server = service
    options = [option, "default_hooks.checkpoint.by_epoch=False", "default_hooks.logger.interval=1"]
    with monkeypatch.context() as patch:
        end(patch, step)
        with pytest.raises((Crash, Interrupted)):
            toolbox.train(toy(options), out="w")
    if server.__name__ == "wandb":
        assert server.ended == [1]
    if server.__name__ == "mlflow":
        assert server.ended == ["FAILED" if end is crash_at else "KILLED"]
    toolbox.train(toy(options), out="w", resume=True)
    assert len(server.runs) == 1
    assert_sent(server, "w")
    # negative control: without the note of what was sent, a crashed run would repeat lines where the service keeps them
    if end is crash_at and server.__name__ == "trackio":
        assert metrics("w")[0]["step"] == 0
        Path("w/trackers.json").unlink()
        with monkeypatch.context() as patch:
            crash_at(patch, 3)
            with pytest.raises(Crash):
                toolbox.train(toy([*options, "train_cfg.max_steps=20"]), out="w", resume=True)
        Path("w/trackers.json").unlink()
        toolbox.train(toy([*options, "train_cfg.max_steps=20"]), out="w", resume=True)
        with pytest.raises(AssertionError):
            assert_sent(server, "w")


def test_a_run_that_is_replaced_or_restarted_is_another_run(service, toy):
    option, server = service
    toolbox.train(toy([option]), out="w")
    toolbox.train(toy([option]), out="w", overwrite=True)
    assert len(server.runs) == 2
    assert [new for _, new in server.started] in ([True, True], [False, False])  # SwanLab makes what is not there


def test_a_tracker_that_fails_is_told_once_and_harms_nothing(service, toy):
    option, server = service
    toolbox.train(toy(), out="plain")
    said = Said()
    original = Handle.add

    def add(self, values, step):
        server.broken = step >= 6
        original(self, values, step)

    Handle.add = add
    try:
        results = toolbox.train(toy([option]), out="w", console=said)
    finally:
        Handle.add = original
    assert results["steps"] == 12
    assert_same(Path("w"), Path("plain"))
    told = [line for line in said.lines if "failed at step 6" in line]
    assert len(told) == 1
    assert "the network is down" in told[0]
    assert "and more" not in told[0]
    assert server.lines().keys() >= {"loss"}
    assert logged("w").keys() == logged("plain").keys()


def test_a_tracker_that_cannot_start_says_so_in_one_message(service, toy, monkeypatch):
    option, server = service

    def init(**arguments):
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setattr(server, "init", init)
    with pytest.raises(toolbox.ToolboxError, match="cannot start: api_key not configured") as caught:
        toolbox.train(toy([option]), out="w")
    assert caught.value.problems[0].hint
    assert not list(Path("w").glob("checkpoint-*"))


def test_closing_may_fail(service, toy, monkeypatch):
    option, server = service
    said, original = Said(), server.init

    def init(*arguments, **options):
        run = original(*arguments, **options)
        run.finish = lambda **_: (_ for _ in ()).throw(TimeoutError())
        return run

    monkeypatch.setattr(server, "init", init)
    assert toolbox.train(toy([option]), out="w", console=said)["steps"] == 12
    assert [line for line in said.lines if "could not be closed: TimeoutError" in line]


def test_a_project_has_a_name(service, toy):
    option, _ = service
    found = api.check_config(toy([option.replace("chairs", " ")]))
    assert re.search("A(n experiment| project) has a name", "\n".join(map(str, found)))
    assert "has a name" in "\n".join(map(str, found))


def test_two_trackers_at_once(service, toy):
    option, server = service
    both = option.replace("[", "[dict(type='core.TensorBoard'),")
    toolbox.train(toy([both]), out="w")
    assert_sent(server, "w")
    assert_on_board("w")


def test_a_package_that_is_not_there_is_named_with_its_command(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with looked_for_again(), isolated_catalog("toolbox_retrieval.plugin"):
        found = api.check_config(toy(["custom_hooks=[dict(type='core.WandB',project='chairs')]"]))
        entry = next(entry for entry in get_catalog().entries if entry.fullname == "core.WandB")
    assert entry.missing == ("wandb",)
    assert "pip install wandb" in "\n".join(map(str, found))


def test_what_mlflow_is_told_of_a_recipe():
    from toolbox.builtins.trackers import flatten

    given = {"a": {"b": [1, {"c": None}], "d": {}}, "parts": {"model.head[0]": 2}}
    assert flatten(given) == {"a.b.0": 1, "a.b.1.c": None, "a.d": {}, "parts.model.head_0_": 2}


def test_only_the_main_process_opens_a_tracker(service, toy, monkeypatch):
    from toolbox.base import Run
    from toolbox.registry import build

    option, server = service
    hook = build(toy([option]).custom_hooks[0], "hook")
    run = SimpleNamespace(is_main=False, step=1, steps_per_epoch=1, epoch=1.0)
    assert "is_main" in Run.__annotations__ or hasattr(Run, "is_main")
    hook.before_run(run)
    hook.after_log(run, {"loss": 1.0})
    hook.after_run(run)
    assert server.started == []


def test_a_hook_that_fails_at_the_end_keeps_no_other_from_closing(toy, monkeypatch):
    closed = []

    class Failing(Hook):
        def after_run(self, run):
            raise Crash

    class Closing(Hook):
        def after_run(self, run):
            closed.append(run.step)

    with_hooks(monkeypatch, Failing(), Closing())
    with pytest.raises(Crash):
        toolbox.train(toy(["train_cfg.max_steps=2"]), out="w")
    assert closed == [2]


def test_a_tracker_that_failed_is_closed_at_the_end_all_the_same():
    from toolbox.builtins.trackers import Tracker

    calls, told = [], []

    class Broken(Tracker):
        def start(self, run):
            calls.append("start")

        def send(self, run, values):
            calls.append("send")
            raise OSError("no space left")

        def finish(self, failed):
            calls.append("finish")
            raise OSError("no space left")

    hook, run = Broken(), SimpleNamespace(is_main=True, step=1, steps_per_epoch=1, epoch=1.0, warn=told.append)
    hook.before_run(run)
    hook.after_log(run, {"loss": 1.0})
    hook.after_log(run, {"loss": 2.0})
    hook.after_run(run)
    assert calls == ["start", "send", "finish"]
    assert len(told) == 1


def test_tensorboard_that_cannot_flush_ends_no_run():
    from toolbox.builtins.trackers import TensorBoard

    def full():
        raise OSError("no space left")

    hook, told = TensorBoard(), []
    hook._open, hook._writer = True, SimpleNamespace(flush=full, close=lambda: None)
    hook.after_save(SimpleNamespace(step=1, warn=told.append), Path("w"))
    assert "no space left" in told[0]


# --- the switch of the command -----------------------------------------------------------------------------------


@pytest.fixture
def stored(monkeypatch):
    """What the stand-in for Trackio has stored; to be asked for before `toy`."""
    server = trackio()
    monkeypatch.setitem(sys.modules, "trackio", server)
    with looked_for_again(), isolated_catalog("toolbox_retrieval.plugin"):
        yield server


RECIPE = str(Path(__file__).parent / "toy_recipe.py")


def test_one_switch_logs_with_trackio(stored, toy):
    assert train.main([RECIPE, "--track", "chairs"]) == 0
    assert_sent(stored, "work_dirs/toy_recipe")


def test_nothing_is_tracked_without_the_switch(stored, toy):
    assert train.main([RECIPE]) == 0
    assert stored.runs == {}


def test_the_switch_beside_other_hooks_and_on_a_recipe_that_tracks_already(stored, toy, capsys):
    stop = "custom_hooks=dict(type='core.EarlyStop',metric='nearest',patience=9)"
    assert train.main([RECIPE, "--track", "chairs", "--cfg-options", stop]) == 0
    assert len(stored.runs) == 1
    twice = "custom_hooks=[dict(type='core.Trackio',project='chairs')]"
    assert train.main([RECIPE, "--overwrite", "--track", "chairs", "--cfg-options", twice]) == 2
    assert "already" in capsys.readouterr().err
