"""What must survive an interruption beside the weights: the best checkpoint, the end of the run, the logs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from pretrained import with_hooks
from test_exactness import assert_same, interrupt_at, same, trained

import toolbox
from toolbox.base import Hook
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import files
from toolbox.engine.console import Console
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.signals import Interrupted
from toolbox.errors import ToolboxError
from toolbox.registry import get_catalog


class Said(Console):
    """Remembers what was said."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def show(self, text):
        self.lines.append(text)


def metrics(folder: str) -> list[dict]:
    timing = ("items_per_second", "data_wait_share")
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timing} for line in lines]


def interrupted(config, **options):
    with pytest.raises(Interrupted):
        toolbox.train(config, **options)


@pytest.mark.parametrize("step", [4, 6, 7, 12])
def test_best_link_and_log_are_those_of_the_uninterrupted_run(toy, monkeypatch, step):
    toolbox.train(toy(), out="whole")
    interrupt_at(monkeypatch, step)
    interrupted(toy(), out="stopped")
    results = toolbox.train(toy(), out="stopped", resume=True)
    assert os.readlink("stopped/best") == os.readlink("whole/best")
    assert checkpoints.read("stopped/best").step == results["best"]["step"]
    assert metrics("stopped") == metrics("whole")
    assert_same(Path("whole"), Path("stopped"))


def test_a_signal_during_validation(toy, monkeypatch):
    toolbox.train(toy(), out="whole")
    original, calls = Evaluator.evaluate, []

    def evaluate(self, *arguments, **options):
        calls.append(True)
        if len(calls) in (3, 4):  # the first two are those before training, the fourth is of the resumed run
            signal.raise_signal(signal.SIGTERM)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    interrupted(toy(), out="stopped")
    assert checkpoints.read("stopped/last").step == 6
    interrupted(toy(), out="stopped", resume=True)
    assert checkpoints.read("stopped/last").step == 6
    toolbox.train(toy(), out="stopped", resume=True)
    assert os.readlink("stopped/best") == os.readlink("whole/best")
    assert metrics("stopped") == metrics("whole")


def test_a_kill_before_the_best_link_moved_is_mended(toy):
    toolbox.train(toy(), out="w")
    best = os.readlink("w/best")
    os.unlink("w/best")
    os.symlink("checkpoint-8", "w/best")
    toolbox.train(toy(), out="w", resume=True)
    assert os.readlink("w/best") == best


def test_a_kill_in_the_middle_of_replacing_a_checkpoint_is_mended(toy):
    toolbox.train(toy(), out="w")
    newest = Path("w/last").resolve()
    newest.rename(newest.with_name(f".{newest.name}.123.old"))
    Path("w/.checkpoint-99.123.partial").mkdir()
    said = Said()
    toolbox.train(toy(), out="w", resume=True, console=said)
    assert newest.is_dir()
    assert any("Resuming at step 12" in line for line in said.lines)
    assert [path.name for path in Path("w").glob(".*")] == [".lock"]


def test_replacing_a_checkpoint_never_leaves_none(tmp_path, monkeypatch):
    target = tmp_path / "checkpoint-1"
    with files.new_folder(target) as part:
        (part / "a").write_text("old")
    monkeypatch.setattr(files, "exchange", lambda a, b: False)  # not every disk can
    original = os.rename

    def rename(source, destination):
        if str(source).endswith(".partial"):
            raise OSError(28, "No space left on device")
        original(source, destination)

    monkeypatch.setattr(files.os, "rename", rename)
    with pytest.raises(toolbox.ToolboxError, match="No space left"), files.new_folder(target) as part:
        (part / "a").write_text("new")
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_continuing_an_older_checkpoint_moves_newer_ones_aside(toy, monkeypatch):
    toolbox.train(toy(["default_hooks.checkpoint.max_keep_ckpts=9"]), out="w")
    interrupt_at(monkeypatch, 2)
    more = ["optim_wrapper.optimizer.lr=5e-4", "default_hooks.checkpoint.max_keep_ckpts=9"]
    interrupted(toy(more), out="w", resume="w/checkpoint-4")
    assert {path.name for path in Path("w/abandoned").iterdir()} == {"checkpoint-6", "checkpoint-8", "checkpoint-12"}
    said = Said()
    toolbox.train(toy(more), out="w", resume=True, console=said)
    assert any("Resuming at step 6" in line for line in said.lines)


