"""A user's mistake gets one message that says what, where and what to try; exit code 2, and no traceback."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from forked_python import ForkedPython

import toolbox
from toolbox.cli import common, test, train
from toolbox.engine.checkpoint import files
from toolbox.engine.checkpoint.checkpoint import read as read_checkpoint
from toolbox.errors import Problem, ToolboxError

HERE = Path(__file__).parent
ROOT = HERE.parent


@pytest.fixture
def run(toy, capsys):
    """`run(command, *arguments) -> (exit code, standard error)`, on the toy recipe."""
    toy()

    def call(command, *arguments):
        code = command.main([str(HERE / "toy_recipe.py"), *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return code, said.err

    return call


def refused(answer, *words):
    code, said = answer
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    for word in words:
        assert word in said


def test_unknown_override(run):
    refused(run(train, "--cfg-options", "model.bakbone.width=1"), "--cfg-options", "Did you mean 'backbone'?")


def test_unknown_recipe(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert train.main(["configs/dinov3_spo.py"]) == 2
    assert "Did you mean configs/dinov3_sop.py" in capsys.readouterr().err


def test_missing_data_names_the_ways_to_get_it_once(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert train.main([str(ROOT / "configs/dinov3_sop.py")]) == 2
    said = capsys.readouterr().err
    assert len([line for line in said.splitlines() if "data/stanford_online_products" in line]) == 1
    for words in (
        "train_dataloader.dataset",
        "test_dataloader.dataset",
        "vision-encoder-toolbox prepare_data sop",
        "train demo/dinov3_sop",
    ):
        assert words in said


def test_local_plugin_that_is_missing(run):
    refused(run(train, "--plugin", "nowhere.py"), "nowhere.py")


def test_mismatched_torch_and_torchvision(run, monkeypatch):
    def broken(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return sys.modules[name]

    monkeypatch.setattr(common, "importlib", types.SimpleNamespace(import_module=broken))
    refused(run(train), "torchvision::nms", "known good pair", common.KNOWN_PAIR)


def test_unknown_device(run):
    refused(run(train, "--device", "tpu"), "tpu", "--device cpu")
    if not torch.cuda.is_available():
        refused(run(train, "--device", "cuda:99"), "'cuda:99' was asked for", "--device cpu")


def test_the_device_of_the_command_line_wins_before_anything_is_refused(run):
    assert run(train, "--device", "cpu", "--cfg-options", "env_cfg.device=tpu")[0] == 0
    assert run(train, "--device", "cpu", "--check", "--cfg-options", "env_cfg.device=tpu")[0] == 0


def test_too_few_classes(run):
    refused(run(train, "--cfg-options", "train_dataloader.sampler.classes=40"), "train_dataloader.sampler", "16", "40")


def test_batch_larger_than_the_dataset(run):
    answer = run(train, "--cfg-options", "train_dataloader.sampler=None", "train_dataloader.batch_size=100")
    refused(answer, "100", "64")


def test_k_larger_than_the_gallery(run):
    answer = run(train, "--cfg-options", "val_evaluator=dict(type='retrieval.Recall',ks=[1,10,100])")
    refused(answer, "val_evaluator", "63", "ks=[1,10]")


def test_nan_loss_names_the_step_and_keeps_the_last_good_checkpoint(run):
    answer = run(train, "--work-dir", "w", "--cfg-options", "model.loss.explode_at=6")
    refused(answer, "not finite at step 6", "learning rate")
    assert os.readlink("w/last") == "checkpoint-4"
    assert read_checkpoint("w/last").step == 4


def test_unreadable_item_raises_or_is_left_out_and_named(run, capsys):
    bad = "train_dataloader.dataset.bad=[5]"
    refused(run(train, "--work-dir", "a", "--cfg-options", bad), "item-5.png", "on_bad_item")
    skip = ["train_dataloader.on_bad_item=skip", "train_dataloader.max_bad_share=0.05"]
    code, _ = run(train, "--work-dir", "b", "--cfg-options", bad, *skip)
    assert code == 0
    named = [json.loads(line) for line in Path("b/bad_items.jsonl").read_text().splitlines()]
    assert named == [{"index": 5, "error": "item-5.png: broken data stream"}]
    assert json.loads(Path("b/train_results.json").read_text())["unreadable_items"] == 1
    # a few are always left out, unless the share is given
    assert run(train, "--work-dir", "c", "--cfg-options", bad, skip[0], "train_dataloader.num_workers=1")[0] == 0
    strict = [bad, skip[0], "train_dataloader.max_bad_share=0.01"]
    refused(run(train, "--work-dir", "d", "--cfg-options", *strict), "1 of 64", "max_bad_share", "audit_data")


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_unreadable_items_are_named_at_once(run, split):
    many = f"{split}_dataloader.dataset.bad={list(range(3, 30))}"
    answer = run(train, "--work-dir", "a", "--cfg-options", many, f"{split}_dataloader.num_workers=1")
    refused(answer, "Item 3 of Noise cannot be read: item-3.png", "nor can 26 others of its 64 items", "and 6 more")
    refused(
        answer,
        *(f"item-{index}.png" for index in range(3, 24)),
        "vision-encoder-toolbox audit_data",
        "on_bad_item='skip'",
    )


def test_looking_for_others_ends_after_a_while():
    from toolbox.engine.data.bad_items import find_unreadable, unreadable_error

    class Slow(list):
        def __getitem__(self, index):
            if index % 2:
                raise OSError(f"{index}.png")
            if index == 8:
                raise RuntimeError("a defect")

    assert find_unreadable(Slow(range(10)), {0: "first"}) == (
        {0: "first"} | {i: f"{i}.png" for i in (1, 3, 5, 7, 9)},
        10,
    )
    assert find_unreadable(Slow(range(10)), {0: "first"}, seconds=-1) == ({0: "first"}, 1)
    found = unreadable_error(Slow(range(1000)), [(1, "a"), (3, "b")], looked=40)
    assert "Item 1 of Slow cannot be read: a; nor can another one of the 40 that were looked at: item 3: b." in str(
        found
    )


@pytest.mark.parametrize(
    ("share", "total", "allowed"),
    [
        (None, 20, 5),
        (None, 4, 1),
        (None, 3, 1),
        (None, 12, 3),
        (None, 1000, 10),
        (None, 400, 5),
        (0, 20, 0),
        (0.5, 20, 10),
    ],
)
def test_a_few_unreadable_files_do_not_stop_a_small_folder(share, total, allowed):
    from toolbox.engine.data.bad_items import allowed_bad

    assert allowed_bad({} if share is None else {"max_bad_share": share}, total) == allowed


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ({}, "6 of 20 items cannot be read, and by default 5 may be (max_bad_share)."),
        ({"max_bad_share": None}, "6 of 20 items cannot be read, and by default 5 may be (max_bad_share)."),
        ({"max_bad_share": 0.25}, "6 of 20 items cannot be read, and max_bad_share allows 5."),
    ],
)
def test_too_many_unreadable_files_say_whose_limit_it_is(tmp_path, loader, said):
    from toolbox.engine.console import Console
    from toolbox.engine.data.bad_items import BadItems
    from toolbox.engine.evaluation.evaluator import check_bad

    bad = BadItems(tmp_path / "bad_items.jsonl", 20, loader, Console())
    bad.note([(index, "broken") for index in range(5)])
    check_bad(5, range(20), loader, "val")
    for too_many in (lambda: bad.note([(9, "broken")]), lambda: check_bad(6, range(20), loader, "val")):
        with pytest.raises(ToolboxError) as error:
            too_many()
        assert error.value.problems[0].message == said


def test_unreadable_item_in_the_validation_set(run):
    bad = "val_dataloader.dataset.bad=[5]"
    refused(run(train, "--work-dir", "a", "--cfg-options", bad), "item-5.png")
    skip = ["val_dataloader.on_bad_item=skip", "val_dataloader.max_bad_share=0.05"]
    assert run(train, "--work-dir", "b", "--cfg-options", bad, *skip)[0] == 0
    assert json.loads(Path("b/train_results.json").read_text())["best"]["metrics"]["unreadable_items"] == 1


def test_a_work_directory_that_holds_a_run(run):
    assert run(train, "--work-dir", "w")[0] == 0
    Path("w/mine.txt").write_text("mine")
    before = Path("w/train_results.json").read_text()
    refused(run(train, "--work-dir", "w"), "already holds a run", "--resume", "--overwrite")
    assert Path("w/train_results.json").read_text() == before
    assert run(train, "--work-dir", "w", "--resume")[0] == 0  # it had ended: evaluated again, trained no further
    assert run(train, "--work-dir", "w", "--overwrite")[0] == 0
    assert Path("w/mine.txt").read_text() == "mine"
    refused(run(train, "--work-dir", "w", "--overwrite", "--resume"), "one of them")


def test_damaged_checkpoint(run):
    run(train, "--work-dir", "w")
    newest = Path("w/last").resolve()
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    refused(run(train, "--work-dir", "w", "--resume", newest), "damaged", "model.safetensors")
    refused(run(test, newest), "damaged")
    code, said = run(train, "--work-dir", "w", "--resume")
    assert code == 0, said
    assert read_checkpoint("w/last").step == 12  # the newest whole one is older, and the run repeated what came after


def test_only_damaged_checkpoints(run):
    run(train, "--work-dir", "w")
    for path in Path("w").glob("checkpoint-*"):
        (path / "manifest.json").write_text("{")
    answer = run(train, "--work-dir", "w", "--resume")
    refused(answer, "No checkpoint in w is whole", "--overwrite")


def test_foreign_checkpoint(run):
    run(train, "--work-dir", "w")
    width = ["--cfg-options", "model.backbone.width=32"]
    refused(run(train, "--work-dir", "v", "--resume", "w/last", *width), "another model", "of another shape")
    refused(run(test, "w", *width), "another model")
    refused(run(test, "w", "--cfg-options", "model.head=None"), "another model", "unexpected", "head")
    refused(run(test, "nowhere"), "nowhere", "does not exist")
    refused(run(test, HERE), "manifest.json")


@pytest.mark.skipif(os.geteuid() != 0, reason="read-only folders are simulated below for other users")
def test_work_dir_that_is_a_file(run):
    Path("w").write_text("x")
    refused(run(train, "--work-dir", "w"), "Nothing can be written to w", "--work-dir")


def test_read_only_folder(run, monkeypatch):
    original = Path.write_text

    def refuse(self, *arguments, **options):
        if self.name.startswith(".probe"):
            raise PermissionError(30, "Read-only file system")
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", refuse)
    refused(run(train, "--work-dir", "w"), "Nothing can be written to w", "Read-only file system")


def test_full_disk_keeps_what_was_written(run, monkeypatch):
    original, count = files.sync, []

    def full(path):
        count.append(path)
        if "checkpoint-8" in str(path):
            raise OSError(28, "No space left on device")
        original(path)

    monkeypatch.setattr(files, "sync", full)
    refused(run(train, "--work-dir", "w"), "checkpoint-8", "No space left on device", "--resume")
    assert os.readlink("w/last") == "checkpoint-6"
    assert not list(Path("w").glob(".*partial*"))
    monkeypatch.setattr(files, "sync", original)
    assert run(train, "--work-dir", "w", "--resume")[0] == 0


def test_a_real_full_disk_is_one_message(run, monkeypatch):
    """safetensors has an exception of its own for it."""
    from safetensors import SafetensorError

    from toolbox.engine.checkpoint import checkpoint

    def full(*arguments, **options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    refused(run(train, "--work-dir", "w"), "checkpoint-4", "No space left on device")


def test_a_foreign_manifest(run):
    Path("c").mkdir()
    Path("c/manifest.json").write_text('{"format": 1, "step": 1, "files": {}}')
    refused(run(train, "--work-dir", "w", "--resume", "c"), "damaged", "lacks")
    refused(run(test, "c"), "damaged", "lacks")


def test_a_folder_in_which_a_run_is_going_on(run):
    from toolbox.engine.checkpoint import run_folder

    Path("w").mkdir()
    with run_folder.lock(Path("w")):
        refused(run(train, "--work-dir", "w"), "A run is going on in w", str(os.getpid()))
        refused(run(train, "--work-dir", "w", "--resume"), "A run is going on in w")
    assert run(train, "--work-dir", "w")[0] == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.loss=None", ("model.loss", "without a loss")),
        ("default_hooks.checkpoint.save_best=recal@1", ("save_best", "Did you mean 'recall@1'")),
        ("custom_hooks=[dict(type='core.EarlyStop',metric='foo')]", ("custom_hooks.0.metric", "'foo'", "recall@1")),
        ("load_from=/nope", ("/nope", "does not exist")),
        ("env_cfg.device=gpu", ("gpu", "--device cpu")),
        ("optim_wrapper.parts.model.haed.lr=1e-3", ("There is no part 'model.haed'",)),
    ],
)
def test_check_finds_what_would_fail_later(run, override, words):
    metric = "val_evaluator=dict(type='retrieval.Recall',ks=[1,10])"
    refused(run(train, "--check", "--cfg-options", metric, override), *words)


def test_learning_nothing_is_said(run, capsys):
    code = train.main(
        [
            str(HERE / "toy_recipe.py"),
            "--cfg-options",
            "model.loss.type=losses.SupCon",
            "train_dataloader.sampler.per_class=1",
        ]
    )
    assert code == 0
    assert capsys.readouterr().out.count("No gradient reaches the trained parts") == 1


def test_a_metric_that_fails_loses_no_step(run):
    answer = run(
        train,
        "--work-dir",
        "w",
        "--cfg-options",
        "default_hooks.checkpoint.save_best=unknown",
        "default_hooks.checkpoint.interval=100",
    )
    refused(answer, "no finite validation metric 'unknown'", "nearest")
    assert os.readlink("w/last") == "checkpoint-6"


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path, toy):
    code = (
        "import sys; sys.stdout = open('pipe', 'w')\nfrom toolbox.cli.train import main; sys.exit(main(sys.argv[1:]))"
    )
    os.mkfifo(tmp_path / "pipe")
    arguments = [HERE / "toy_recipe.py", "--work-dir", "w", "--plugin", HERE / "toy_plugin.py"]
    process = ForkedPython("-c", code, *arguments, cwd=tmp_path)
    with (tmp_path / "pipe").open() as reader:
        first = reader.readline()
    code, _, said = process.end()
    assert (code, first != "") == (0, True), said
    assert (tmp_path / "w/train_results.json").exists()


def test_wrong_types_of_checkpoint_state_run_no_code(run, tmp_path):
    """A checkpoint is JSON and safetensors; nothing in it is unpickled."""
    run(train, "--work-dir", "w")
    assert {path.suffix for path in Path("w/last/").iterdir()} == {".json", ".safetensors"}
    sources = "".join(path.read_text() for path in (ROOT / "toolbox").rglob("*.py"))
    assert "torch.load(" not in sources
    assert "import pickle" not in "".join(path.read_text() for path in (ROOT / "toolbox/engine").rglob("*.py"))


@pytest.mark.parametrize(("message", "text"), [("It broke", "w: It broke. Mend it."), ("Why?", "w: Why? Mend it.")])
def test_a_hint_is_a_sentence_of_its_own(message, text):
    assert str(Problem(message, "w", "Mend it.")) == text
    assert str(Problem(message, "w")) == f"w: {message}", "another library's words stay as they are"


def test_a_checkpoint_that_brings_a_plugin_along_runs_no_code(toy, tmp_path):
    toolbox.train(toy(["train_cfg.max_steps=2"]), out="w")
    evil, manifest = tmp_path / "w" / "evil.py", tmp_path / "w" / "last" / "manifest.json"
    evil.write_text("open('ran', 'w').close()\n")
    told = json.loads(manifest.read_text())
    told["recipe"]["plugins"] = [str(evil)]
    manifest.write_text(json.dumps(told))
    toolbox.load("w")  # see test_security.py
    assert not Path("ran").exists()


def test_names_of_files_that_are_no_text_cost_no_run(tmp_path, capsys):
    from toolbox.engine.console import Console
    from toolbox.engine.data.bad_items import BadItems
    from toolbox.feature_cache import key, shards

    console, error = Console(), "a\n\udcff.png: broken"
    console.log_file = tmp_path / "train.log"
    bad = BadItems(tmp_path / "bad_items.jsonl", 10, {"max_bad_share": 0.1}, console)
    bad.note([(3, error)])
    assert json.loads((tmp_path / "bad_items.jsonl").read_text()) == {"index": 3, "error": error}
    assert "\\udcff.png" in (tmp_path / "train.log").read_text()
    assert json.loads(files.as_json({"found": error}).encode()) == {"found": error}
    assert key.digest(error) != key.digest(error + "x")
    assert shards._digest({"ids": [error]})
