"""Texts of items: training reads one at each draw, evaluation and stores read all, and equal ones are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from contract_models import DualEncoder
from contract_parts import Captions, Contrastive, Letters, Patches, Shades
from test_contracts_in_runs import ALIGNMENT, recipe, stop_and_resume, weights
from test_exactness import assert_same
from toolbox_glyphs.glyphs import Glyphs

import toolbox
from toolbox.builtins.projection import Projection
from toolbox.data_audit import read_fingerprints
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
from toolbox.engine.data.batch_plan import TrainBatches
from toolbox.engine.data.loader import batches
from toolbox.engine.data.texts import digest_text
from toolbox.engine.inference import run_over
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError
from toolbox.feature_cache.feature_store import FeatureStore
from toolbox.feature_cache.views import choose_text, choose_view
from toolbox.plugin import Device
from toolbox.registry import build
from toolbox.utils.tower import Tower

CAPTIONS = {
    "train_dataloader__dataset": dict(type="contract.Captions", count=16),
    "val_dataloader__dataset": dict(type="contract.Captions", count=16),
}
FROZEN = dict(tune=dict(mode="frozen"), weights="frozen letters")
STORED = {"model__text__text__backbone": dict(type="contract.Letters", **FROZEN), "features": dict(dtype="fp32")}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def model(*texts: str) -> DualEncoder:
    torch.manual_seed(0)
    vision = {"image": Tower(Patches(), "mean", Projection(dim=8))}
    text = {name: Tower(Letters(), "last", Projection(dim=8)) for name in texts or ("text",)}
    return DualEncoder(vision, text, Contrastive())


def builder(dataset=None, *texts: str, **options) -> BatchBuilder:
    return BatchBuilder(dataset or Captions(16), input_specs(model(*texts)), **options)


# --- which text a draw reads -------------------------------------------------------------------------------------
def test_draws_choose_texts_evenly_and_not_by_their_views():
    draws, count = np.arange(40_000), 5
    texts, views = choose_text(3, draws, np.full(len(draws), count)), choose_view(3, draws, count)
    both = np.histogram2d(texts, views, bins=[range(count + 1)] * 2)[0]
    expected = len(draws) / count**2
    chi_square = ((both - expected) ** 2 / expected).sum()  # of 24 degrees of freedom: above 60 in 7 of 100,000 cases
    assert chi_square < 60
    assert (texts != choose_text(4, draws, np.full(len(draws), count))).any(), "the seed chooses nothing"


def test_the_text_of_a_draw_does_not_depend_on_the_batch():
    draws = [(1000 + number, number % 16) for number in range(32)]
    whole = builder(seed=5)[draws]
    pieces = [builder(seed=5)[draws[start : start + 3]] for start in range(0, 32, 3)]
    assert torch.equal(whole.texts["text"], torch.cat([piece.texts["text"] for piece in pieces]))
    assert (whole.texts["text"][:16] != whole.texts["text"][16:]).any(), "the draws choose nothing"


def test_training_reads_one_text_an_item_and_equal_ones_have_equal_digests():
    batch = builder(Shades(8), "text", "title")[[(draw, draw % 8) for draw in range(32)]]
    assert torch.equal(batch.owners["text"], torch.arange(32))
    assert torch.equal(batch.texts["text"], batch.texts["title"]), "two towers read different texts of an item"
    names = ("black", "dark gray", "gray", "white")
    expected = {digest_text(name): label for label, name in enumerate(names)}
    named = [expected.get(text) for text in batch.texts["text"].tolist()]
    assert all(name in (None, label) for name, label in zip(named, batch.labels.tolist(), strict=True))
    assert 4 < named.count(None) < 28


def test_evaluation_reads_all_texts_item_by_item():
    batch = builder(all_texts=True)[[(index, index) for index in (3, 0, 5)]]
    assert batch.owners["text"].tolist() == [0, 0, 0, 0, 1, 2, 2]
    dataset = Captions(16)
    expected = [digest_text(text) for index in (3, 0, 5) for text in dataset[index]["text"]]
    assert batch.texts["text"].tolist() == expected
    assert len(batch.inputs["text"]["ids"]) == 7
    assert batch.inputs["image"].shape[0] == len(batch) == 3


def test_workers_draw_the_same_texts():
    sampler = build({"type": "core.Shuffled", "batch_size": 4}, "sampler")
    sampler.setup(Captions(16), seed=1)
    plan = TrainBatches(sampler, 0, 6, 1)
    alone, helped = (list(batches(builder(seed=1), plan, workers=workers)) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.texts["text"], other.texts["text"])
        assert torch.equal(one.inputs["text"]["ids"], other.inputs["text"]["ids"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([], "its list of texts is empty"),
        ("  ", "its text is empty"),
        (["fine", ""], "text 1 of 2 is empty"),
        (None, "its text is None, a NoneType and no string"),
        (float("nan"), "its text is nan, a float and no string"),
        (["fine", 3], "text 1 of 2 is 3, a int and no string"),
    ],
)
def test_a_text_that_is_none_is_an_unreadable_item(text, message):
    class Broken(Shades):
        def __getitem__(self, index):
            return super().__getitem__(index) | ({"text": text} if index == 2 else {})

    fetch = builder(Broken(8))
    with pytest.raises(ToolboxError, match=message):
        fetch.require_batch(fetch[[(index, index) for index in range(4)]])
    left = builder(Broken(8), skip_bad=True)[[(index, index) for index in range(4)]]
    assert left.indices == [0, 1, 3]
    assert left.bad == [(2, left.bad[0][1])]
    assert message in left.bad[0][1]


def test_who_reads_texts_alone_opens_no_image():
    class Unread(Shades):
        def read(self, index, fields):
            assert fields == {"text"}
            return {"text": self.classes[self.labels[index]], "label": self.labels[index], "id": index}

        def __getitem__(self, index):
            raise AssertionError("the whole item was read")

    specs = input_specs(model())
    batch = BatchBuilder(Unread(8), {"text": specs["text"]})[[(index, index) for index in range(4)]]
    assert batch.texts["text"].tolist() == [digest_text(name) for name in Unread().classes]


def test_a_subclass_that_changes_items_is_read_as_it_says(tmp_path):
    class Prompted(Glyphs):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"text": "a prompt"}

    class Both(Prompted):
        def read(self, index, fields):
            return super().read(index, fields) | {"text": "read"}

    specs = {"text": input_specs(model())["text"]}
    for dataset, text in ((Glyphs(), Glyphs()[0]["text"]), (Prompted(), "a prompt"), (Both(), "read")):
        batch = BatchBuilder(dataset, specs)[[(0, 0)]]
        assert batch.texts["text"].tolist() == [digest_text(text)]


def test_all_items_with_empty_texts_are_named():
    class Gaps(Shades):
        def __getitem__(self, index):
            return super().__getitem__(index) | ({"text": ""} if index in (2, 5, 6) else {})

    fetch = builder(Gaps(8))
    with pytest.raises(ToolboxError, match="Item 2 of Gaps cannot be read: its text is empty; nor can 2 others"):
        fetch.require_batch(fetch[[(index, index) for index in range(4)]])
    errors = [fingerprint.error for fingerprint in read_fingerprints(Gaps(8), "train")]
    assert [index for index, error in enumerate(errors) if error] == [2, 5, 6]


# --- stores ------------------------------------------------------------------------------------------------------
def run(folder: str, **overrides) -> dict:
    return toolbox.train(recipe(ALIGNMENT, **CAPTIONS, **overrides), out=folder)


def text_store() -> FeatureStore:
    (path,) = Path("work_dirs/features").glob("Captions-text-*")
    return FeatureStore(path)


def test_stored_texts_train_and_evaluate_as_live_ones():
    stored = run("stored", **STORED)
    live = run("live", **(STORED | {"features": None}))
    store = text_store()
    assert store.row_counts.tolist() == [1, 2, 3, 4] * 4
    assert store.layout.views is None
    for name, weight in weights("last", "stored").items():
        torch.testing.assert_close(weight, weights("last", "live")[name], rtol=1e-4, atol=1e-6)
    assert stored["after"] == live["after"]
    draws = [(draw, draw % 16) for draw in range(64)]
    specs = input_specs(toolbox.build(recipe(ALIGNMENT, **CAPTIONS, **STORED)))
    for options in ({}, {"all_texts": True}):
        expected = BatchBuilder(Captions(16), specs, seed=3, **options)[draws]
        batch = BatchBuilder(Captions(16), specs, seed=3, stored={"text": store}, **options)[draws]
        alone = BatchBuilder(Captions(16), {"text": specs["text"]}, seed=3, stored={"text": store}, **options)[draws]
        for other in (batch, alone):
            assert torch.equal(other.texts["text"], expected.texts["text"])
            assert torch.equal(other.owners["text"], expected.owners["text"])
            assert other.inputs["text"].shape == (len(expected.texts["text"]), 12)


def test_a_store_of_texts_is_found_again_and_a_damaged_part_is_made_again():
    first = run("first", **STORED)["features"]
    assert first["found"] == 0
    again = run("again", **STORED)["features"]
    assert (again["computed"], again["found"]) == (0, first["computed"] + first["found"])
    folder = text_store().folder
    rows = text_store().rows(range(16))
    record = folder / "shard-00000.json"
    broken = json.loads(record.read_text())
    broken["texts"][1] = broken["texts"][1][:1]  # an item loses a text
    record.write_text(json.dumps(broken))
    with pytest.raises(ToolboxError, match="no whole features"):
        FeatureStore(folder)
    assert run("mended", **STORED)["features"]["computed"] == 16
    assert torch.equal(text_store().rows(range(16)), rows)


def test_other_texts_of_the_same_items_are_seen_at_the_second_look(monkeypatch):
    run("first", **STORED)
    dataset = type(toolbox.build(dict(type="contract.Captions")))
    original = dataset.__getitem__

    def other(self, index):
        sample = original(self, index)
        return sample | {"text": [*sample["text"], "one more"]}

    monkeypatch.setattr(dataset, "__getitem__", other)
    with pytest.raises(ToolboxError, match="differ by"):
        run("second", **STORED)


# --- runs --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [{}, STORED], ids=["live", "stored"])
def test_a_resumed_run_draws_the_texts_of_the_uninterrupted_one(more, monkeypatch):
    run("whole", **more)
    stop_and_resume(recipe(ALIGNMENT, **CAPTIONS, **more), 4, monkeypatch)
    assert_same(Path("whole"), Path("stopped"))


def test_chunks_of_a_batch_with_texts_give_the_gradient_of_the_whole():
    patches = {f"model__vision__{name}__backbone__tune": dict(mode="frozen") for name in ("image", "fine")}
    run("whole", **patches)
    run("chunks", **patches, optim_wrapper__grad_cache=dict(chunk_size=3))
    for name, weight in weights("last", "whole").items():
        torch.testing.assert_close(weights("last", "chunks")[name], weight, rtol=2e-3, atol=2e-5)


def test_an_evaluation_computes_no_more_texts_at_a_time_than_items(monkeypatch):
    rows: list[int] = []
    forward = Letters.forward

    def watched(self, inputs, **options):
        rows.append(len(inputs["ids"]))
        return forward(self, inputs, **options)

    monkeypatch.setattr(Letters, "forward", watched)
    encoder = model("text", "title").eval()
    encoder.connect()
    device = Device("cpu", "gloo")
    precision = Precision("fp32", device)
    whole, parts = (
        [
            (batch.owners["text"], outputs)
            for batch, outputs, _ in run_over(
                encoder, Captions(16), input_specs(encoder), device, precision, batch_size=8, workers=0
            )
        ]
        for encoder.reads_modalities_alone in (False, True)
    )
    assert max(rows[:4]) > 8
    assert max(rows[4:]) <= 8
    assert len(rows[4:]) > 4
    for (owners, expected), (_, found) in zip(whole, parts, strict=True):
        assert found.keys() == expected.keys()
        assert len(found["text_embeddings"]) == len(owners) > 8
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