def test_a_checkpoint_continued_elsewhere_searches_its_best_anew(toy):
    toolbox.train(toy(), out="w")
    said = Said()
    results = toolbox.train(toy(), out="v", resume="w/checkpoint-8", console=said)
    assert checkpoints.read("v/best").step == results["best"]["step"] == 12
    assert any("search for it restarts" in line for line in said.lines)
    with pytest.raises(toolbox.ToolboxError, match="already holds another run"):
        toolbox.train(toy(), out="v", resume="w/checkpoint-8")


class StopAt(Hook):
    def __init__(self, step: int):
        self.step = step

    def after_step(self, run):
        if run.step == self.step:
            run.stop("that is enough")


def test_a_stopped_run_stays_stopped_unless_its_length_changes(toy, monkeypatch):
    with_hooks(monkeypatch, StopAt(5))
    assert toolbox.train(toy(), out="w")["steps"] == 5
    assert checkpoints.read("w/last").step == 5
    assert toolbox.train(toy(), out="w", resume=True)["steps"] == 5
    assert toolbox.train(toy(["train_cfg.max_steps=14"]), out="w", resume=True)["steps"] == 14


class Counter(Hook):
    def __init__(self):
        self.count = 0

    def before_run(self, run):
        torch.rand(3)  # a hook that draws must not change the run

    def after_step(self, run):
        self.count += 1

    def state_dict(self):
        return {"count": self.count, "tensor": torch.tensor([self.count])}

    def load_state_dict(self, state):
        assert state["tensor"].item() == state["count"]
        self.count = state["count"]


def test_hooks_resume_and_may_draw(toy, monkeypatch):
    toolbox.train(toy(), out="whole")
    interrupt_at(monkeypatch, 5)
    first, second = Counter(), Counter()
    with monkeypatch.context() as patch:
        with_hooks(patch, first)
        interrupted(toy(), out="stopped")
    with monkeypatch.context() as patch:
        with_hooks(patch, second)
        toolbox.train(toy(), out="stopped", resume=True)
    assert second.count == 12
    assert same(trained(Path("whole"))[0], trained(Path("stopped"))[0])


def test_other_hooks_start_afresh_and_are_told(toy, monkeypatch):
    interrupt_at(monkeypatch, 5)
    with monkeypatch.context() as patch:
        with_hooks(patch, Counter())
        interrupted(toy(), out="w")
    said = Said()
    toolbox.train(toy(), out="w", resume=True, console=said)
    assert any("hooks are not those" in line for line in said.lines)


ADAMW, SGD = "dict(type='core.AdamW',lr=1e-3)", "dict(type='core.SGD',lr=1e-3,momentum={})"


@pytest.mark.parametrize(("first", "then"), [(ADAMW, SGD.format(0.9)), (SGD.format(0.9), ADAMW)])
def test_the_state_of_another_optimizer_is_refused(toy, monkeypatch, first, then):
    interrupt_at(monkeypatch, 5)
    interrupted(toy([f"optim_wrapper.optimizer={first}"]), out="w")
    with pytest.raises(ToolboxError, match=r"optim_wrapper\.optimizer: The checkpoint's state is of the optimizer"):
        toolbox.train(toy([f"optim_wrapper.optimizer={then}"]), out="w", resume=True)


