"""Data that grow or change: cached features are kept by item, and old caches are listed and removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_feature_cache import flip
from test_feature_cache_runs import FROZEN, run

from toolbox.base import Dataset, read_image
from toolbox.cli import cache
from toolbox.feature_cache.feature_store import FeatureStore
from toolbox.feature_cache.key import digest_item_files
from toolbox.registry import get_catalog

FOLDER = dict(type="datasets.ImageFolder", root="pictures", split="train")
GROWING = FROZEN | {
    "features": dict(dtype="fp32"),
    "train_dataloader.dataset": FOLDER,
    "train_dataloader.sampler": dict(type="retrieval.PK", classes=2, per_class=2),
    "val_dataloader.dataset": dict(FOLDER, split="val"),
    "train_cfg": dict(max_steps=2, val_interval=2),
}


def picture(name: str, seed: int) -> None:
    path = Path("pictures", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def grown(toy):
    """`grown(overrides) -> (computed, found, stores)`: a run on the pictures as they are."""
    for split, seeds in (("train", range(0, 80, 2)), ("val", range(100, 110))):
        for seed in seeds:
            picture(f"{split}/{'bd'[seed % 4 // 2]}/{seed:03}.png", seed)

    def run_again(changes: dict | None = None, name: str = "run"):
        results, _, said = run(toy(GROWING | (changes or {})), name, overwrite=True)
        features = results["features"]
        return (
            features["computed"],
            features["found"],
            [FeatureStore(Path(folder)) for folder in features["folders"]],
            said,
        )

    assert run_again()[:2] == (50, 0)
    return run_again


def assert_stored_as_computed_anew(grown, stores: list[FeatureStore]) -> None:
    """What was kept and what was computed is what a store made from nothing holds."""
    _, found, anew, _ = grown({"features.folder": "other"}, "anew")
    assert found == 0
    for store, fresh in zip(stores, anew, strict=True):
        assert (store.ids, store.labels, store.roles) == (fresh.ids, fresh.labels, fresh.roles)
        np.testing.assert_array_equal(store.rows(range(len(store))), fresh.rows(range(len(fresh))))


def test_one_more_picture_is_one_more_item_to_compute(grown):
    picture("train/b/001.png", 1)  # in the middle: the items behind it move
    computed, found, stores, said = grown()
    assert (computed, found) == (1, 50)
    assert any("40 of 41 items are stored in" in line for line in said)
    assert_stored_as_computed_anew(grown, stores)


def test_a_new_class_gives_kept_items_their_labels_of_today(grown):
    picture("train/a/500.png", 500)
    picture("train/a/501.png", 501)
    computed, found, stores, _ = grown()
    assert (computed, found) == (2, 50)
    assert stores[0].labels == [0] * 2 + [1] * 20 + [2] * 20
    assert_stored_as_computed_anew(grown, stores)


def test_a_replaced_picture_is_computed_again_and_a_removed_one_is_gone(grown):
    picture("train/b/000.png", 999)
    Path("pictures/train/d/002.png").unlink()
    computed, found, stores, _ = grown()
    assert (computed, found) == (1, 48)
    assert_stored_as_computed_anew(grown, stores)


def test_a_picture_that_could_not_be_read_is_tried_again(grown):
    Path("pictures/train/b/004.png").write_bytes(b"not a picture")
    skip = {"train_dataloader.on_bad_item": "skip", "train_dataloader.max_bad_share": 0.5}
    assert grown(skip)[:2] == (1, 49)
    picture("train/b/004.png", 4)
    computed, found, stores, _ = grown(skip)
    assert (computed, found) == (1, 49)
    assert_stored_as_computed_anew(grown, stores)


def test_damaged_numbers_are_not_kept(grown):
    for folder in Path("work_dirs/features").iterdir():
        flip(folder / "shard-00000")
    picture("train/b/001.png", 1)
    computed, _, stores, _ = grown()
    assert computed == 1 + 32 + 10  # the damaged shard, of 32 items, and that of the validation set
    assert_stored_as_computed_anew(grown, stores)


def test_other_weights_another_crop_and_random_views_are_computed_anew(grown):
    picture("train/b/001.png", 1)
    assert grown({"model.backbone.width": 12})[:2] == (51, 0)
    assert grown({"features.dtype": "fp16"})[:2] == (51, 0)
    views = {"features.views": 2, "train_dataloader.augment": dict(type="core.Augment")}
    assert grown(views)[:2] == (41, 10)  # the validation set is not augmented
    picture("train/b/003.png", 3)
    assert grown(views)[:2] == (42, 10)


def test_an_interrupted_extraction_counts_although_the_data_changed_then(grown, monkeypatch):
    other = {"features.folder": "other"}
    with monkeypatch.context() as patch:
        patch.setattr("toolbox.engine.feature_extraction.feature_cache.FeatureCache._finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            grown(other)
    picture("train/b/001.png", 1)
    computed, found, stores, _ = grown(other)
    assert (computed, found) == (1 + 10, 40)
    assert stores[0].rows([0]).any()


def test_the_command_lists_stores_and_removes_what_is_out_of_date(grown, capsys):
    assert cache.main([]) == 0
    assert "2 stores" in capsys.readouterr().out
    picture("train/b/001.png", 1)
    grown()
    old, new, _ = sorted(Path("work_dirs/features").iterdir(), key=lambda path: FeatureStore(path).layout.items != 40)
    os.utime(old / "manifest.json", (1, 1))
    for file in old.iterdir():
        os.utime(file, (1, 1))
    assert cache.main(["--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["superseded"] for row in listed if row["name"] == old.name] == [True]
    assert {row["items"] for row in listed} == {40, 41, 10}
    assert sum(row["bytes"] for row in listed) == sum(
        path.stat().st_size for path in Path("work_dirs/features").rglob("*") if path.is_file()
    )
    assert cache.main(["--superseded", "--remove", "--dry-run"]) == 0
    assert old.is_dir()
    assert cache.main(["--superseded", "--remove"]) == 0
    assert "1 store removed" in capsys.readouterr().out
    assert not old.exists()
    assert new.exists()
    assert grown()[:2] == (0, 51)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-store", "--remove"], "holds no store 'no-such-store'"),
        (["../../pictures", "--remove"], "holds no store '../../pictures'"),
        (["--remove"], "Say which stores to remove"),
        (["--folder", "nowhere"], "There is no folder nowhere"),
    ],
)
def test_what_cannot_be_removed_is_refused_and_nothing_is(grown, capsys, arguments, message):
    before = sorted(Path("work_dirs/features").iterdir())
    assert cache.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(Path("work_dirs/features").iterdir()) == before


def test_a_store_that_a_run_is_writing_is_not_removed(grown, capsys):
    fcntl = pytest.importorskip("fcntl")
    [first, _] = sorted(Path("work_dirs/features").iterdir())
    with (first / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cache.main([first.name, "--remove"]) == 2
    assert "is storing features" in capsys.readouterr().err
    assert first.is_dir()


class Tiles(Dataset):
    """Four items a file: the sources are as many as the items, and are not theirs."""

    def __init__(self, root: str = "pictures/val"):
        self.paths = sorted(Path(root).rglob("*.png"))

    def __len__(self):
        return 4 * len(self.paths)

    def __getitem__(self, index):
        tile = read_image(self.paths[index // 4]).crop((8 * (index % 2), 8 * (index % 4 // 2), 16, 16))
        return {"image": tile, "id": index, "label": 0}

    def sources(self):
        return [path for path in self.paths for _ in range(4)]


def test_items_that_share_files_are_not_kept_by_their_files(grown):
    assert digest_item_files(Tiles()) is None
    Path("r.jsonl").write_text("".join(f'{{"query": "a {i}", "positive": "b {i}"}}\n' for i in range(9)))
    assert digest_item_files(get_catalog().resolve("datasets.Records")("r.jsonl", mode="t2t")) is None
