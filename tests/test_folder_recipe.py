"""configs/dinov3_folder.py on folders as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toolbox
from toolbox.cli.train import main

RECIPE = Path(__file__).parent.parent / "configs/dinov3_folder.py"
SMALL = [
    "model.backbone.name=None",
    "model.backbone.size=32",
    "model.backbone.tune.rank=2",
    "model.backbone.arch=dict(hidden_size=32,num_hidden_layers=1,num_attention_heads=2)",
    "train_cfg=dict(max_steps=2,val_interval=2)",
    "optim_wrapper.precision=fp32",
    *(f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")),
]
NAMES = ["猫", "Ünïcödé", "with space", "d", "e.f", "10", "9", "b"]


def fill(root: Path, classes: list[str], count: int) -> Path:
    """Tinted pictures, `count` a class, some of them one folder deeper."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        for index in range(count):
            path = root / name / ("deeper" if index % 2 else "") / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            tint = np.random.default_rng(label).integers(60, 200, 3)
            noise = rng.integers(-40, 40, (24, 30, 3))
            Image.fromarray((tint + noise).clip(0, 255).astype(np.uint8)).save(path)
    return root


def plan(root: Path, *overrides: str) -> str:
    """All that is wrong, as one text."""
    config = toolbox.load_config(RECIPE, [*SMALL, f"train_dataloader.dataset.root={root}", *overrides])
    return "\n".join(str(problem) for problem in toolbox.check_config(config))


def test_one_override_is_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = fill(tmp_path / "my pictures", NAMES, 6)
    for other in ("notes.txt", "d/list.csv", "d/.DS_Store", ".git/config", "outside.jpg"):
        (root / other).parent.mkdir(exist_ok=True)
        (root / other).write_text("no picture")
    assert main([str(RECIPE), "--device", "cpu", "--cfg-options", *SMALL, f"train_dataloader.dataset.root={root}"]) == 0
    printed = capsys.readouterr().out
    assert "recall@1" in printed
    run = tmp_path / "work_dirs/dinov3_folder"
    assert (run / "best/manifest.json").is_file()
    recipe = toolbox.load(run, device="cpu").recipe
    seen = []
    for name in ("train", "val", "test"):
        given = recipe[f"{name}_dataloader"]["dataset"]
        assert given == dict(type="datasets.ImageFolder", root=str(root), split=name)
        seen += toolbox.build(given).classes
    assert sorted(seen) == sorted(NAMES), "every class in one split"
    assert recipe["test_evaluator"] == recipe["val_evaluator"]

    from toolbox.cli.embed import main as embed
    from toolbox.utils.stored_embeddings import read_embeddings

    assert embed([str(run), str(root), "e.npz", "--device", "cpu"]) == 2, "outside.jpg is no image"
    assert "outside.jpg" in capsys.readouterr().err
    assert embed([str(run), str(root), "e.npz", "--device", "cpu", "--on-bad-item", "skip"]) == 0
    ids, rows = read_embeddings(tmp_path / "e.npz")
    assert rows.shape == (48, 32)
    assert {name.split("/")[0] for name in ids} == set(NAMES)


def test_other_roots_and_numbers_stand_alone(tmp_path):
    root, other = fill(tmp_path / "a", NAMES, 6), fill(tmp_path / "b", NAMES, 6)
    given = [f"train_dataloader.dataset.root={root}", f"test_dataloader.dataset.root={other}"]
    config = toolbox.load_config(RECIPE, [*given, "val_evaluator.0.ks=[1]"])
    from toolbox.config import to_dict

    recipe = to_dict(config)
    assert recipe["val_dataloader"]["dataset"]["root"] == str(root)
    assert recipe["test_dataloader"]["dataset"]["root"] == str(other)
    assert recipe["test_evaluator"][0]["ks"] == [1]


@pytest.mark.parametrize(
    ("classes", "count", "message"),
    [
        (1, 6, "has 1 class folder, and splits that share no class take 6"),
        (2, 6, "has 2 class folders"),
        (5, 6, "has 5 class folders"),
        (6, 8, ""),
        (6, 1, "No two items of this dataset share a class"),
        (8, 3, "use ks=[1,5]"),
        (8, 2, "use ks=[1]"),
        (6, 4, "batch_size=16"),
    ],
)
def test_few_classes_and_few_images_have_clear_outcomes(tmp_path, classes, count, message):
    found = plan(fill(tmp_path / "pictures", NAMES[:classes], count))
    assert message in found
    assert bool(found) == bool(message)
    assert "has 1 class folders" not in found


def test_the_hints_lead_to_a_run_on_little(tmp_path):
    root = fill(tmp_path / "pictures", NAMES, 2)
    assert plan(root, "val_evaluator.0.ks=[1]", "train_dataloader.sampler.batch_size=8") == ""


def test_split_folders_may_share_two_classes(tmp_path):
    for split, count in (("train", 16), ("val", 6), ("test", 6)):
        fill(tmp_path / "pictures" / split, ["cat", "dog"], count)
    assert plan(tmp_path / "pictures") == ""


def test_folders_that_hold_no_classes(tmp_path):
    assert "does not exist" in plan(tmp_path / "none")
    assert "Put images into" in plan(tmp_path / "none")
    fill(tmp_path / "flat", [""], 6)
    assert "has 1 class folder" in plan(tmp_path / "flat"), "the folder deeper/ is one"
    (tmp_path / "texts/a").mkdir(parents=True)
    (tmp_path / "texts/a/x.heic").write_text("")
    assert "has 1 class folder" in plan(tmp_path / "texts")
    root = fill(tmp_path / "hollow", NAMES, 6)
    (root / "empty").mkdir()
    assert "hold no image: empty" in plan(root)


def test_without_a_folder_the_message_names_the_key(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(RECIPE), "--device", "cpu", "--cfg-options", *SMALL]) == 2
    said = capsys.readouterr().err
    assert "train_dataloader.dataset.root" in said
    assert said.count("The folder data/pictures does not exist") == 1
