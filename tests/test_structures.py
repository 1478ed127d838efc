"""What a dataset gives reaches model and metrics as it is: structures, types, ids and labels."""

from __future__ import annotations

import uuid
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np
import pytest
import torch

import toolbox
from toolbox.base import Batch
from toolbox.base.scalars import as_id, as_label
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec, input_specs
from toolbox.engine.data.batch_plan import TrainBatches
from toolbox.engine.data.loader import _Pinnable, batches, ready, to_device
from toolbox.engine.data.samples import read_sample
from toolbox.engine.data.structures import map_tensors
from toolbox.errors import ToolboxError
from toolbox.registry import build, get_catalog
from toolbox.utils.accumulators import EmbeddingAccumulator

Pair = namedtuple("Pair", "left right")
META = torch.device("meta")


class Encoding(UserDict):
    """As a tokenizer's: a mapping that knows more than its entries."""

    def __init__(self, data, note):
        super().__init__(data)
        self.note = note


class Rows(list):
    pass


@dataclass(frozen=True)
class Packed:
    pixels: torch.Tensor
    sizes: tuple


def structure():
    one = torch.ones(2)
    return {
        "dict": {"a": one, "b": [one, "text", 3, None]},
        "tuple": (one, one),
        "named": Pair(one, 1),
        "list": Rows([one]),
        "ordered": OrderedDict(z=one),
        "default": defaultdict(list, a=one),
        "encoding": Encoding({"ids": one}, "kept"),
        "frozen": MappingProxyType({"a": one}),
        "dataclass": Packed(one, (one, 2)),
        "packed": torch.nn.utils.rnn.pack_sequence([one[:, None]]),
        "array": np.ones(2),
        "numpy": np.int64(3),
        "path": Path("a"),
        "nothing": {},
        "range": range(3),
        "set": {1},
        "bytes": b"1",
    }


def test_every_structure_goes_to_the_device_as_it_is():
    value = structure()
    there = to_device(value, META)
    for name in ("tuple", "list", "ordered", "default", "encoding", "dataclass", "named", "packed"):
        assert type(there[name]) is type(value[name]), name
    assert there["dict"]["a"].device == there["dict"]["b"][0].device == there["tuple"][1].device == META
    assert there["named"].left.device == there["list"][0].device == there["ordered"]["z"].device == META
    assert there["default"]["a"].device == there["encoding"]["ids"].device == there["frozen"]["a"].device == META
    assert there["dataclass"].pixels.device == there["dataclass"].sizes[0].device == META
    assert there["packed"].data.device == META
    assert there["default"].default_factory is list
    assert there["encoding"].note == "kept"
    assert there["dict"]["b"][1:] == ["text", 3, None]
    for name in ("array", "numpy", "path", "nothing", "range", "set", "bytes"):
        assert there[name] is value[name], name
    assert value["dict"]["a"].device.type == value["encoding"]["ids"].device.type == "cpu"


def test_what_holds_no_tensor_is_not_touched():
    value = {"ids": ["a", 1], "deep": (Pair(1, 2), Packed(1, ()))}
    assert map_tensors(value, lambda tensor: 1 / 0) is value


def test_a_batch_is_not_finished_twice():
    class Half:
        @staticmethod
        def finish(value):
            return value / 2

    batch = Batch.example({"image": torch.ones(2)})
    for _ in range(2):
        assert (
            ready(batch, {"image": InputSpec("image", Half)}, torch.device("cpu")).inputs["image"].tolist() == [0.5] * 2
        )


def loaded(toy, monkeypatch, change, *, workers=0, pin=False):
    """The batches of eight items of toy.Noise, whose samples `change(sample, index)` has changed."""
    config = toy()
    noise = get_catalog().resolve("toy.Noise", "dataset")
    original = noise.__getitem__
    monkeypatch.setattr(noise, "__getitem__", lambda self, index: change(original(self, index), index))
    dataset = build({"type": "toy.Noise", "count": 8})
    sampler = build({"type": "core.Sequential", "batch_size": 4}, "sampler")
    sampler.setup(dataset, seed=0)
    fetch = BatchBuilder(dataset, input_specs(toolbox.build(config)))
    return list(batches(fetch, TrainBatches(sampler, 0, 2), workers=workers, pin_memory=pin))


