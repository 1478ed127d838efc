"""Dual encoders of any number of towers: what they compute, that runs are exact, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from contract_parts import Contrastive, Letters, Patches, Shades
from test_contracts_in_runs import HEAD, RUN, data, recipe
from test_exactness import assert_same, interrupt_at
from toolbox_alignment.dual_encoder import DualEncoder, fuse
from toolbox_alignment.tower_dropout import choose_kept

import toolbox
from toolbox.base import Batch, l2_normalize
from toolbox.builtins.projection import Projection
from toolbox.engine.signals import Interrupted
from toolbox.errors import ToolboxError
from toolbox.utils.tower import Tower

IMAGE = dict(backbone=dict(type="contract.Patches"), pool="mean", head=HEAD)
SMALL = dict(backbone=dict(type="contract.Patches", dim=8, patch=8, weights="small"), pool="mean", head=HEAD)
TEXT = dict(backbone=dict(type="contract.Letters", weights="letters"), pool="last", head=HEAD)
ALIGNMENT = RUN | dict(
    model=dict(
        type="alignment.DualEncoder", vision=dict(image=IMAGE), text=dict(text=TEXT), loss=dict(type="losses.SigLIP")
    ),
    **data("contract.Captions"),
    val_evaluator=dict(type="alignment.ZeroShot", prompts=["{}", "a {} image"], ks=[1, 2]),
)
TOWERS = dict(
    model__vision=dict(image=IMAGE, small=SMALL),
    model__text=dict(text=TEXT, title=TEXT),
    model__tower_dropout=0.5,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def image(head: int | None = 8, **options) -> Tower:
    return Tower(Patches(**options), "mean", None if head is None else Projection(dim=head))


def text(head: int | None = 8, **options) -> Tower:
    return Tower(Letters(**options), "last", None if head is None else Projection(dim=head))


def make(vision=None, texts=None, loss=None, **options) -> DualEncoder:
    torch.manual_seed(0)
    model = DualEncoder(vision or {"image": image()}, texts or {"text": text()}, loss or Contrastive(), **options)
    model.connect()
    return model.double().eval()


def batch_of(model: DualEncoder, rows: int = 6, digests=None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = {}
    for name, backbone in model.inputs.items():
        if backbone.modality == "image":
            inputs[name] = torch.rand(rows, 3, *backbone.size, generator=generator).double()
        else:
            ids = torch.randint(1, 32, (rows, 5), generator=generator)
            inputs[name] = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}
    texts = {name: torch.arange(rows) if digests is None else torch.tensor(digests) for name in model.text}
    return Batch.example(inputs, owners={name: torch.arange(rows) for name in model.text}, texts=texts)


def gradients(model: DualEncoder) -> dict[str, torch.Tensor | None]:
    return {name: part.grad for name, part in model.named_parameters()}


def test_a_run_trains_resumes_bit_for_bit_and_classifies_by_names(monkeypatch):
    config = recipe(ALIGNMENT, **TOWERS)
    results = toolbox.train(config, out="whole")
    assert {"zero_shot_top1", "zero_shot_top2", "zero_shot_balanced_accuracy"} <= results["after"].keys()
    lines = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    logged = {name for line in lines for name in line}
    assert {"scale_image-text", "chance_image-text", "loss_image-text", "repeated_texts"} <= logged
    interrupt_at(monkeypatch, 3)
    with pytest.raises(Interrupted):
        toolbox.train(config, out="parts")
    toolbox.train(config, out="parts", resume=True)
    assert_same(Path("whole"), Path("parts"))
    encoder = toolbox.load("whole")
    images = [Shades()[index]["image"] for index in range(3)]
    names = Shades().classes
    rows, texts = encoder.encode_image(images), encoder.encode_text([f"a {name} image" for name in names])
    (first, *_), *_ = answers = encoder.classify(images, names, prompts=["a {} image"], top=2)
    assert [len(answer) for answer in answers] == [2, 2, 2]
    assert first[0] == names[int((rows[0] @ texts.T).argmax())]
    scales = [value.detach().exp() for name, value in encoder.model.named_parameters() if name.endswith("log_scale")]
    expected = (torch.stack(scales).mean() * rows @ texts.T).softmax(1)
    assert first[1] == pytest.approx(float(expected[0].max()), rel=1e-5)
    assert sum(p for _, p in encoder.classify(images, names, top=9)[0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(names=["a"]), "two classes or more"),
        (dict(names="cat"), "two classes or more"),
        (dict(names=["a", "a"]), "names that differ"),
        (dict(names=["a", "b"], prompts=["no place"]), "does not say where the name"),
        (dict(names=["a", "b"], top=0), "top from 1 up"),
    ],
)
def test_what_cannot_be_classified_is_refused(arguments, message):
    toolbox.train(recipe(ALIGNMENT, train_cfg__max_steps=1), out="run")
    with pytest.raises(ToolboxError, match=message):
        toolbox.load("run").classify(Shades()[0]["image"], **arguments)


def test_zero_shot_on_images_without_texts_equals_its_definition(monkeypatch):
    without_texts = Shades.__getitem__
    monkeypatch.setattr(
        Shades, "__getitem__", lambda self, i: {k: v for k, v in without_texts(self, i).items() if k != "text"}
    )
    class_names = ["red", "dark red", "gray", "white"]
    config = recipe(
        ALIGNMENT,
        train_dataloader__dataset=dict(type="contract.Questions"),
        val_dataloader__dataset=dict(type="contract.Shades"),
        val_evaluator=dict(type="alignment.ZeroShot", prompts=["{}", "a {} image"], names=class_names, ks=[1, 2]),
    )
    results = toolbox.train(config, out="run")
    encoder = toolbox.load("run/best")
    dataset = Shades()
    rows = encoder.encode_image([dataset[index]["image"] for index in range(len(dataset))])
    prompts = [encoder.encode_text([prompt.format(name) for prompt in ("{}", "a {} image")]) for name in class_names]
    prototypes = l2_normalize(torch.stack([embeddings.mean(0) for embeddings in prompts]))
    ranked = (rows @ prototypes.T).argsort(dim=1, descending=True)
    labels = torch.tensor(dataset.labels)
    right, second = ranked[:, 0] == labels, (ranked[:, :2] == labels[:, None]).any(1)
    assert results["after"]["zero_shot_top1"] == pytest.approx(right.float().mean().item())
    assert results["after"]["zero_shot_top2"] == pytest.approx(second.float().mean().item())
    balanced = torch.stack([right[labels == label].float().mean() for label in range(4)]).mean().item()
    assert results["after"]["zero_shot_balanced_accuracy"] == pytest.approx(balanced)


def test_several_towers_are_fused_as_directions():
    model = make({"image": image(), "small": image(dim=8, patch=8)}, {"text": text(), "title": text(dim=10)})
    batch = batch_of(model)
    outputs, rows = model.predict(batch), model.encode(batch)
    directions = [rows[name] / rows[name].norm(dim=1, keepdim=True) for name in ("image", "small")]
    mean = sum(directions) / 2
    assert (mean.norm(dim=1) < 0.999).any(), "the plain mean is shorter, which would lower the temperature"
    torch.testing.assert_close(outputs["embeddings"].double(), l2_normalize(mean), atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs["embeddings"].norm(dim=1), torch.ones(6))
    torch.testing.assert_close(outputs["embeddings_small"].double(), directions[1], atol=1e-6, rtol=0)
    assert fuse({"a": 3 * rows["image"]}).norm(dim=1).allclose(torch.ones(6).double())


def test_the_loss_is_the_weighted_mean_over_pairs_with_a_scale_each():
    towers = {"image": image(), "small": image(dim=8, patch=8)}
    model = make(towers, weights={"small-text": 3.0}, losses={"small-text": Contrastive(scale=2.0)})
    batch = batch_of(model)
    rows, outputs = model.encode(batch), model.compute_loss(model.encode(batch), batch)
    losses = {
        name: Contrastive(scale=scale).double()(rows[name], ref_embeddings=rows["text"])
        for name, scale in (("image", 1 / 0.07), ("small", 2.0))
    }
    torch.testing.assert_close(outputs["loss"], (losses["image"] + 3 * losses["small"]) / 4)
    torch.testing.assert_close(outputs["loss_small-text"], losses["small"].detach())
    assert float(outputs["scale_small-text"]) == pytest.approx(2)
    outputs["loss"].backward()
    scales = [name for name, _ in model.named_parameters() if name.endswith("log_scale")]
    assert scales == ["criterion.image-text.log_scale", "criterion.small-text.log_scale"]
    assert gradients(model)[scales[0]] != gradients(model)[scales[1]]


def test_fused_towers_are_compared_as_one_pair():
    model = make({"image": image(), "small": image(dim=8, patch=8)}, compare="fused")
    batch = batch_of(model)
    rows = model.encode(batch)
    outputs = model.compute_loss(rows, batch)
    expected = Contrastive().double()(
        fuse({name: rows[name] for name in ("image", "small")}), ref_embeddings=fuse({"text": rows["text"]})
    )
    torch.testing.assert_close(outputs["loss"], expected)
    assert list(model.criterion) == ["image-text"]


def test_equal_texts_share_the_target():
    seen = []

    class Remember(Contrastive):
        def compute(self, embeddings, labels, ref_embeddings, ref_labels):
            seen.append((labels, ref_labels))
            return super().compute(embeddings, None, ref_embeddings, None)

    digests = [5, 5, 1, 2, 3, 4]
    for positives, expected in (("texts", digests), ("labels", [0, 0, 1, 1, 2, 2]), ("items", None)):
        model = make(loss=Remember(), positives=positives)
        batch = batch_of(model, digests=digests)
        batch.labels = torch.tensor([0, 0, 1, 1, 2, 2])
        model.loss(batch)
        labels, others = seen.pop()
        assert (labels if expected is None else labels.tolist()) == expected
        assert labels is others or torch.equal(labels, others)


def test_a_dropped_tower_gets_zero_gradients_and_changes_nothing_else():
    towers = {"image": image(), "small": image(dim=8, patch=8)}
    model = make(towers, {"text": text(), "title": text(dim=10)}, tower_dropout=0.5)
    alone = make()
    for name, side in (("image", "vision"), ("text", "text")):
        getattr(alone, side)[name].load_state_dict(getattr(model, side)[name].state_dict())
    model._kept = frozenset({"image", "text"})
    batch = batch_of(model)
    model.loss(batch)["loss"].backward()
    part = copy.copy(batch)
    part.inputs = {name: batch.inputs[name] for name in ("image", "text")}
    alone.loss(part)["loss"].backward()
    for name, gradient in gradients(model).items():
        assert gradient is not None, f"{name}: other processes would wait for it"
        if name.startswith(("vision.image", "text.text", "criterion.image-text")):
            torch.testing.assert_close(gradient, gradients(alone)[name])
        else:
            assert not gradient.any(), name


def test_towers_are_dropped_by_seed_and_step():
    sides = ["a", "b", "c"], ["x", "y"]
    kept = [choose_kept(sides, 0.5, seed=1, step=step) for step in range(2000)]
    assert kept == [choose_kept(sides, 0.5, seed=1, step=step) for step in range(2000)]
    assert kept != [choose_kept(sides, 0.5, seed=2, step=step) for step in range(2000)]
    assert all(names & {"a", "b", "c"} and names & {"x", "y"} for names in kept)
    share = sum("a" in names for names in kept) / len(kept)
    assert share == pytest.approx(0.5 + 0.125 / 3, abs=0.04)  # spared a third of the times when all would be dropped
    assert all(choose_kept(sides, 0.0, seed=1, step=step) == {"a", "b", "c", "x", "y"} for step in range(20))


@pytest.mark.parametrize(
    ("towers", "chunk"),
    [(dict(), 2), (dict(), 3), (TOWERS, 3), (dict(TOWERS, model__compare="fused"), 3)],
    ids=["1:1", "1:1 uneven", "2:2 with dropout", "fused"],
)
def test_chunks_give_the_gradient_of_the_whole(towers, chunk, monkeypatch):
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)  # it is drawn by chunk
    options = dict(train_cfg__max_steps=3, train_dataloader__batch_size=8, optim_wrapper__optimizer__type="core.SGD")
    toolbox.train(recipe(ALIGNMENT, **towers, **options), out="whole")
    cached = recipe(ALIGNMENT, **towers, **options, optim_wrapper__grad_cache=dict(chunk_size=chunk))
    toolbox.train(cached, out="chunks")
    a, b = (toolbox.load(f"{name}/last").model.state_dict() for name in ("whole", "chunks"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model__vision__image__head__dim=9), r"one width, and these give: image 9, text 8"),
        (dict(model__weights={"image-words": 1.0}), "names the pair 'image-words', and there are: image-text"),
        (dict(model__losses={"a-b": dict(type="losses.SigLIP")}), "names the pair 'a-b'"),
        (dict(model__weights={"image-text": -1.0}), "at least 0"),
        (dict(model__weights={"image-text": 0.0}), "all pairs have the weight 0"),
        (dict(model__text=dict(text=IMAGE)), "reads images .Patches., and text takes towers of texts"),
        (dict(model__text=dict(image=TEXT)), "both have a tower called 'image'"),
        (dict(model__text={}), "text has no tower"),
        (dict(model__tower_dropout=0.5), "needs several towers"),
        (dict(model__compare="fuse"), "Did you mean 'fused'"),
        (dict(model__positives="text"), "Did you mean 'texts'"),
        (dict(model__vision__image__pool="tokens"), "keeps tokens"),
        (dict(model__loss=None), "without a loss cannot be trained"),
        (dict(model__loss=dict(type="losses.CrossEntropy")), "reads one logit a class"),
        (dict(model__loss=dict(type="losses.MaxSim")), "MaxSim reads tokens"),
        (dict(model__loss=dict(type="losses.Distillation")), "Distillation reads a teacher"),
        (dict(val_evaluator__prompts=["a photo"]), "does not say where the name"),
        (dict(val_evaluator__names=["a", "b"]), "2 names for 4 classes"),
        (dict(val_evaluator__names=["a", "b", "a", "c"]), "2 classes have the same prompt"),
    ],
)
def test_bad_settings_are_one_message(changes, message):
    with pytest.raises(ToolboxError, match=message):
        toolbox.train(recipe(ALIGNMENT, **changes), out="run")


def test_zero_shot_of_a_model_without_texts_is_refused_before_the_run():
    model = dict(type="retrieval.Embedder", backbone=IMAGE["backbone"], pool="mean", loss=dict(type="losses.SupCon"))
    with pytest.raises(ToolboxError, match="this model encodes no texts"):
        toolbox.train(recipe(ALIGNMENT | dict(model=model)), out="run")


def test_the_baseline_leaves_heads_out():
    model = make({"image": image(), "small": image(dim=8, patch=8)})
    outputs = model.baseline(batch_of(model))
    assert outputs["embeddings"].shape == (6, 24)
    assert outputs["text_embeddings"].shape == (6, 12)
    torch.testing.assert_close(outputs["embeddings"].norm(dim=1), torch.ones(6))
