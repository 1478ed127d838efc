"""The batch that models and metrics are given."""

from __future__ import annotations

import pytest
import torch
from toolbox_retrieval.embedder import Embedder
from toolbox_retrieval.recall import Recall

import toolbox
from toolbox.base import Batch


def test_an_example_numbers_its_items():
    batch = Batch.example({"image": torch.zeros(6, 3, 4, 4)}, labels=torch.arange(3), views={"image": 2})
    assert (len(batch), list(batch.ids), list(batch.indices), list(batch.draws)) == (3, [0, 1, 2], [0, 1, 2], [0, 1, 2])
    assert (batch.views, batch.blocks, batch.share, batch.mixed) == ({"image": 2}, 1, (0, 1), None)
    nested = Batch.example({"text": {"ids": torch.zeros(4, 7)}, "image": torch.zeros(4, 3)}, ids=list("abcd"))
    assert nested.views == {"text": 1, "image": 1}
    assert len(nested) == 4
    assert len(Batch()) == 0


def test_fields_are_read_by_their_names_too():
    batch = Batch(ids=["a"], labels=torch.tensor([1]))
    assert batch["labels"] is batch.labels
    with pytest.raises(KeyError, match="no 'label': it has inputs, views, owners, texts, labels, ids"):
        batch["label"]
    assert Batch.from_fields(batch) is batch
    metric = Recall(ks=[1])
    metric.update({"embeddings": torch.eye(3)[[0, 0, 1, 1]]}, {"labels": torch.tensor([0, 0, 1, 1]), "ids": range(4)})
    assert metric.compute()["recall@1"] == 1
    with pytest.raises(TypeError, match="unexpected keyword argument 'label'"):
        metric.update({"embeddings": torch.eye(2)}, {"label": torch.tensor([0, 1]), "ids": range(2)})


def test_a_batch_says_which_part_of_its_step_it_is(toy, monkeypatch):
    seen = []
    original = Embedder.compute_loss

    def compute_loss(model, representations, batch):
        if not batch.labels.is_meta:  # a check of the recipe asks, too
            seen.append((batch.share, tuple(batch.draws)))
        return original(model, representations, batch)

    monkeypatch.setattr(Embedder, "compute_loss", compute_loss)
    changes = ["optim_wrapper.accumulative_counts=2", "train_cfg.max_steps=2", "evaluate_before=False"]
    toolbox.train(toy(changes), out="run")
    assert [share for share, _ in seen] == [(0, 2), (1, 2)] * 2
    assert len({draw for _, draws in seen for draw in draws}) == sum(len(draws) for _, draws in seen)