IDS = {
    "numpy int": (np.int64, list(range(8))),
    "numpy small int": (np.uint8, list(range(8))),
    "0-d array": (np.array, list(range(8))),
    "torch": (torch.tensor, list(range(8))),
    "torch, one number": (lambda index: torch.tensor([index]), list(range(8))),
    "numpy str": (lambda index: np.str_(f"a{index}"), [f"a{index}" for index in range(8)]),
    "path": (lambda index: PurePosixPath(f"d/{index}"), [f"d/{index}" for index in range(8)]),
    "bytes": (lambda index: b"\xc3\xa4%d" % index, [f"ä{index}" for index in range(8)]),
}


@pytest.mark.parametrize(("name", "workers"), [*((name, 0) for name in IDS), ("numpy int", 2), ("torch", 2)])
def test_ids_are_plain_whatever_made_them(toy, monkeypatch, name, workers):
    make, expected = IDS[name]
    found = loaded(toy, monkeypatch, lambda sample, index: sample | {"id": make(index)}, workers=workers)
    ids = [one for batch in found for one in batch.ids]
    assert ids == expected
    assert {type(one) for one in ids} <= {int, str}
    assert all(type(batch.ids) is list and type(batch.indices) is list for batch in found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", 1.0),
        ("id", np.float32(2)),
        ("id", True),
        ("id", np.bool_(True)),
        ("id", None),
        ("id", [1]),
        ("id", b"\xff"),
        ("id", torch.zeros(2)),
        ("id", uuid.UUID(int=1)),
        ("label", 1.0),
        ("label", True),
        ("label", "cat"),
        ("label", np.float64(1)),
        ("label", torch.tensor(0.5)),
        ("label", [1, 2]),
        ("label", 1 << 70),
    ],
    ids=repr,
)
def test_what_is_no_id_or_label_is_refused_with_one_message(toy, monkeypatch, key, value):
    workers = 2 if value is None else 0
    with pytest.raises(ToolboxError) as caught:
        loaded(toy, monkeypatch, lambda sample, index: sample | ({key: value} if index == 5 else {}), workers=workers)
    (problem,) = caught.value.problems
    assert "Item 5 of Noise cannot be used" in problem.message
    assert problem.where == "train_dataloader.dataset"


def test_a_sample_that_is_no_dict_is_refused(toy, monkeypatch):
    with pytest.raises(ToolboxError, match="Item 0 of Noise is a tuple, and a sample is a dict"):
        loaded(toy, monkeypatch, lambda sample, index: (sample["image"], sample["label"]))


@pytest.mark.parametrize("make", [np.int32, np.array, torch.tensor, lambda label: torch.tensor([label])])
def test_labels_are_plain_whatever_made_them(toy, monkeypatch, make):
    found = loaded(toy, monkeypatch, lambda sample, index: sample | {"label": make(sample["label"])})
    assert [batch.labels.tolist() for batch in found] == [[0] * 4, [1] * 4]
    assert found[0].labels.dtype == torch.long
    found = loaded(toy, monkeypatch, lambda sample, index: sample | {"label": None})
    assert found[0].labels is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_comes_as_it_was_made(toy, monkeypatch, workers):
    """torch's own conversion makes tensors of arrays, and lists of tuples."""
    original = BatchBuilder.__getitem__
    inputs = {"array": np.ones(2), "named": Pair(1, np.int64(2))}
    made = dict(mixed=(torch.ones(2), torch.ones(2)), inputs=inputs)
    monkeypatch.setattr(BatchBuilder, "__getitem__", lambda self, draws: replace(original(self, draws), **made))
    for batch in loaded(toy, monkeypatch, lambda sample, index: sample, workers=workers):
        assert type(batch.mixed) is tuple
        for name, value in inputs.items():
            assert type(batch.inputs[name]) is type(value), name
        assert type(batch.inputs["named"].right) is np.int64


