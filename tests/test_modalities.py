"""Models of several modalities are given one of them alone; a model of texts is trained as one of images is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contract_models import DualEncoder
from contract_parts import Shades
from test_contracts_in_runs import ALIGNMENT, HEAD, RUN, SWAP, data, recipe

import toolbox
from toolbox import api
from toolbox.errors import ToolboxError

TEXTS = RUN | dict(
    model=dict(
        type="retrieval.Embedder",
        backbone=dict(type="contract.Letters", weights="letters"),
        pool="last",
        head=HEAD,
        loss=dict(type="losses.SupCon"),
    ),
    **data("contract.Questions"),
    val_evaluator=dict(type="retrieval.Recall", ks=[1]),
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_dual_encoder_encodes_images_and_texts_alone():
    toolbox.train(recipe(ALIGNMENT), out="run")
    encoder, dataset = toolbox.load("run"), Shades()
    samples = [dataset[index] for index in range(5)]
    texts = [text for sample in samples for text in sample["text"]]
    (both,) = encoder.run(torch.utils.data.Subset(dataset, range(5)))
    for name, rows in (
        ("embeddings", encoder.encode_image([sample["image"] for sample in samples])),
        ("text_embeddings", encoder.encode_text(texts)),
    ):
        torch.testing.assert_close(rows, torch.nn.functional.normalize(both[name]), rtol=1e-5, atol=1e-6)
    assert encoder.encode_text(texts).shape == (10, 8)
    assert encoder.encode_text(texts[0]).shape == (1, 8)
    assert encoder.dim == 8
    assert "Letters" in repr(encoder)
    torch.testing.assert_close(encoder.encode_text(texts, batch_size=3), encoder.encode_text(texts))


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "the list is empty"), (["a", ""], "Text 1 of 2 is empty"), (["a", None], "Text 1 of 2 is a NoneType")],
)
def test_what_is_no_text_is_refused(texts, message):
    toolbox.train(recipe(TEXTS, train_cfg__max_steps=1), out="run")
    with pytest.raises(ToolboxError, match=message):
        toolbox.load("run").encode_text(texts)


def test_a_model_of_texts_is_trained_evaluated_and_loaded():
    results = toolbox.train(recipe(TEXTS), out="run")
    assert results["after"]["recall@1"] >= 0
    encoder = toolbox.load("run")
    texts = ["which color? |black", "which color? x|white", "a"]
    rows = encoder.encode_text(texts)
    assert rows.shape == (3, 8)
    assert encoder.dim == 8
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    with pytest.raises(ToolboxError, match="cannot encode images: it reads texts"):
        encoder.encode_image(Shades()[0]["image"])


def test_a_model_of_images_encodes_no_texts():
    config = recipe(TEXTS, model__backbone=dict(type="contract.Patches"), model__pool="mean", train_cfg__max_steps=1)
    toolbox.train(config, out="run")
    with pytest.raises(ToolboxError, match="cannot encode texts: it reads images"):
        toolbox.load("run").encode_text("a")


def test_a_model_that_needs_both_says_so():
    toolbox.train(recipe(SWAP, train_cfg__max_steps=1), out="run")
    with pytest.raises(ToolboxError, match="cannot encode images alone: it also reads texts"):
        toolbox.load("run").encode_image(Shades()[0]["image"])


def test_one_embedding_an_item_takes_one_text_an_item():
    config = recipe(TEXTS, val_dataloader__dataset=dict(type="contract.Captions"))
    with pytest.raises(ToolboxError, match="10 embeddings, 4 labels and 4 ids: the model embeds each text of an item"):
        toolbox.train(config, out="run")


def test_a_dataset_without_what_the_model_reads_is_one_message():
    config = recipe(TEXTS, train_dataloader__dataset=dict(type="toy.Noise"))
    config["plugins"].append(str(Path(__file__).with_name("toy_plugin.py")))
    with pytest.raises(ToolboxError, match=r"train_dataloader\.dataset: The model reads 'text', and an item has image"):
        toolbox.train(config, out="run")


def test_what_users_run_over_needs_no_label_of_a_dataset():
    toolbox.train(recipe(TEXTS, model__backbone=dict(type="contract.Patches"), model__pool="mean"), out="run")
    encoder, image = toolbox.load("run"), Shades()[0]["image"]
    samples = [{"image": image, "label": label, "id": None} for label in ("cat", 1.5, torch.ones(3), None)]
    (outputs,) = encoder.run(samples)
    assert len(outputs["embeddings"]) == 4
    (outputs,) = encoder.run([{"image": image, "text": ""}])
    assert len(outputs["embeddings"]) == 1, "a text that the model does not read is not looked at"
    with pytest.raises(ToolboxError, match="The model reads 'image', and an item has text, label"):
        next(encoder.run([{"text": "a", "label": 1}]))


@pytest.mark.parametrize(
    ("job", "modality", "message"),
    [
        (SWAP, "image", "cannot encode images alone: it also reads texts"),
        (TEXTS, "image", "cannot encode images: it reads texts"),
        (TEXTS, "audio", "There is no modality 'audio'"),
    ],
)
def test_a_modality_that_cannot_be_alone_is_refused(job, modality, message):
    toolbox.train(recipe(job, train_cfg__max_steps=1), out="run")
    with pytest.raises(ToolboxError, match=message):
        next(toolbox.load("run").run([{"text": "a|b"}], modality=modality))


def test_a_text_that_is_none_is_named_by_its_place():
    toolbox.train(recipe(TEXTS, train_cfg__max_steps=1), out="run")
    with pytest.raises(ToolboxError, match="Item 1 cannot be used: its text is empty"):
        next(toolbox.load("run").run([{"text": "fine"}, {"text": ""}]))


def test_predictions_that_read_owners_are_tried_before_a_run(monkeypatch):
    original = DualEncoder.predict

    def predict(self, batch):
        outputs = original(self, batch)
        return outputs | {"owners": batch.owners["text"], "digests": batch.texts["text"]}

    monkeypatch.setattr(DualEncoder, "predict", predict)
    assert api.plan(recipe(ALIGNMENT)).problems == []


# --- checks before a run -----------------------------------------------------------------------------------------
def test_the_memory_of_a_model_that_reads_texts_is_counted():
    plan = api.plan(recipe(ALIGNMENT))
    assert plan.problems == []
    assert plan.memory["activations and gradients"] > 0
    more = api.plan(recipe(ALIGNMENT, train_dataloader__batch_size=8)).memory
    assert more["inputs"] == 2 * plan.memory["inputs"]
    assert more["activations and gradients"] > plan.memory["activations and gradients"]


def test_heads_of_different_width_are_found_before_a_run():
    plan = api.plan(recipe(ALIGNMENT, model__text__text__head__dim=6, model__text__title__head__dim=6))
    (problem,) = plan.problems
    assert "The loss cannot compare what the model gives" in problem.message
    assert "width" in problem.hint
    summed = api.plan(recipe(ALIGNMENT, model__text__title__head__dim=6)).problems
    assert ["do not fit together" in problem.message for problem in summed] == [True]


def test_a_text_has_one_view_whatever_the_augmentation_makes_of_images():
    crops = dict(type="contract.RandomCrops", views=1)
    assert api.plan(recipe(ALIGNMENT, train_dataloader__augment=crops)).problems == []
    dry_run = api.plan(recipe(ALIGNMENT, train_dataloader__augment=crops | {"views": 2})).dry_run
    assert dry_run.views == {"image": 2, "fine": 2, "text": 1, "title": 1}
