"""tools/embed.py: what it embeds, with what, and the files that it writes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_python import ForkedPython
from PIL import Image

import toolbox
from toolbox.base import files
from toolbox.cli import model_commands
from toolbox.cli.embed import main
from toolbox.errors import ToolboxError
from toolbox.inference.image_sources import find_image_sources
from toolbox.utils.stored_embeddings import KINDS, StoredEmbeddings, read_embeddings, write_embeddings

ROOT = Path(__file__).parent.parent
NAMES = ["a/1.png", "a/10.PNG", "a/2.jpg", "b c/deep/ü.webp", "top.png"]


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))


@pytest.fixture
def photos(tmp_path):
    """Five pictures in a folder, and files that are none."""
    root = tmp_path / "photos"
    for seed, name in enumerate(NAMES):
        draw(root / name, seed)
    for hidden in (".hidden.png", "a/.thumbs/1.png"):
        draw(root / hidden, 9)
    (root / "a/notes.txt").write_text("no picture")
    return root


@pytest.fixture
def run(toy, tmp_path):
    """The folder of a run of two steps."""
    config = toy(["train_cfg.max_steps=2", "train_cfg.val_interval=2", "evaluate_before=False"])
    toolbox.train(config, out=tmp_path / "run")
    return tmp_path / "run"


def embed(*arguments) -> int:
    return main([str(argument) for argument in (*arguments, "--device", "cpu")])


def failed(capsys, *arguments) -> str:
    """The one message of a command that refuses."""
    assert embed(*arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_becomes_rows_with_the_ids_of_its_files(run, photos, tmp_path, capsys, kind):
    out = tmp_path / f"out{kind}"
    assert embed(run, photos, out, "--num-workers", 0) == 0
    ids, rows = read_embeddings(out)
    assert ids == NAMES
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    expected = toolbox.load(run, device="cpu").encode_image([photos / name for name in NAMES])
    np.testing.assert_allclose(rows, expected.numpy(), atol=1e-6)
    printed = capsys.readouterr().out
    assert "1 other files ignored (1 .txt)" in printed
    assert "5 embeddings of 8 numbers (float32, length 1)" in printed
    assert sorted(path.name for path in tmp_path.glob("out*")) == sorted(
        {out.name, "out.ids.txt"} if kind == ".npy" else {out.name}
    )


def test_batches_and_workers_change_nothing(run, photos, tmp_path):
    for number, (size, workers) in enumerate([(64, 0), (2, 2), (1, 3)]):
        assert embed(run, photos, tmp_path / f"{number}.npz", "--batch-size", size, "--num-workers", workers) == 0
    first, *others = (read_embeddings(tmp_path / f"{number}.npz") for number in range(3))
    for ids, rows in others:
        assert ids == first[0]
        np.testing.assert_allclose(rows, first[1], atol=1e-6)


def test_links_are_followed_once_and_broken_ones_are_unreadable(photos, tmp_path):
    draw(tmp_path / "elsewhere/x.png", 3)
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "a/loop").symlink_to(photos)
    (photos / "b c/file.png").symlink_to(photos / "top.png")
    found = find_image_sources(photos)
    assert found.names == sorted([*NAMES, "linked/x.png"])
    assert "2 links left out" in found.notes()[-1]
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert find_image_sources(photos).missing() == ["gone.png"]


def test_one_image_and_lists(run, photos, tmp_path, capsys):
    assert embed(run, photos / "top.png", tmp_path / "one.npz") == 0
    assert read_embeddings(tmp_path / "one.npz")[0] == ["top.png"]
    listing = photos / "list.txt"
    listing.write_text("\ufeffa/2.jpg\r\n\r\nb c/deep/ü.webp\n a/2.jpg \n" + str(photos / "top.png"), encoding="utf-8")
    assert embed(run, listing, tmp_path / "list.npz") == 0
    ids, rows = read_embeddings(tmp_path / "list.npz")
    assert ids == ["a/2.jpg", "b c/deep/ü.webp", str(photos / "top.png")]
    np.testing.assert_allclose(rows[2], read_embeddings(tmp_path / "one.npz")[1][0], atol=1e-6)
    assert "1 lines that return are counted once" in capsys.readouterr().out
    lines = photos / "list.jsonl"
    lines.write_text('{"image": "a/2.jpg", "id": 7}\n"top.png"\n{"query_image": "a/1.png", "label": 3}\n')
    assert embed(run, lines, tmp_path / "lines.npz") == 0
    assert read_embeddings(tmp_path / "lines.npz")[0] == ["7", "top.png", "a/1.png"]
    lines.write_text('{"image": "a/2.jpg", "id": 7.0}\n{"image": "top.png", "id": null}\n')
    assert find_image_sources(lines).ids == ["7", "top.png"]


def test_several_images_and_folders_have_the_paths_as_given(run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ["photos/top.png", "photos/a/2.jpg", "photos/b c"]
    assert embed(run, *names, "some.npz") == 0
    ids, some = read_embeddings(tmp_path / "some.npz")
    assert ids == [*names[:2], "photos/b c/deep/ü.webp"]
    assert embed(run, "photos", "all.npz") == 0
    everything = dict(zip(*read_embeddings(tmp_path / "all.npz"), strict=True))
    np.testing.assert_allclose(some, [everything[name.removeprefix("photos/")] for name in ids], atol=1e-6)
    (tmp_path / "x.jsonl").write_text('{"image": "photos/top.png", "id": "photos/a/2.jpg"}')
    assert "belongs to photos/a/2.jpg and to photos/top.png" in failed(capsys, run, *names, "x.jsonl", "x.npz")
    assert "--split takes one recipe" in failed(capsys, run, *names, "x.npz", "--split", "train")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.txt", "\n\n", "names no picture"),
        ("x.txt", "a/1.png\nnone.png\nnor.png\n", "2 of 3 images"),
        ("x.jsonl", '{"image": "a/1.png"\n', "x.jsonl:1: The line is no JSON"),
        ("x.jsonl", '\n{"file": "a/1.png"}\n', 'x.jsonl:2: The line names no picture. It takes one of "image"'),
        ("x.jsonl", '{"image": "a/1.png", "id": 1}\n{"image": "top.png", "id": 1}\n', "The id '1' belongs to a/1.png"),
        ("x.jsonl", '{"image": "a/1.png", "id": true}', "x.jsonl:1: 'id' must be a number or a string, not True"),
        ("x.jsonl", '{"image": "a/1.png", "id": 1.5}', "x.jsonl:1: 'id' is 1.5, and must be a whole number or a name"),
        ("x.jsonl", '{"image": "a/1.png", "id": 1e18}', "was rounded, so that different ones may have become the same"),
        ("x.md", "a/1.png", "neither a folder, an image nor a list"),
        ("none", None, "does not exist"),
    ],
)
def test_lists_that_make_no_sense(toy, photos, capsys, name, text, message):
    toy()
    if text is not None:
        (photos / name).write_text(text)
    assert message in failed(capsys, ROOT / "tests/toy_recipe.py", photos / name, "out.npz")
    assert not Path("out.npz").exists()


def test_a_folder_without_images_says_what_is_in_it(toy, tmp_path, capsys):
    toy()
    (tmp_path / "texts").mkdir()
    assert "There is no image below texts." in failed(capsys, ROOT / "tests/toy_recipe.py", "texts", "out.npz")
    (tmp_path / "texts/a.heic").write_text("")
    assert "1 .heic" in failed(capsys, ROOT / "tests/toy_recipe.py", "texts", "out.npz")
    assert "nothing to embed" in failed(capsys, ROOT / "tests/toy_recipe.py", "out.npz")


def test_a_split_has_the_ids_of_its_dataset_and_teaches(run, tmp_path):
    assert embed(run, "teacher.npz", "--split", "train") == 0
    teacher = StoredEmbeddings(tmp_path / "teacher.npz")
    assert teacher.ids == [str(index) for index in range(64)]
    dataset = toolbox.build(dict(type="toy.Noise"))
    picked = [5, 63, 0]
    expected = toolbox.load(run, device="cpu").encode_image([dataset[index]["image"] for index in picked])
    torch.testing.assert_close(teacher.rows(picked), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"no embedding of 64, 65 \(2 items"):
        teacher.rows([1, 64, 65])
    # the data of one recipe with the model of another, each with overrides of its own
    recipe = ROOT / "tests/toy_recipe.py"
    assert (
        embed(
            recipe,
            run,
            "other.npz",
            "--split",
            "val",
            "--cfg-options",
            "model.backbone.width=4",
            "val_dataloader.dataset.count=8",
        )
        == 0
    )
    ids, rows = read_embeddings(tmp_path / "other.npz")
    assert (ids, rows.shape) == ([str(index) for index in range(8)], (8, 4))


def test_a_teacher_from_a_file_trains_a_student(toy, tmp_path):
    toy()
    recipe = ROOT / "tests/toy_recipe.py"
    assert embed(recipe, "teacher.parquet", "--split", "train", "--cfg-options", "model.backbone.width=24") == 0
    taught = [
        "model.loss=dict(type='losses.Distillation')",
        "model.teacher_file=teacher.parquet",
        "model.head=None",
        "train_cfg.max_steps=6",
        "val_dataloader=None",
        "val_evaluator=None",
        "evaluate_before=False",
    ]
    assert toolbox.train(toy(taught), out="student", device="cpu")["steps"] == 6
    # the same student can be used where the file is gone, and a file of other data is refused
    Path("teacher.parquet").unlink()
    assert toolbox.load("student", device="cpu").encode_image(Image.new("RGB", (20, 20))).shape == (1, 16)
    assert (
        embed(recipe, "teacher.parquet", "--split", "train", "--cfg-options", "train_dataloader.dataset.count=32") == 0
    )
    with pytest.raises(ToolboxError, match="holds no embedding of"):
        toolbox.train(toy(taught), out="other", device="cpu")


def test_the_head_is_left_out_zero_shot_and_on_request(run, photos, tmp_path):
    recipe = ROOT / "tests/toy_recipe.py"
    assert embed(recipe, photos, "zero.npz") == 0
    assert embed(run, photos, "trained.npz") == 0
    assert embed(run, photos, "headless.npz", "--baseline") == 0
    zero, trained, headless = (read_embeddings(Path(f"{name}.npz"))[1] for name in ("zero", "trained", "headless"))
    assert (zero.shape[1], trained.shape[1], headless.shape[1]) == (16, 8, 16)
    assert np.abs(zero - headless).max() > 1e-4, "training has changed the backbone"
    assert embed(recipe, photos, "loaded.npz", "--cfg-options", f"load_from={run}") == 0
    np.testing.assert_allclose(read_embeddings(Path("loaded.npz"))[1], headless, atol=1e-6)


def test_unreadable_images_stop_or_are_named(run, photos, capsys):
    (photos / "a/1.png").write_bytes((photos / "a/1.png").read_bytes()[:60])
    (photos / "b c/none.jpg").write_text("text")
    said = failed(capsys, run, photos, "out.npz", "--batch-size", 8)
    assert "2 of the first 6 items (of 6) cannot be read" in said
    assert "a/1.png" in said
    assert "none.jpg" in said
    assert "--on-bad-item skip" in said
    assert not Path("out.npz").exists()
    assert embed(run, photos, "out.npz", "--on-bad-item", "skip", "--batch-size", 2) == 0
    said = capsys.readouterr()
    assert said.err.count("Left out: ") == 2
    assert "4 embeddings" in said.out
    assert "2 unreadable images left out" in said.out
    ids, rows = read_embeddings(Path("out.npz"))
    assert ids == [name for name in NAMES if name != "a/1.png"]
    expected = toolbox.load(run, device="cpu").encode_image([photos / name for name in ids])
    np.testing.assert_allclose(rows, expected.numpy(), atol=1e-6)
    for name in NAMES:
        (photos / name).write_text("")
    assert "6 of the first 6" in failed(capsys, run, photos, "none.npz", "--on-bad-item", "skip")
    assert not Path("none.npz").exists()


def test_the_target_is_checked_before_anything_is_computed(toy, photos, tmp_path, capsys, monkeypatch):
    toy()
    monkeypatch.setattr(model_commands, "load_from_arguments", lambda *_: pytest.fail("a model was loaded"))
    recipe = ROOT / "tests/toy_recipe.py"
    (tmp_path / "there.npz").write_text("precious")
    (tmp_path / "list.ids.txt").write_text("precious")
    assert "--overwrite" in failed(capsys, recipe, photos, "there.npz")
    assert "list.ids.txt is there already" in failed(capsys, recipe, photos, "list.npy")
    assert "must end in .npz, .npy, .parquet" in failed(capsys, recipe, photos, "out.csv")
    (tmp_path / "x.npz").mkdir()
    assert "is a folder" in failed(capsys, recipe, photos, "x.npz", "--overwrite")
    assert "Nothing can be written to there.npz" in failed(capsys, recipe, photos, "there.npz/out.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "need pyarrow" in failed(capsys, recipe, photos, "out.parquet")
    assert (tmp_path / "there.npz").read_text() == "precious"


@pytest.mark.parametrize(("name", "kind"), [(b"two\nlines.png", ".npy"), (b"\xff.png", ".parquet")])
def test_names_that_the_format_cannot_hold_are_found_before_anything_is_computed(
    toy, photos, tmp_path, capsys, name, kind
):
    toy()
    draw(photos / os.fsdecode(name), 9)
    said = failed(capsys, "no-such-model", photos, tmp_path / f"out{kind}")
    assert "choose .npz" in said, "the model is not even looked for"


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    rows = np.eye(3, dtype=np.float32)

    def interrupted(descriptor):
        raise KeyboardInterrupt

    for kind in KINDS:
        path = tmp_path / f"out{kind}"
        write_embeddings(path, ["a", "b", "c"], rows)
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                write_embeddings(path, ["d", "e"], rows[:2])
        if kind == ".npy":  # two files cannot be replaced at once: then there is none
            assert not path.exists()
        else:
            assert read_embeddings(path)[0] == ["a", "b", "c"]
        assert not [file.name for file in tmp_path.iterdir() if "partial" in file.name]
    (tmp_path / "link.npz").symlink_to(tmp_path / "out.npz")
    write_embeddings(tmp_path / "link.npz", ["x"], rows[:1])
    assert (tmp_path / "link.npz").is_symlink()
    assert read_embeddings(tmp_path / "out.npz")[0] == ["x"]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_ids_come_back_as_they_were(tmp_path, kind):
    ids = ["a b/ü.jpg", "x\u2028y", "c\r.png", "\x85", " 1", "日本/猫.png"]
    write_embeddings(tmp_path / f"a.b{kind}", ids, np.eye(6))
    found, rows = read_embeddings(tmp_path / f"a.b{kind}")
    assert found == ids
    np.testing.assert_array_equal(rows, np.eye(6, dtype=np.float32))
    write_embeddings(tmp_path / f"n{kind}", [3, 1], np.ones((2, 1)))
    assert read_embeddings(tmp_path / f"n{kind}")[0] == ["3", "1"]
    broken = os.fsdecode(b"\xff.jpg")
    if kind == ".parquet":
        with pytest.raises(ValueError, match="no Unicode text"):
            write_embeddings(tmp_path / f"x{kind}", [broken], np.eye(1))
    else:
        write_embeddings(tmp_path / f"x{kind}", [broken], np.eye(1))
        assert read_embeddings(tmp_path / f"x{kind}")[0] == [broken]


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (["a"], np.ones((2, 3)), "one row for each of its ids"),
        (["a", "a"], np.ones((2, 3)), "1 of them different"),
        ([1, "1"], np.ones((2, 3)), "1 of them different"),
        ([], np.ones((0, 3)), "one row for each"),
        (["a"], np.ones(1), "one row for each"),
        (["a", "b"], np.array([[1.0], [np.nan]]), "1 of 2 embeddings hold NaN"),
    ],
)
def test_rows_that_no_file_may_hold(tmp_path, ids, rows, message):
    for kind in KINDS:
        with pytest.raises(ValueError, match=message):
            write_embeddings(tmp_path / f"x{kind}", ids, rows)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"no line of a text file: choose \.npz"):
        write_embeddings(tmp_path / "x.npy", ["a\nb"], np.eye(1))


def test_files_that_hold_something_else(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"make it with the command `embed`"):
        read_embeddings(tmp_path / "x.npz")
    for kind in KINDS:
        (tmp_path / f"x{kind}").write_bytes(b"PK\x03\x04 nonsense")
        with pytest.raises(ValueError, match=r"holds no embeddings as the command `embed` writes them"):
            read_embeddings(tmp_path / f"x{kind}")
    np.save(tmp_path / "alone.npy", np.eye(2))
    with pytest.raises(ValueError, match=r"alone\.ids\.txt"):
        read_embeddings(tmp_path / "alone.npy")
    (tmp_path / "alone.ids.txt").write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match="3 ids"):
        read_embeddings(tmp_path / "alone.npy")
    np.savez(tmp_path / "other.npz", vectors=np.eye(2))
    with pytest.raises(ValueError, match="ids"):
        read_embeddings(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", ids=np.array(["a"], dtype=object), embeddings=np.eye(1))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_embeddings(tmp_path / "objects.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="Parquet files need pyarrow: "):
        read_embeddings(tmp_path / "x.parquet")


def test_ctrl_c_leaves_no_half_file(tmp_path):
    draw(tmp_path / "photos/0.png", 0)
    for index in range(1, 3000):
        os.link(tmp_path / "photos/0.png", tmp_path / f"photos/{index}.png")
    command = [
        ROOT / "tools/embed.py",
        ROOT / "tests/toy_recipe.py",
        "photos",
        "out.npy",
        "--plugin",
        ROOT / "tests/toy_plugin.py",
        "--batch-size",
        "1",
        "--num-workers",
        "2",
    ]
    process = ForkedPython(*command, cwd=tmp_path)
    assert "Embedding 3,000 images" in next(process.lines())
    time.sleep(0.5)
    process.kill_group(signal.SIGINT)  # as a terminal does: to the workers too
    code, _, err = process.end()
    assert code == 130, err
    assert err == "Interrupted: nothing was written.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_what_the_first_argument_means(toy, run, tmp_path):
    toy()
    hub = tmp_path / "weights"
    hub.mkdir()
    assert model_commands.find_model_kind(str(hub)) == "checkpoint", "so that the message says what it lacks"
    (hub / "config.json").write_text("{}")
    assert model_commands.find_model_kind(str(hub)) == "backbone"
    (run / "config.json").write_text("{}")
    assert model_commands.find_model_kind(str(run)) == model_commands.find_model_kind(str(run / "last")) == "checkpoint"
    for name, kind in [
        ("configs/x.py", "recipe"),
        ("toy:x", "recipe"),
        ("vitb16", "backbone"),
        ("hf_hub:timm/x", "backbone"),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "backbone"),
    ]:
        assert model_commands.find_model_kind(name) == kind


NAMED = """
from toolbox.plugin import Component, hookimpl
from toy_plugin import Patches
namespace = "{space}"