def test_a_batch_is_pinned_as_it_was_made(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: pinned.append(self) or self.clone())
    value = structure()
    value.pop("packed")
    found = torch.utils.data._utils.pin_memory.pin_memory(_Pinnable(value)).batch
    assert len(pinned) == 12
    for name in value.keys() - {"frozen"}:
        assert type(found[name]) is type(value[name]), name
    assert found["encoding"].note == "kept"
    assert found["range"] is value["range"]


def test_ids_from_numpy_are_the_ids_of_a_run(toy, monkeypatch):
    """As tensors, every item had an id of its own, whatever its number: it was ranked against itself."""
    config = toy(["val_evaluator=[dict(type='retrieval.Recall', ks=[1])]", "train_cfg.max_steps=2"])
    plain = toolbox.train(config, out="plain")
    noise = get_catalog().resolve("toy.Noise", "dataset")
    original = noise.__getitem__

    def number(self, index):
        sample = original(self, index)
        return sample | {"id": np.int64(index), "label": np.int64(sample["label"])}

    monkeypatch.setattr(noise, "__getitem__", number)
    assert toolbox.train(config, out="numpy")["after"] == plain["after"]


def test_metrics_take_ids_and_labels_of_any_library():
    outputs = {"embeddings": torch.eye(4)}
    kinds = (
        [0, 1, 2, 3],
        np.arange(4),
        torch.arange(4),
        [np.int64(index) for index in range(4)],
        [torch.tensor(index) for index in range(4)],
    )
    for ids in kinds:
        seen = EmbeddingAccumulator("test", "embeddings")
        for _ in range(2):  # as another process that repeats a batch
            seen.add(outputs, Batch(labels=np.array([0, 0, 1, 1]), ids=ids, indices=np.arange(4)))
        assert seen.items().names == [0, 1, 2, 3]
    for labels in (torch.tensor([0.2, 0.7, 1, 1]), torch.tensor([True] * 4)):
        with pytest.raises(ValueError, match="whole numbers"):
            EmbeddingAccumulator("test", "embeddings").add(outputs, Batch(labels=labels, ids=[1, 2, 3, 4]))
    with pytest.raises(ValueError, match="an id is an int or a str"):
        EmbeddingAccumulator("test", "embeddings").add(
            outputs, Batch(labels=torch.zeros(4, dtype=torch.long), ids=[1.0, 2, 3, 4])
        )


def test_two_items_with_one_id_are_noticed_whatever_made_it():
    seen = EmbeddingAccumulator("test", "embeddings")
    labels = torch.zeros(3, dtype=torch.long)
    seen.add({"embeddings": torch.eye(3)}, Batch(labels=labels, ids=np.array([7, 8, 7]), indices=[0, 1, 2]))
    with pytest.raises(ValueError, match="1 items have the id of another one"):
        seen.items()


def test_a_sampler_may_count_with_numpy(toy, monkeypatch):
    epoch_sampler = get_catalog().resolve("core.Sequential", "sampler")
    original = epoch_sampler.draws
    monkeypatch.setattr(
        epoch_sampler, "draws", lambda self, number: [tuple(np.array(pair)) for pair in original(self, number)]
    )
    found = loaded(toy, monkeypatch, lambda sample, index: sample)
    assert all(type(index) is int for batch in found for index in batch.indices)


def test_plain_values():
    assert as_id(7) == 7
    assert type(as_id(np.int8(7))) is int
    assert as_label(None) is None
    assert type(as_label(np.int64(3))) is int


def test_a_sample_keeps_the_rest(toy):
    toy()
    sample = read_sample(build({"type": "toy.Noise"}), 3)
    assert sample["id"] == 3
    assert sample["image"].size == (20, 20)
