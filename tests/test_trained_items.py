"""A checkpoint knows what it was trained on, wherever the images lie; an evaluation counts such items."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toolbox_datasets.cifar10 import CIFAR10
from toolbox_datasets.imagefolder import ImageFolder

import toolbox
from toolbox.base import Dataset, image_files
from toolbox.engine import trained_items
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.trained_items import TrainedItems, items_of, sentence


def fill(root: Path, *paths: str, seed: int = 0) -> Path:
    """Bitmaps: all of one size, each with other pixels."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng((seed, number)).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / path, format="BMP")
    return root


PATHS = [f"{c}/{i}.bmp" for c in ("cat", "dog") for i in range(6)]


def test_items_are_known_by_class_name_and_size_wherever_they_lie(tmp_path):
    root = fill(tmp_path / "here", *PATHS)
    trained = items_of(ImageFolder(str(root)))
    assert len(trained.items) == 12
    moved = tmp_path / "other/place/train"
    shutil.copytree(root, moved)
    for place, split in ((moved, "all"), (moved.parent, "train"), (tmp_path / "other", "train")):
        assert trained.count_in(ImageFolder(str(place), split)) == 12
    (moved / "cat/0.bmp").unlink()
    fill(moved, "cat/new.bmp", "bird/0.bmp")
    assert trained.count_in(ImageFolder(str(moved))) == 11


def test_other_pictures_of_the_same_names_and_sizes_are_others(tmp_path):
    root = fill(tmp_path, *(f"train/{path}" for path in PATHS))
    fill(root, *(f"test/{path}" for path in PATHS), seed=1)
    trained = items_of(ImageFolder(str(root), "train"))
    assert trained.count_in(ImageFolder(str(root), "test")) == 0
    assert trained.count_in(ImageFolder(str(root / "test"))) == 0
    shutil.copy(root / "train/cat/3.bmp", root / "test/cat/3.bmp")
    assert trained.count_in(ImageFolder(str(root), "test")) == 1


def test_of_many_files_a_sample_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(trained_items, "SAMPLED", 4)
    root = fill(tmp_path, *(f"train/{path}" for path in PATHS))
    fill(root, *(f"test/{path}" for path in PATHS), seed=1)
    trained = items_of(ImageFolder(str(root), "train"))
    assert (len(trained.items), len(trained.sampled)) == (12, 4)
    assert trained.count_in(ImageFolder(str(root), "test")) == 0
    assert trained.count_in(ImageFolder(str(root), "train")) == 12


def test_runs_that_start_from_others_know_both(tmp_path):
    one = items_of(ImageFolder(str(fill(tmp_path / "one", *PATHS[:6])), divide="images"))
    two = items_of(ImageFolder(str(fill(tmp_path / "two", *PATHS[4:], seed=1))))
    both = one | two | one
    assert len(both.items) == 12
    assert (np.diff(both.items.astype(float)) > 0).all()
    both.save(tmp_path / "x.npz")
    again = TrainedItems.load(tmp_path / "x.npz")
    assert all((getattr(again, n) == getattr(both, n)).all() for n in ("items", "sampled", "contents"))


def test_a_file_of_digests_that_is_none_is_a_value_error(tmp_path):
    path, whole = tmp_path / "x.npz", np.arange(3, dtype=np.uint64)
    TrainedItems(whole, whole, whole).save(path)
    contents = path.read_bytes()
    broken = [b"", b"no archive", contents[:-30], contents.replace(b"NUMPY", b"NUMBY")]
    arrays = [
        {"items": whole},
        dict(items=whole, sampled=whole, contents=whole[:2]),
        dict(items=whole, sampled=whole[:, None], contents=whole),
        dict(items=whole > 1, sampled=whole, contents=whole),
    ]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz holds no digests of items"):
            TrainedItems.load(path)
    for one in arrays:
        np.savez(path, **one)
        with pytest.raises(ValueError, match=r"x\.npz holds no digests of items"):
            TrainedItems.load(path)
    with path.open("wb") as file:
        np.save(file, whole)
    with pytest.raises(ValueError, match=r"x\.npz holds no digests of items"):
        TrainedItems.load(path)


