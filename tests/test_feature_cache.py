"""The feature cache on disk: its key, and that only complete shards are ever used."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_plugin import Noise, Patches, ToTensor

from toolbox.base import PooledBackbone
from toolbox.builtins.augment import RandomViews
from toolbox.errors import ToolboxError
from toolbox.feature_cache.feature_store import FeatureStore
from toolbox.feature_cache.key import describe_data, describe_tower, digest, digest_weights, plain
from toolbox.feature_cache.shards import ShardLayout
from toolbox.feature_cache.views import choose_view, get_draw
from toolbox.feature_cache.writer import MANIFEST, Writer
from toolbox.registry import build
from toolbox.utils.key_paths import find_differences
from toolbox.utils.pool import TokenPool

ITEMS, VIEWS, WIDTH = 70, 2, 5


def tower(seed: int = 0, pool: str = "mean", **arguments) -> PooledBackbone:
    torch.manual_seed(seed)
    return PooledBackbone(Patches(**arguments), TokenPool(pool))


def of_tower(found: PooledBackbone | None = None, preprocess=None, **changes) -> dict:
    given = dict(input="image", dtype="fp16", precision="fp32") | changes
    return describe_tower(found or tower(), preprocess or ToTensor(16), **given)


class Normalised(ToTensor):
    def __init__(self, mean: float = 0.5, table=None):
        super().__init__(16)
        self.mean, self.table = mean, table


def shifted() -> PooledBackbone:
    found = tower()
    with torch.no_grad():
        next(iter(found.backbone.parameters())).view(-1)[0] += 1e-3
    return found


def with_a_table() -> PooledBackbone:
    found = tower()
    found.backbone.register_buffer("table", torch.zeros(2), persistent=False)
    return found


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: of_tower(tower(seed=1)), "weights"),
        (lambda: of_tower(shifted()), "weights"),
        (lambda: of_tower(with_a_table()), "weights"),
        (lambda: of_tower(tower(dropout=0.2)), "structure.modules"),
        (lambda: of_tower(tower(size=20)), "structure.size"),
        (lambda: of_tower(tower(pool="cls")), "pool.mode"),
        (lambda: of_tower(preprocess=ToTensor(20)), "preprocess.size"),
        (lambda: of_tower(preprocess=Normalised()), "preprocess.class"),
        (lambda: of_tower(dtype="bf16"), "dtype"),
        (lambda: of_tower(precision="bf16"), "precision"),
        (lambda: of_tower(input="other"), "input"),
    ],
)
def test_each_ingredient_of_the_tower_changes_the_key(other, named):
    assert named in find_differences(of_tower(), other())
    assert digest(of_tower()) != digest(other())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(dataset=Noise(count=60), arguments={"count": 60}), "dataset.items"),
        (dict(dataset=Noise(per_class=2)), "dataset.labels"),
        (dict(arguments={"type": "toy.Noise", "seed": 1}), "dataset.arguments.seed"),
        (dict(augment=RandomViews(), views=2), "augment"),
    ],
)
def test_each_ingredient_of_the_data_changes_the_key(changes, named):
    def found(dataset=None, arguments=None, augment=None, **rest):
        return describe_data(dataset or Noise(), arguments or {"type": "toy.Noise"}, augment, **rest)

    assert any(name.startswith(named) for name in find_differences(found(), found(**changes)))
    assert digest(found()) == digest(found(arguments={"type": "toy.Noise", "seed": 0}))  # a default that is spelled out


@pytest.mark.parametrize(
    "change", [dict(views=3), dict(seed=1), dict(stream=1), dict(augment=RandomViews(scale=(0.5, 1.0)))]
)
def test_each_ingredient_of_random_views_changes_the_key(change):
    given = dict(augment=RandomViews(), views=2, seed=0, stream=0)

    def found(augment, **rest):
        return describe_data(Noise(), {}, augment, **rest)

    assert digest(found(**given)) != digest(found(**given | change))


def test_a_file_that_was_touched_changes_the_key_and_nothing_else_does(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    def found():
        config = {"type": "datasets.ImageFolder", "root": str(tmp_path)}
        return describe_data(build(config, "dataset"), config)["dataset"]["files"]

    first = found()
    assert found() == first
    os.utime(tmp_path / "a/1.png", ns=(1, 1))
    assert found() != first
    before = found()
    (tmp_path / "b/4.png").write_bytes(b"other")
    assert found() != before


def test_what_an_object_is_does_not_depend_on_where_it_lies_in_memory():
    class Odd:
        pass

    assert plain(Normalised(table=Odd())) == plain(Normalised(table=Odd()))
    assert plain(np.float32(2)) == 2.0
    assert plain(Normalised(table=np.arange(3))) != plain(Normalised(table=np.arange(4)))
    looped = Normalised()
    looped.table = [looped]
    assert plain(looped)["table"] == ["..."]
    assert plain(random.random) != plain(random.choice)  # by name
    with pytest.raises(ValueError, match="cannot be pickled"):
        plain(Normalised(table=lambda: 1))


def test_packed_tensors_count_by_their_parts():
    class Packed(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def get_extra_state(self):
            return self.value

        def set_extra_state(self, value):
            pass

    def found(value):
        own = tower()
        own.backbone.packed = Packed(value)
        return digest_weights(own)

    assert found({"scale": 1}) == found({"scale": 1}) != found({"scale": 2})


# ---- shards


def rows() -> torch.Tensor:
    return torch.randn(ITEMS, VIEWS, WIDTH, generator=torch.Generator().manual_seed(0))


def write(folder: Path, dtype: str = "fp32", only: range | None = None, values: torch.Tensor | None = None) -> Writer:
    writer = Writer(folder, {"weights": "x"}, ShardLayout(ITEMS, VIEWS, WIDTH, dtype))
    values = rows() if values is None else values
    with writer.alone():
        for shard in writer.missing():
            if only is None or shard.number in only:
                places = range(shard.first, shard.stop)
                bad = {str(index): "broken" for index in places if index == 3}
                record = {
                    "ids": [f"id {i}" for i in places],
                    "labels": [i % 4 for i in places],
                    "roles": [None] * len(places),
                    "unreadable": bad,
                }
                writer.write(shard, values[shard.first : shard.stop].flatten(0, 1).clone(), record)
        if only is None:
            writer.finish({"calls": VIEWS})
    return writer


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 0), ("fp16", 1e-3), ("bf16", 1e-2)])
def test_rows_come_back_in_any_order_from_any_shard(tmp_path, dtype, error):
    write(tmp_path / "s", dtype)
    store = FeatureStore(tmp_path / "s")
    assert len(list((tmp_path / "s").glob("shard-*.json"))) == 3
    wanted = [69, 0, 31, 32, 5, 5, 64]
    views = [1, 0, 1, 0, 0, 1, 1]
    found = store.rows(wanted, views)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rows()[wanted, views], rtol=error, atol=error)
    assert store.get_labels([5, 6]).tolist() == [1, 2]
    assert store.ids[69] == "id 69"
    assert store.unreadable == {3: "broken"}
    assert store.rows([3]).abs().sum() == 0
    with pytest.raises(IndexError):
        store.rows([ITEMS + 30])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["shard-00001", "shard-00001.json"])
def test_a_damaged_shard_is_found_and_alone_is_written_again(tmp_path, damage, name):
    writer = write(tmp_path / "s")
    damage(tmp_path / "s" / name)
    quick, thorough = writer.missing(), writer.missing(checksum=True)
    assert [shard.number for shard in thorough] == [1]
    assert quick == thorough or (damage is flip and name == "shard-00001")  # a size says nothing of a flipped bit
    if quick:
        with pytest.raises(ToolboxError, match="shard-00001 is not what was written"):
            FeatureStore(tmp_path / "s")
        with pytest.raises(ToolboxError, match=r"1 of 3 shards .* not whole"):
            writer.finish({"calls": VIEWS})


def test_another_shape_or_a_shard_of_another_place_is_not_taken(tmp_path):
    writer = write(tmp_path / "s")
    assert len(Writer(tmp_path / "s", {}, ShardLayout(ITEMS, VIEWS, WIDTH, "bf16")).missing()) == 3
    for ending in ("", ".json"):
        shutil.copy(tmp_path / f"s/shard-00000{ending}", tmp_path / f"s/shard-00001{ending}")
    assert [shard.number for shard in writer.missing()] == [1]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"of": 1}', "\x00"])
def test_a_broken_manifest_is_no_store_and_is_written_again(tmp_path, text):
    writer = write(tmp_path / "s")
    good = (tmp_path / "s" / MANIFEST).read_text()
    (tmp_path / "s" / MANIFEST).write_text(text)
    with pytest.raises(ToolboxError, match=r"manifest\.json cannot be read"):
        FeatureStore(tmp_path / "s")
    writer.finish({"calls": VIEWS})
    assert (tmp_path / "s" / MANIFEST).read_text() == good
    assert json.loads(good)["of"] == {"weights": "x"}


def test_what_was_written_before_an_interruption_stays(tmp_path):
    writer = write(tmp_path / "s", only=range(2))
    (tmp_path / "s/.shard-00002.1.partial").write_bytes(b"half")
    (tmp_path / "s/shard-00002").write_bytes(b"without its record")
    with pytest.raises(ToolboxError, match=r"manifest\.json cannot be read"):
        FeatureStore(tmp_path / "s")
    assert [shard.number for shard in writer.missing()] == [2]
    before = (tmp_path / "s/shard-00000").stat().st_mtime_ns
    with writer.alone():
        writer.clean(writer.missing())
    assert not list((tmp_path / "s").glob(".*.partial"))
    write(tmp_path / "s")
    assert (tmp_path / "s/shard-00000").stat().st_mtime_ns == before
    torch.testing.assert_close(FeatureStore(tmp_path / "s").rows([69], 1)[0], rows()[69, 1])


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("fp16", 1e5, "too large for fp16: id 40"),
        ("fp32", float("nan"), "NaN or infinity: id 40"),
        ("bf16", float("inf"), "NaN or infinity: id 40"),
    ],
)
def test_features_that_are_no_numbers_are_an_error_with_the_items(tmp_path, dtype, value, message):
    values = rows()
    values[40, 1, 2] = value
    values[3] = float("nan")  # an item that could not be read has no features to judge
    with pytest.raises(ToolboxError, match=message):
        write(tmp_path / "s", dtype, values=values)


def test_a_folder_that_cannot_be_written_has_one_message(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ToolboxError, match="No features can be stored"):
        write(tmp_path / "file" / "s")

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ToolboxError, match="shard-00000 cannot be written: No space left"):
        write(tmp_path / "s")
    assert not list((tmp_path / "s").glob("*shard*"))


def test_a_disk_without_room_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    writer = Writer(tmp_path / "s", {}, ShardLayout(ITEMS, VIEWS, WIDTH, "fp32"))
    with writer.alone(), pytest.raises(ToolboxError, match=r"The features need .* MiB free"):
        writer.clean(writer.missing())


def test_views_are_drawn_evenly_and_from_numbers_alone():
    views = choose_view(0, range(4000), 4)
    assert np.bincount(views).min() > 900
    assert (views == choose_view(0, range(4000), 4)).all()
    assert (views != choose_view(1, range(4000), 4)).any()
    assert choose_view(0, [7], 4) == views[7:8]
    assert (choose_view(3, range(9), 1) == 0).all()
    assert len({get_draw(index, view, 10) for index in range(10) for view in range(3)}) == 30