@hookimpl
def toolbox_components():
    return [Component("backbone", "Named", __name__ + ":Named", "takes {mine}"),
            Component("backbone", "Nameless", __name__ + ":Nameless", "has no name")]

class Nameless(Patches):
    pass

class Named(Patches):
    def __init__(self, name: str, width: int = {width}):
        super().__init__(width)
        if name != "{mine}":
            raise ValueError(f"I know {mine}, not {{name}}.")
"""


def test_an_id_is_given_to_the_backbone_that_takes_it(toy, photos, tmp_path, capsys):
    toy()
    plugins = []
    for space, mine, width in (("aa", "apple", 4), ("bb", "pear", 6)):
        (tmp_path / f"{space}_plugin.py").write_text(NAMED.format(space=space, mine=mine, width=width))
        plugins += ["--plugin", tmp_path / f"{space}_plugin.py"]
    common = (photos, "out.npz", "--overwrite", *plugins, "--cfg-options", "model.pool=mean")
    for name, width in (("apple", 4), ("pear", 6)):
        assert embed(name, *common) == 0
        assert read_embeddings(Path("out.npz"))[1].shape == (5, width)
    printed = capsys.readouterr().out
    assert "aa.Named apple, zero-shot, pool 'mean'" in printed
    assert "bb.Named pear" in printed
    said = failed(capsys, "plum", *common)
    assert "'plum' is no checkpoint, no recipe, and no backbone that is known here" in said
    assert "aa.Named: I know apple, not plum." in said
    assert "I know pear, not apple." in failed(capsys, "apple", *common, "--backbone", "bb.Named")
    assert "CLS" in failed(capsys, "apple", photos, "new.npz", *plugins), "the toy has none"
    assert "no component 'Nmed'" in failed(capsys, "apple", *common, "--backbone", "bb.Nmed")
    assert "Leave it out" in failed(
        capsys, ROOT / "tests/toy_recipe.py", photos, "new.npz", "--backbone", "bb.Named", *plugins
    )
    assert "Say whose" in failed(capsys, "apple", "new.npz", "--split", "train", *plugins)


def test_a_released_backbone_by_its_name(toy, photos, tmp_path):
    toy()
    small = ["model.backbone.weights=False", "model.backbone.size=32"]
    for name in ("vits16", "facebook/dinov3-convnext-tiny-pretrain-lvd1689m"):
        assert embed(name, photos, "out.npz", "--overwrite", "--cfg-options", *small) == 0
        ids, rows = read_embeddings(tmp_path / "out.npz")
        assert (ids, rows.shape) == (NAMES, (5, 384 if name == "vits16" else 768))
    assert embed("test_vit", photos, "out.npz", "--overwrite", "--cfg-options", small[0]) == 0
    assert read_embeddings(tmp_path / "out.npz")[1].shape == (5, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["work_dirs/none/best", "photos"], "is no checkpoint, no recipe"),
        (["photos", "photos"], "has no manifest.json"),
        (["nothing.py", "photos"], "There is no such recipe"),
        (["RECIPE", "--split", "test"], "The recipe has no test_dataloader. It has train, val."),
        (["RECIPE", "RECIPE"], "neither a folder, an image nor a list"),
        (["RECIPE", "photos", "--split", "val"], "has no manifest.json"),
        (["RECIPE", "apple", "--split", "val"], "--split names data of a recipe or a checkpoint"),
        (["RECIPE", "photos", "--cfg-options", "model.pol=cls"], "no argument 'pol'"),
        (["RECIPE", "--split", "val", "--cfg-options", "val_dataloader.dataset.typ=x"], "no argument 'typ'"),
    ],
)
def test_one_message_for_each_mistake(toy, photos, capsys, arguments, message):
    toy()
    recipe = str(ROOT / "tests/toy_recipe.py")
    arguments = [recipe if argument == "RECIPE" else argument for argument in arguments]
    split = arguments.index("--cfg-options") if "--cfg-options" in arguments else len(arguments)
    said = failed(capsys, *arguments[:split], "out.npz", *arguments[split:])
    assert message in said
    assert "Traceback" not in said


def test_a_run_that_is_not_there_is_no_id_of_a_backbone(toy, photos, tmp_path, capsys):
    toy()
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.py").write_text("")
    said = failed(capsys, "runs/frist", photos, "out.npz")
    assert "runs/frist does not exist. In runs there is, e.g., first." in said


def test_a_diverged_model_is_no_silent_nan(run, photos, capsys, monkeypatch):
    from toolbox_retrieval.embedder import Embedder

    monkeypatch.setattr(Embedder, "predict", lambda self, batch: {"embeddings": self.encode(batch)["embeddings"] / 0})
    assert "NaN or infinity: a/1.png" in failed(capsys, run, photos, "out.npz")
    monkeypatch.setattr(Embedder, "predict", lambda self, batch: {"logits": torch.zeros(len(batch.ids), 2)})
    assert "gives no embeddings, but logits" in failed(capsys, run, photos, "out.npz")


def test_help_tells_the_formats(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in KINDS)
    assert "length 1" in printed
    with pytest.raises(SystemExit) as caught:
        main(["x", "y", "z.npz", "--batch-size", "0"])
    assert caught.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_options_may_stand_between_the_arguments(run, photos, tmp_path):
    assert main([str(run), "--device", "cpu", str(photos), "--num-workers", "0", "between.npz"]) == 0
    assert len(read_embeddings(tmp_path / "between.npz")[0]) == 5


def test_the_shim_starts_the_command(command, photos):
    done = command("embed", "x", photos, "out.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "must end in" in done.stderr


def test_errors_in_reading_a_list_name_it(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ToolboxError, match="not a text in UTF-8"):
        find_image_sources(tmp_path / "x.txt")
    (tmp_path / "y.jsonl").write_text(json.dumps(["a"]))
    with pytest.raises(ToolboxError, match="names no picture"):
        find_image_sources(tmp_path / "y.jsonl")


@pytest.fixture
def dual(tmp_path, monkeypatch):
    """The folder of a run of a dual encoder."""
    from test_contracts_in_runs import ALIGNMENT, recipe

    monkeypatch.chdir(tmp_path)
    toolbox.train(recipe(ALIGNMENT, train_cfg__max_steps=1, evaluate_before=False), out="dual")
    return tmp_path / "dual"


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_a_file_are_embedded(dual, kind, capsys):
    texts = ["a white image", "schwarz", "gray, 灰色"]
    Path("texts.txt").write_text("\n".join([*texts, texts[0], ""]), encoding="utf-8")
    plugin = str(ROOT / "tests" / "contract_plugin.py")
    assert embed(dual, "--texts", "texts.txt", f"texts{kind}", "--plugin", plugin) == 0
    out = capsys.readouterr().out
    assert "1 lines that return are counted once" in out
    assert "Embedding 3 texts of texts.txt" in out
    ids, rows = read_embeddings(Path(f"texts{kind}"))
    assert ids == texts
    expected = toolbox.load("dual", plugins=[plugin]).encode_text(texts)
    np.testing.assert_allclose(rows, expected.numpy(), atol=1e-6)


def test_texts_may_have_ids(dual):
    Path("texts.jsonl").write_text('"white"\n{"text": "black", "id": 7}\n', encoding="utf-8")
    assert embed(dual, "texts.npz", "--texts", "texts.jsonl", "--plugin", ROOT / "tests" / "contract_plugin.py") == 0
    assert read_embeddings(Path("texts.npz"))[0] == ["white", "7"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "texts.jsonl does not exist"),
        ("", "holds no text"),
        ('{"text": 3}', "texts.jsonl:1: This line holds no text"),
        ('{"text": " "}', "holds no text"),
        ("{", "not JSON"),
        ('{"text": "a", "id": 1}\n{"text": "b", "id": 1}', "texts.jsonl:2: The id '1' belongs to another text"),
        ('{"text": "a", "id": [1]}', "neither a number nor a text"),
    ],
)
def test_a_file_without_texts_is_one_message(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("texts.jsonl").write_text(content)
    assert message in failed(capsys, "run", "--texts", "texts.jsonl", "out.npz")
    assert not Path("out.npz").exists()


def test_texts_of_a_model_of_images_are_refused(run, capsys):
    Path("texts.txt").write_text("a")
    assert "cannot encode texts: it reads images" in failed(capsys, run, "--texts", "texts.txt", "out.npz")
    assert "takes no images" in failed(capsys, run, "images", "out.npz", "--texts", "texts.txt")
    assert "ends in .txt or .jsonl" in failed(capsys, run, "out.npz", "--texts", "texts.csv")