def test_a_run_on_all_splits_was_trained_on_each_of_them(tmp_path):
    root = fill(tmp_path, *(f"train/{path}" for path in PATHS))
    fill(root, *(f"test/{path}" for path in [*PATHS[:8], "cat/new.bmp"]), seed=1)  # same names and sizes, other pixels
    trained = items_of(ImageFolder(str(root), "all"))
    for place, split, count in ((root, "train", 12), (root, "test", 9), (root, "all", 21), (root / "test", "all", 9)):
        assert trained.count_in(ImageFolder(str(place), split)) == count
    test_set = ImageFolder(str(root), "test")
    both = items_of(ImageFolder(str(root), "train")) | items_of(test_set)
    assert both.count_in(test_set) == 9
    assert items_of(test_set).count_in(ImageFolder(str(root), "all")) == 9


def test_data_without_files_are_known_too(tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (40, 3073), dtype=np.uint8)
    data[:, 0] = np.arange(40) % 10
    for number in (1, 2, 3, 4, 5):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(data[8 * number - 8 : 8 * number].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(np.concatenate([data[:3], 255 - data[3:10]]).clip(0).tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"c{n}" for n in range(10)))
    trained = items_of(CIFAR10(str(tmp_path), val_share=0))
    raw = np.frombuffer((tmp_path / "test_batch.bin").read_bytes(), np.uint8).reshape(-1, 3073).copy()
    raw[:, 0] = np.arange(10)
    (tmp_path / "test_batch.bin").write_bytes(raw.tobytes())
    assert trained.count_in(CIFAR10(str(tmp_path), "test")) == 3