def test_a_resumed_run_has_the_optimizer_settings_of_its_recipe(toy, monkeypatch):
    interrupt_at(monkeypatch, 5)
    interrupted(toy([f"optim_wrapper.optimizer={SGD.format(0.9)}"]), out="w")
    groups = []

    class Look(Hook):
        def after_step(self, run):
            groups.extend(run.setup.train_step.optimizer.param_groups)

    with_hooks(monkeypatch, Look())
    toolbox.train(toy([f"optim_wrapper.optimizer={SGD.format(0.5)}"]), out="w", resume=True)
    assert {group["momentum"] for group in groups} == {0.5}


@pytest.mark.parametrize("tune", ["dict(mode='full')", "dict(mode='lora',rank=2,dropout=0.1)", "dict(mode='last')"])
def test_dinov3_resumes_in_every_way_of_tuning(toy, monkeypatch, tune):
    """A ViT's mask token trains without ever having a gradient; LoRA's state lives in adapters."""
    arch = "dict(hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,patch_size=8)"
    vit = f"model.backbone=dict(type='dinov3.ViT',name=None,arch={arch},size=16,tune={tune})"
    options = [vit, "optim_wrapper.precision=bf16", "model.pool=cls"]
    toolbox.train(toy(options), out="whole")
    interrupt_at(monkeypatch, 7)
    interrupted(toy(options), out="stopped")
    toolbox.train(toy(options), out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))
    if "lora" in tune:
        whole, stopped = (checkpoints.read(f"{name}/last").adapter_tensors("backbone") for name in ("whole", "stopped"))
        assert same(whole, stopped)
        assert any(tensor.abs().sum() > 0 for name, tensor in whole.items() if "lora_B" in name)


def test_a_model_may_draw_from_python_and_numpy(toy, monkeypatch):
    from toolbox_retrieval.embedder import Embedder

    original = Embedder.loss

    def loss(self, batch):
        import random

        import numpy as np

        found = original(self, batch)
        return {"loss": found["loss"] * (random.random() + np.random.rand())}

    monkeypatch.setattr(Embedder, "loss", loss)
    toolbox.train(toy(), out="whole")
    interrupt_at(monkeypatch, 5)
    interrupted(toy(), out="stopped")
    toolbox.train(toy(["train_dataloader.num_workers=1"]), out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))


def test_overwrite_removes_nothing_when_the_new_run_cannot_start(toy):
    toolbox.train(toy(), out="w")
    before = sorted(path.name for path in Path("w").iterdir())
    for wrong, message in (
        (["optim_wrapper.precision=fp16", "env_cfg.device=cpu"], "cpu cannot compute in fp16"),
        (["load_from=w/best"], "the run that would be replaced"),
    ):
        with pytest.raises(toolbox.ToolboxError, match=message):
            toolbox.train(toy(wrong), out="w", overwrite=True)
    assert sorted(path.name for path in Path("w").iterdir()) == before


def test_starting_from_a_checkpoint_takes_its_weights_and_nothing_else(toy):
    toolbox.train(toy(), out="w")
    results = toolbox.train(toy(["load_from=w/last", "optim_wrapper.optimizer.lr=0.0"]), out="v")
    assert same(trained(Path("w"))[0], trained(Path("v"))[0])
    assert results["steps"] == 12


def test_a_gradient_that_is_not_finite_leaves_weights_and_checkpoints_whole(toy, monkeypatch):
    toy()
    pull = get_catalog().resolve("toy.Pull")
    original = pull.compute

    def compute(self, *arguments):
        loss = original(self, *arguments)
        if self.calls == 6:
            loss.register_hook(lambda gradient: gradient * torch.nan)
        return loss

    monkeypatch.setattr(pull, "compute", compute)
    with pytest.raises(toolbox.ToolboxError, match="gradient is not finite at step 6"):
        toolbox.train(toy(), out="w")
    with pytest.raises(toolbox.ToolboxError, match="not finite"):
        toolbox.train(toy(["optim_wrapper.clip_grad=None"]), out="v")
    for folder in ("w", "v"):
        weights = checkpoints.read(f"{folder}/last").model_tensors()
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_two_metrics_with_the_same_number_are_refused(toy):
    twice = "val_evaluator=[dict(type='toy.Nearest'),dict(type='toy.Nearest')]"
    with pytest.raises(toolbox.ToolboxError, match="Two metrics give the same numbers"):
        toolbox.train(toy([twice]), out="w")


