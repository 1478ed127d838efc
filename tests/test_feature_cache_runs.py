"""Runs on cached features equal the runs with the frozen backbone at work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import toy_plugin
from forked_python import run_python
from same import assert_equal
from test_exactness import assert_same, interrupt_at, trained
from test_feature_cache import flip
from test_resume import Said, interrupted

import toolbox
from toolbox import api
from toolbox.base import Model
from toolbox.builtins.augment import RandomViews
from toolbox.cli import extract
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
from toolbox.errors import ToolboxError
from toolbox.feature_cache.feature_store import FeatureStore
from toolbox.feature_cache.views import choose_view, get_draw
from toolbox.feature_cache.writer import Writer

FROZEN = {"model.backbone.tune": dict(mode="frozen"), "train_dataloader.augment": None}
STORED = FROZEN | {"features": dict(dtype="fp32")}
VIEWS = {"model.backbone.tune": dict(mode="frozen"), "features": dict(dtype="fp32", views=3)}
TAUGHT = {
    "model.teacher": dict(type="toy.Patches", width=8, dropout=0.0),
    "train_dataloader.augment": None,
    "model.loss": dict(type="losses.Distillation", kind="kl"),
    "model.teacher_pool": "mean",
}
CLASSES = {
    "model": dict(
        type="classification.Classifier",
        backbone=dict(type="toy.Patches"),
        pool="mean",
        loss=dict(type="losses.CrossEntropy"),
    ),
    "train_dataloader.augment": None,
}


def run(recipe, folder: str, **options):
    """(results, weights of the last checkpoint, what was said)."""
    said = Said()
    results = toolbox.train(recipe, out=folder, console=said, **options)
    return results, trained(Path(folder))[0], said.lines


def furthest(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


@pytest.mark.parametrize(
    ("live", "stored"),
    [
        (FROZEN, STORED),
        (FROZEN | {"optim_wrapper.grad_cache": dict(chunk_size=3)},) * 2,
        (FROZEN | {"train_dataloader.sampler": dict(type="retrieval.Pairs", batch_size=4), "model.cross_view": True},)
        * 2,
        (TAUGHT, TAUGHT),
        (CLASSES, CLASSES),
    ],
    ids=["plain", "chunks", "blocks", "teacher", "classifier"],
)
def test_training_on_the_store_is_training_with_the_backbone(toy, live, stored):
    test = {"test_dataloader": dict(toy()["val_dataloader"]), "test_evaluator": dict(type="toy.Nearest")}
    expected, weights, _ = run(toy(live | test), "live")
    recipe = stored | test | {"features": dict(dtype="fp32")}
    found, again, said = run(toy(recipe), "stored")
    assert furthest(weights, again) < 1e-5
    assert found["before"] == expected["before"]
    assert found["after"] == expected["after"]
    assert found["features"]["computed"] == (64 if stored is TAUGHT else 128)  # val and test are the same data
    assert expected["features"] is None
    assert any("64 computed, 0 found" in line for line in said)
    coarse = run(toy(recipe | {"features": dict(dtype="bf16")}), "coarse")[1]
    assert furthest(weights, coarse) > 0  # a comparison that can fail


def test_no_image_is_read_once_all_is_stored(toy, monkeypatch):
    run(toy(STORED), "a")
    reads = []
    original = toy_plugin.Noise.__getitem__
    module = sys.modules[type(api.build(dict(type="toy.Noise"))).__module__]
    monkeypatch.setattr(module.Noise, "__getitem__", lambda self, index: reads.append(index) or original(self, index))
    results, _, said = run(toy(STORED), "b")
    assert results["features"]["found"] == 128
    assert results["features"]["computed"] == 0
    assert len(reads) == 8  # the second look: four of each
    assert any("0 computed, 64 found" in line for line in said)
    run(toy(STORED | {"evaluate_pixels": True}), "pixels")
    assert len(reads) == 8 + 8 + 64  # raw pixels are no features


@pytest.mark.parametrize("step", [4, 7])
@pytest.mark.parametrize("options", [STORED, VIEWS])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(toy, monkeypatch, step, options):
    whole, _, _ = run(toy(options), "whole")
    interrupt_at(monkeypatch, step)
    interrupted(toy(options), out="stopped")
    found, _, _ = run(toy(options), "stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))
    for results in (whole, found):
        del results["features"]
    assert_equal(whole, found)


def test_views_are_those_that_the_loader_makes_and_draws_choose_from_them(toy):
    results, _, _ = run(toy(VIEWS), "a")
    store = FeatureStore(Path(results["features"]["folders"][0]))
    assert (store.calls, store.layout.views) == (3, 3)
    model = api.build(toy(VIEWS))
    from safetensors.torch import load_file

    weights = load_file("a/last/model.safetensors")
    model.connect(16)
    model.load_state_dict(weights)
    model.eval()
    dataset, source = toy_plugin.Noise(), InputSpec("image", toy_plugin.ToTensor(16))
    live = BatchBuilder(dataset, {"image": source}, augment=RandomViews(), seed=0)
    draws = [(1000, 5), (1001, 5), (77, 63)]
    chosen = choose_view(0, [draw for draw, _ in draws], 3)
    batch = live[[(get_draw(index, int(view), 64), index) for (_, index), view in zip(draws, chosen, strict=True)]]
    got = BatchBuilder(dataset, {"image": source}, seed=0, stored={"image": store})[draws]
    with torch.no_grad():
        torch.testing.assert_close(got.inputs["image"], model.pool_features(batch))
    for name in ("labels", "ids", "indices", "draws", "views", "blocks", "bad"):
        assert_equal(getattr(got, name), getattr(live[draws], name))
    assert got.stored == ["image"]
    assert (store.rows([5], 0) != store.rows([5], 1)).any()


def test_an_augmentation_of_two_views_is_stored_as_two(toy):
    recipe = toy(
        VIEWS
        | {
            "train_dataloader.augment": dict(type="core.Augment", views=2),
            "model.loss": dict(type="losses.InfoNCE"),
            "model.cross_view": True,
        }
    )
    results, _, _ = run(recipe, "a")
    store = FeatureStore(Path(results["features"]["folders"][0]))
    assert (store.calls, store.layout.views) == (3, 6)
    batch = BatchBuilder(
        toy_plugin.Noise(), {"image": InputSpec("image", toy_plugin.ToTensor(16))}, stored={"image": store}
    )[[(0, 4), (1, 9)]]
    assert batch.views == {"image": 2}
    views = choose_view(0, [0, 1], 3) * 2
    expected = torch.cat([store.rows([4, 9], views), store.rows([4, 9], views + 1)])
    assert torch.equal(batch.inputs["image"], expected)


def test_what_is_live_sees_the_view_that_is_stored_beside_it(toy):
    """A student at work learns from a stored teacher: both of the same picture."""
    augment = {"train_dataloader.augment": dict(type="core.Augment")}
    results, _, _ = run(toy(TAUGHT | augment | {"features": dict(dtype="fp32", views=2)}), "a")
    store = FeatureStore(Path(results["features"]["folders"][0]))
    source = InputSpec("image", toy_plugin.ToTensor(16))
    inputs, dataset = {"image": source, "teacher": source}, toy_plugin.Noise()
    mixed = BatchBuilder(dataset, inputs, augment=RandomViews(), seed=0, stored={"teacher": store})[[(900, 7)]]
    view = int(choose_view(0, [900], 2)[0])
    plain = BatchBuilder(dataset, {"image": source}, augment=RandomViews(), seed=0)
    assert torch.equal(mixed.inputs["image"], plain[[(get_draw(7, view, 64), 7)]].inputs["image"])
    assert torch.equal(mixed.inputs["teacher"], store.rows([7], view))


@pytest.mark.parametrize("sampler", [None, dict(type="retrieval.Pairs", batch_size=8)])
def test_items_that_cannot_be_read_are_left_out_as_live(toy, sampler):
    loader = dict(dataset=dict(type="toy.Noise", bad=[3, 9, 40]), num_workers=0, on_bad_item="skip", max_bad_share=0.1)
    loader |= dict(sampler=sampler) if sampler else dict(batch_size=16)
    bad = {"train_dataloader": loader, "model.backbone.tune": dict(mode="frozen")}
    expected, weights, _ = run(toy(bad), "live")
    found, again, said = run(toy(bad | {"features": dict(dtype="fp32")}), "stored")
    assert furthest(weights, again) < 1e-5
    assert Path("stored/bad_items.jsonl").read_text() == Path("live/bad_items.jsonl").read_text()
    assert found["unreadable_items"] == expected["unreadable_items"] == 3
    assert any("3 unreadable items left out" in line for line in said)
    with pytest.raises(ToolboxError, match=r"Item 3 of Noise cannot be read: item-3\.png"):
        run(toy(bad | {"features": dict(dtype="fp32"), "train_dataloader.on_bad_item": "raise"}), "raise")
    with pytest.raises(ToolboxError, match="3 of 64 items cannot be read"):
        run(toy(bad | {"features": dict(dtype="fp32"), "train_dataloader.max_bad_share": 0.01}), "many")


def test_an_unreadable_item_ends_the_extraction_unless_it_may_be_left_out(toy):
    recipe = toy(STORED | {"train_dataloader.dataset": dict(type="toy.Noise", bad=[40])})
    with pytest.raises(ToolboxError, match=r"train_dataloader: Item 40 of Noise cannot be read"):
        run(recipe, "a")
    [folder] = Path("work_dirs/features").iterdir()
    assert (folder / "shard-00000.json").is_file()  # what came before it stays
    assert not (folder / "manifest.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.backbone.tune": None}, "Only what stays the same can be stored: 'image' trains backbone"),
        ({"model.backbone.tune": dict(mode="lora", rank=2)}, "'image' trains backbone"),
        ({"model.pool": "gem"}, r"'image' trains pool\.power"),
        ({"model.pool": "tokens", "model.loss": dict(type="losses.MaxSim"), "model.head": None}, "keeps tokens"),
        ({"train_dataloader.augment": dict(type="core.Augment")}, "An augmentation makes new images"),
        ({"features": dict(views=2)}, "all 2 views are the same"),
        ({"features": dict(views=0)}, "at least one view, not 0"),
        ({"features": dict(dtype="int8")}, "features.dtype"),
        ({"features": dict(kind="fp16")}, "kind"),
        ({"model": dict(type="loose.Loose", backbone=dict(type="toy.Patches"))}, "training mode"),
        ({"model": dict(type="loose.Bare", backbone=dict(type="toy.Patches"))}, "names no towers"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_one_message(toy, tmp_path, changes, message):
    loose = {"plugins": [str(Path(__file__).parent / "loose_plugin.py")]} if "model" in changes else {}
    recipe = toy(STORED | changes | loose)
    with pytest.raises(ToolboxError, match=message) as caught:
        toolbox.train(recipe, out="w")
    assert len([one for one in caught.value.problems if "trained" not in one.message]) == 1
    assert not Path("work_dirs").exists()


def test_a_change_that_no_key_sees_is_found_by_looking_again(toy, monkeypatch):
    run(toy(STORED), "a")
    module = sys.modules[type(api.build(dict(type="toy.Noise"))).__module__]
    original = module.Noise.__getitem__

    def mirrored(self, index):
        sample = original(self, index)
        return sample | {"image": sample["image"].rotate(180)}

    monkeypatch.setattr(
        module.Noise, "__getitem__", lambda self, index: original(self, (index + 8) % 64) | {"id": index}
    )
    with pytest.raises(ToolboxError, match=r"The stored features of item \d+ differ by"):
        run(toy(STORED), "b")


def test_other_weights_are_other_features_and_it_is_said_why(toy):
    run(toy(STORED), "a")
    results, _, said = run(toy(STORED | {"randomness.seed": 5}), "b")
    assert results["features"]["found"] == 0
    assert any("is of other features, which differ in weights: it is not used" in line for line in said)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:-3]), Path.unlink])
def test_a_damaged_shard_is_computed_again_and_nothing_else(toy, damage):
    first, weights, _ = run(toy(STORED), "a")
    for folder in first["features"]["folders"]:
        damage(Path(folder) / "shard-00001")
    found, again, _ = run(toy(STORED), "b")
    assert (found["features"]["computed"], found["features"]["found"]) == (64, 64)
    assert furthest(weights, again) == 0


def test_a_process_that_is_killed_between_two_shards_loses_no_shard(toy):
    run(toy(STORED | {"features.folder": "other"}), "whole")
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import test_feature_cache_runs as t\n"
        "from toolbox.feature_cache import writer\n"
        "original = writer.Writer.write; calls = []\n"
        "def write(self, *a):\n"
        "    calls.append(1) if len(calls) < 1 else os.kill(os.getpid(), 9)\n"
        "    original(self, *a)\n"
        "writer.Writer.write = write\n"
        "from toolbox.config import load_config; from toolbox.registry import add_local; import toolbox\n"
        "add_local([sys.argv[1] + '/toy_plugin.py'])\n"
        "toolbox.train(load_config(sys.argv[1] + '/toy_recipe.py', t.STORED), out='stopped')\n"
    )
    here = str(Path(__file__).parent)
    done = run_python("-c", code, here)
    assert done.returncode == -9, done.stderr
    found, _, said = run(toy(STORED), "stopped", resume=True)
    assert (found["features"]["computed"], found["features"]["found"]) == (96, 32)
    assert any("holds 1 of 2 parts; the others are computed now" in line for line in said)
    assert_same(Path("whole"), Path("stopped"))


def test_ctrl_c_keeps_whole_shards_and_the_command_goes_on(toy, monkeypatch):
    original, calls = Writer.write, []

    def write(self, *arguments):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(True)
        original(self, *arguments)

    monkeypatch.setattr(Writer, "write", write)
    with pytest.raises(KeyboardInterrupt):
        toolbox.extract(toy(STORED), console=Said())
    monkeypatch.setattr(Writer, "write", original)
    found = toolbox.extract(toy(STORED), console=Said())
    assert (found["computed"], found["found"]) == (96, 32)


def test_the_command_stores_what_training_finds_and_mends_it(toy, command, capsys):
    here = Path(__file__).parent
    given = [str(here / "toy_recipe.py"), "--cfg-options", "model.backbone.tune=dict(mode='frozen')"]
    first = command("extract", *given, "--plugin", here / "toy_plugin.py")
    assert first.returncode == 0, first.stderr
    assert "128 items computed, 0 found." in first.stdout
    assert "64 items x 16 numbers, fp16" in first.stdout
    results, _, _ = run(toy(FROZEN | {"features": dict(dtype="fp16")}), "w")
    assert results["features"]["found"] == 128
    [folder, _] = sorted(Path("work_dirs/features").iterdir())
    flip(folder / "shard-00000")
    assert extract.main([*given, "--verify"]) == 0
    assert "32 items computed, 96 found. All checksums are right." in capsys.readouterr().out
    assert extract.main([*given, "--split", "val"]) == 0
    assert "0 items computed, 64 found." in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["of"]["dataset"]["class"].endswith("Noise")
    assert extract.main([*given, "--split", "test"]) == 2
    assert capsys.readouterr().err == "--split: The recipe has no test_dataloader.\n"


def test_what_is_complete_is_read_without_writing_anything(toy, monkeypatch):
    run(toy(STORED), "a")
    files = sorted(Path("work_dirs/features").rglob("*"))
    before = [path.stat().st_mtime_ns for path in files]

    def refused(*arguments):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as disk:
        disk.setattr(Writer, "alone", refused)
        found, _, _ = run(toy(STORED), "b")
    assert found["features"]["found"] == 128
    assert [path.stat().st_mtime_ns for path in sorted(Path("work_dirs/features").rglob("*"))] == before
    (files[-1].parent / "manifest.json").unlink()
    again, _, _ = run(toy(STORED), "c")
    assert again["features"]["found"] == 128  # the shards are whole: no number is computed again


def test_a_folder_that_takes_nothing_is_refused_with_what_to_do(toy):
    Path("features").write_text("a file")
    with pytest.raises(ToolboxError, match="No features can be stored in features"):
        run(toy(STORED | {"features.folder": "features"}), "a")


def test_an_evaluation_reads_the_store(toy, capsys):
    run(toy(STORED), "w")
    said = []
    stored = toolbox.evaluate(toy(STORED), "w", log=said.append)
    assert "0 computed, 64 found" in said[0]
    assert capsys.readouterr().out == ""  # which belongs to numbers
    assert stored == toolbox.evaluate(toy(FROZEN), "w")
    assert toolbox.evaluate(toy(STORED)) == toolbox.evaluate(toy(FROZEN))


def test_the_check_counts_memory_of_features_and_says_what_would_be_stored(toy):
    live, stored = api.plan(toy(FROZEN)), api.plan(toy(STORED))
    assert stored.memory["inputs"] == 8 * 16 * 4  # a row of 16 numbers an item
    assert live.memory["inputs"] == 8 * 3 * 16 * 16 * 4
    assert stored.memory["activations and gradients"] < live.memory["activations and gradients"]
    [note] = [note for note in stored.notes if note.startswith("features:")]
    assert "train 64, val 64 items of 16 numbers (fp32): 8,192 bytes" in note
    assert not Path("work_dirs").exists()


def test_a_model_says_what_is_stored_and_what_is_not(toy):
    plan = api.plan(toy(TAUGHT | {"features": dict(dtype="fp32")}))
    assert "features: what trains is computed as ever: image." in plan.notes
    assert Model.pooled_backbones is not type(api.build(toy(TAUGHT))).pooled_backbones