class Bare(Dataset):
    """A dataset that says nothing of its items."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"text": str(index), "id": index}


def test_datasets_that_say_nothing_are_left_alone():
    assert len(items_of(Bare()).items) == 0
    assert TrainedItems().count_in(Bare()) == 0


def test_sentences():
    assert sentence(3, 3, "val") == "All 3 items of the val set were trained on: these are numbers of training."
    assert sentence(2, 1000, "test").startswith("2 of the 1,000 items of the test set were trained on: its numbers are")


# ---- in runs


def options(root: Path, **arguments: object) -> list[str]:
    """Of a classifier on a folder that is divided by images."""
    given = "".join(f",{name}={value!r}" for name, value in arguments.items())
    data = f"dict(type='datasets.ImageFolder',root={str(root)!r},divide='images'{given},split="
    return [
        "model=dict(type='classification.Classifier',backbone=dict(type='toy.Patches'),pool='mean',"
        "loss=dict(type='losses.CrossEntropy'))",
        *(f"{split}_dataloader.dataset={data}{split!r})" for split in ("train", "val")),
        f"test_dataloader=dict(batch_size=16,num_workers=0,dataset={data}'test'))",
        "train_dataloader.sampler=None",
        "train_dataloader.batch_size=4",
        "train_cfg=dict(max_steps=2,val_interval=1)",
        "val_evaluator=dict(type='classification.Accuracy')",
        "test_evaluator=dict(type='classification.Accuracy')",
        "evaluate_before=False",
    ]


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "data", *(f"{c}/{i}.bmp" for c in ("cat", "dog") for i in range(30)))


def test_an_honest_run_says_nothing_and_a_grown_folder_stays_honest(toy, root, capsys):
    results = toolbox.train(toy(options(root)), out="run")
    found = checkpoints.read("run/last")
    assert len(found.trained_items().items) == len(ImageFolder(str(root), "train", divide="images"))
    assert "sha256" in found.manifest["files"]["trained_items.npz"]
    fill(root, "cat/0 new.bmp", "dog/0 new.bmp", "dog/1 new.bmp", seed=5)
    numbers = toolbox.evaluate(toy(options(root)), "run", log=print)
    assert "trained_items" not in numbers
    assert "trained_items" not in results["after"]
    assert "were trained on" not in capsys.readouterr().out


def test_trained_items_in_a_test_are_counted_aloud(toy, root, capsys, tmp_path):
    toolbox.train(toy(options(root)), out="run")
    shutil.move(root, tmp_path / "elsewhere")
    other = options(tmp_path / "elsewhere", seed=7)  # divides the same pictures otherwise
    said = []
    numbers = toolbox.evaluate(toy(other), "run", out="tested", log=said.append)
    test_set = ImageFolder(str(tmp_path / "elsewhere"), "test", divide="images", seed=7)
    count = numbers["trained_items"]
    assert 0 < count < len(test_set)
    assert any(f"{count} of the {len(test_set)} items of the test set were trained on" in text for text in said)
    assert json.loads(Path("tested/test_results.json").read_text())["metrics"]["trained_items"] == count
    assert "trained_items" in Path("tested/report.html").read_text()
    toolbox.train(toy([*other, "train_cfg.max_steps=4"]), out="run", resume=True)
    assert "of the val set were trained on" in capsys.readouterr().out
    assert json.loads(Path("run/train_results.json").read_text())["after"]["trained_items"] > 0
    assert len(checkpoints.read("run/last").trained_items().items) > 40  # of both divisions


def test_a_checkpoint_that_says_nothing_of_its_items_is_no_clean_one(toy, root, capsys):
    """As those of before items were kept are."""
    toolbox.train(toy(options(root)), out="run")
    said = []
    toolbox.evaluate(toy(options(root)), "run", log=said.append)
    assert "does not say what it was trained on" not in capsys.readouterr().out + "".join(said)
    for folder in Path("run").glob("checkpoint-*"):
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["files"]["trained_items.npz"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "trained_items.npz").unlink()
    toolbox.evaluate(toy(options(root)), "run", log=said.append)
    assert sum("does not say what it was trained on" in text for text in said) == 1
    toolbox.train(toy([*options(root), "train_cfg.max_steps=4"]), out="run", resume=True)
    assert capsys.readouterr().out.count("does not say what it was trained on") == 1


def test_training_numbers_can_be_had_on_purpose(toy, root):
    toolbox.train(toy(options(root)), out="run")
    recipe = toy([*options(root), "test_dataloader.dataset.split=train", "train_dataloader.dataset.split=test"])
    said = []
    numbers = toolbox.evaluate(recipe, "run", log=said.append)
    assert numbers["trained_items"] == len(ImageFolder(str(root), "train", divide="images"))
    assert any("these are numbers of training" in text for text in said)


def test_a_run_that_starts_from_another_counts_its_items_too(toy, root, capsys):
    toolbox.train(toy(options(root)), out="run")
    toolbox.train(toy([*options(root, seed=3), "load_from=run/last"]), out="second")
    assert "of the test set were trained on" in capsys.readouterr().out


def test_the_training_folder_is_not_walked_at_every_validation(toy, root, monkeypatch):
    """k-NN wants the training set at each validation."""
    walks = []
    scandir = os.scandir

    def count(path="."):
        walks.append(path) if str(path).startswith(str(root)) else None
        return scandir(path)

    monkeypatch.setattr(os, "scandir", count)
    monkeypatch.setattr(image_files, "_CLOCK_TICK", 10**18)  # what was found is not kept for other datasets
    found = []
    for steps in (2, 8):
        knn = [*options(root), "val_evaluator=dict(type='classification.KNN',ks=[1])", f"train_cfg.max_steps={steps}"]
        walks.clear()
        toolbox.train(toy(knn), out=f"run{steps}")
        found.append(len(walks))
    assert found[0] == found[1] > 0