def test_a_metric_that_is_better_when_less_chooses_the_least(toy, monkeypatch):
    toy()
    nearest = get_catalog().resolve("toy.Nearest")
    alone = ["evaluate_before=False", "evaluate_features=False"]
    values = iter([0.9, 0.5])
    monkeypatch.setattr(nearest, "compute", lambda self: {"error": next(values)})
    monkeypatch.setattr(nearest, "better", "less")
    assert toolbox.train(toy(alone), out="w")["best"]["value"] == 0.5
    values = iter([0.5, 0.9])
    assert toolbox.train(toy(alone), out="v")["best"]["value"] == 0.5


def test_an_augment_for_an_input_that_does_not_exist_is_refused(toy):
    wrong = "train_dataloader.augment=dict(imgae=dict(type='core.Augment'))"
    found = toolbox.check_config(toy([wrong]))
    assert "has no image input 'imgae'" in str(found[0])


def test_no_batch_is_left_over_by_accumulation(toy):
    """5 batches an epoch, 2 epochs, accumulation 3: 10 batches make 3 steps, not 2."""
    length = ["train_cfg=dict(max_epochs=2)", "train_dataloader.sampler=dict(type='core.Shuffled',batch_size=12)"]
    results = toolbox.train(toy([*length, "optim_wrapper.accumulative_counts=3"]), out="w")
    assert results["steps"] == 3


def test_a_finished_folder_can_be_moved(toy):
    toolbox.train(toy(), out="w")
    shutil.move("w", "elsewhere")
    assert toolbox.load("elsewhere").encode_image(toolbox.build({"type": "toy.Noise"})[0]["image"]).shape == (1, 8)
    assert toolbox.train(toy(), out="elsewhere", resume=True)["steps"] == 12


def test_data_with_other_classes_are_told(toy, monkeypatch):
    interrupt_at(monkeypatch, 5)
    data = "train_dataloader.dataset.count={}".format
    interrupted(toy([data(64)]), out="w")
    same_data, said = Said(), Said()
    interrupt_at(monkeypatch, 6)
    with pytest.raises(Interrupted):
        toolbox.train(toy([data(64)]), out="w", resume=True, console=same_data)
    assert not any("training data had" in line for line in same_data.lines), same_data.lines
    toolbox.train(toy([data(72)]), out="w", resume=True, console=said)
    assert any("had 16 classes and have 18 now" in line for line in said.lines), said.lines


def test_a_hook_that_saves_after_the_end_is_refused_and_changes_no_checkpoint(toy, monkeypatch):
    class Late(Hook):
        def after_run(self, run):
            run.save()

    toolbox.train(toy(["train_cfg.max_steps=2"]), out="plain")
    with_hooks(monkeypatch, Late())
    with pytest.raises(ToolboxError, match="saved after training had ended"):
        toolbox.train(toy(["train_cfg.max_steps=2"]), out="w")
    ours, theirs = (checkpoints.read(Path(folder, "checkpoint-2")).model_tensors() for folder in ("w", "plain"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_its_launcher_starts_again_goes_on_from_its_own_newest_checkpoint(toy):
    from toolbox.engine.distributed.context import DistributedContext
    from toolbox.engine.distributed.rank_info import RankInfo

    toolbox.train(toy(), out="w")
    first = min(checkpoints.all_in(Path("w")), key=lambda path: int(path.name.partition("-")[2]))
    said = Said()
    again = DistributedContext(RankInfo(restarts=1))
    toolbox.train(toy(), out="w", resume=str(first), console=said, distributed=again)
    newest = checkpoints.read("w/last").step
    assert any(f"Resuming at step {newest} " in line for line in said.lines)
