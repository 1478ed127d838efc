"""The jobs to come as whole runs: the toys of the plugin `contract`, trained, interrupted, resumed and loaded."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path

import pytest
import torch
from contract_models import DualEncoder, Pretrainer
from contract_parts import Contrastive, Letters, Patches, RandomCrops, Shades
from test_exactness import assert_same, interrupt_at, same, trained

import toolbox
from toolbox.config import apply_changes
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import loading
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
from toolbox.engine.signals import Interrupted

STEPS = 6
ADAMW = dict(type="core.AdamW", lr=1e-3, weight_decay=0.05)
RUN = dict(
    plugins=[str(Path(__file__).with_name("contract_plugin.py"))],
    optim_wrapper=dict(optimizer=ADAMW, clip_grad=dict(max_norm=1.0)),
    train_cfg=dict(max_steps=STEPS, val_interval=3),
    default_hooks=dict(logger=dict(interval=2), checkpoint=dict(interval=1, max_keep_ckpts=STEPS)),
    env_cfg=dict(device="cpu"),
    randomness=dict(seed=3),  # not the seed of toolbox.load: what it does not find in the checkpoint differs
)


def data(dataset: str, augment: dict | None = None) -> dict:
    train = dict(dataset=dict(type=dataset, count=16), batch_size=4, num_workers=0, augment=augment)
    return dict(train_dataloader=train, val_dataloader=dict(dataset=dict(type=dataset), batch_size=4, num_workers=0))


HEAD = dict(type="core.Projection", dim=8)
# the first vision tower is a frozen one as it came; the second text tower is frozen as it was initialised
ALIGNMENT = RUN | dict(
    model=dict(
        type="contract.DualEncoder",
        vision=dict(
            image=dict(backbone=dict(type="contract.Patches", tune=dict(mode="frozen")), pool="mean", head=HEAD),
            fine=dict(
                type="core.Tower",
                backbone=dict(type="contract.Patches", dim=8, patch=8, weights="small"),
                pool=dict(type="core.Pool", mode="mean"),
                head=HEAD,
            ),
        ),
        text=dict(
            text=dict(backbone=dict(type="contract.Letters", weights="letters"), pool="last", head=HEAD),
            title=dict(
                backbone=dict(type="contract.Letters", dim=10, tune=dict(mode="frozen")), pool="last", head=HEAD
            ),
        ),
        loss=dict(type="contract.Contrastive"),
    ),
    **data("contract.Shades"),
    val_evaluator=dict(type="contract.Matching"),
)
SWAP = RUN | dict(
    model=dict(
        type="contract.SwappedVisionLanguage",
        vision=dict(type="contract.Patches", prefix=5, size=[8, 24]),
        language=dict(type="contract.LanguageModel", weights="language"),
    ),
    **data("contract.Questions"),
    val_evaluator=dict(type="contract.Answers"),
)
PRETRAINING = RUN | dict(
    model=dict(
        type="contract.Pretrainer",
        backbone=dict(type="contract.Patches", masked=True),
        anchor=dict(type="contract.Patches", weights="anchor", tune=dict(mode="frozen")),
    ),
    **data(
        "contract.Shades",
        {
            "global_crops": dict(type="contract.RandomCrops", views=2),
            "local_crops": dict(type="contract.RandomCrops", views=4),
        },
    ),
    val_evaluator=dict(type="retrieval.Recall", ks=[1]),
)
JOBS = {"alignment": ALIGNMENT, "swap": SWAP, "pretraining": PRETRAINING}


def recipe(job: dict, **overrides) -> dict:
    """A copy of a recipe with changes, `model__momentum=0.5`; its plugin is loaded."""
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return apply_changes(job, changes, job["plugins"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def spied(monkeypatch):
    """`spied(cls, name, look)`: a list of what `look(self, *arguments)` returned at each call of a method."""

    def spy(cls, name, look):
        original, seen = getattr(cls, name), []

        def method(self, *arguments):
            seen.append(look(self, *arguments))
            return original(self, *arguments)

        monkeypatch.setattr(cls, name, method)
        return seen

    return spy


def stop_and_resume(config: dict, step: int, monkeypatch) -> Path:
    """A run that was interrupted during `step` and resumed; its folder."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(Interrupted):
            toolbox.train(config, out="stopped")
    assert checkpoints.read("stopped/last").step == step
    toolbox.train(config, out="stopped", resume=True)
    return Path("stopped")


def weights(step: int | str, folder: str = "whole") -> dict[str, torch.Tensor]:
    return checkpoints.read(f"{folder}/{step if isinstance(step, str) else f'checkpoint-{step}'}").model_tensors()


def moved(first: dict, second: dict) -> set[str]:
    """The tensors that differ."""
    return {name for name in first if not torch.equal(first[name], second[name])}


def optimized(folder: str) -> list[str]:
    """Names of the parameters that the optimizer of a run has."""
    return json.loads(Path(folder, "last/state.json").read_text())["update"]["names"]


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("job", JOBS)
def test_a_resumed_run_equals_the_uninterrupted_one(job, step, monkeypatch):
    config = recipe(JOBS[job])
    results = toolbox.train(config, out="whole")
    assert results["steps"] == STEPS
    assert results["before"].keys() == results["after"].keys()
    assert_same(Path("whole"), stop_and_resume(config, step, monkeypatch))
    assert moved(weights(1), weights("last"))


@pytest.mark.parametrize("job", JOBS)
def test_workers_see_the_same_items(job):
    toolbox.train(recipe(JOBS[job]), out="whole")
    toolbox.train(recipe(JOBS[job], train_dataloader__num_workers=2), out="workers")
    assert_same(Path("whole"), Path("workers"))


@pytest.mark.parametrize("job", JOBS)
def test_a_loaded_model_predicts_what_the_run_measured(job):
    config = recipe(JOBS[job])
    after = toolbox.train(config, out="whole")["after"]
    assert toolbox.evaluate(config, "whole") == after
    encoder = toolbox.load("whole/last")
    state = encoder.model.state_dict()
    saved = weights("last")
    assert not moved(saved, state)
    data = Shades() if job != "swap" else toolbox.build(dict(type="contract.Questions"))
    batch = BatchBuilder(data, input_specs(encoder.model))[[(index, index) for index in range(8)]]
    with torch.inference_mode():
        outputs = encoder.model(batch, "predict")
        for tensor in state.values():
            tensor.add_(0.1 * torch.randn_like(tensor))
        others = encoder.model(batch, "predict")
    assert all(len(output) in (8, 16) and not torch.equal(output, others[name]) for name, output in outputs.items())


# --- alignment ---------------------------------------------------------------------------------------------------
def test_frozen_towers_stay_as_they_are_and_are_saved_only_if_they_cannot_be_had_again(spied):
    modes = spied(DualEncoder, "loss", lambda model, batch: [t.backbone.block.training for t in model.towers.values()])
    toolbox.train(recipe(ALIGNMENT), out="whole")
    assert modes == [[False, True, True, False]] * STEPS
    assert {name.rsplit(".", 2)[0] for name in optimized("whole")} >= {
        "vision.fine.backbone",
        "text.text.backbone",
        "vision.image.head.stack",
    }
    frozen = ("vision.image.backbone", "text.title.backbone")
    assert not [name for name in optimized("whole") if name.startswith(frozen)]

    saved = weights("last")
    kept = [name for name in saved if name.startswith("vision.image.backbone.")]
    assert not kept, "a tower with weights_id was saved"
    assert checkpoints.read("whole/last").manifest["frozen"].keys() == {"vision.image.backbone"}
    own = {name for name in saved if name.startswith("text.title.backbone.")}
    whole = {f"text.title.backbone.{name}" for name in Letters().state_dict()}
    assert own == whole, "a tower without weights_id was left out"
    changed_names = moved(weights(1), saved)
    assert not own & changed_names
    trained = {".".join(name.split(".")[:3]) for name in changed_names if name.startswith(("vision.", "text."))}
    heads = {"vision.image.head", "vision.fine.head", "text.text.head", "text.title.head"}
    assert trained == heads | {"vision.fine.backbone", "text.text.backbone"}

    model = toolbox.load("whole/last").model
    as_it_came = Patches()
    as_it_came.load_weights()
    assert same(model.vision["image"].backbone.state_dict(), as_it_came.state_dict())
    assert all(torch.equal(model.state_dict()[name], saved[name]) for name in own)


def test_other_frozen_weights_are_refused():
    toolbox.train(recipe(ALIGNMENT, train_cfg__max_steps=1), out="whole")
    with pytest.raises(toolbox.ToolboxError, match=r"frozen weights of vision\.image\.backbone \(other\)"):
        toolbox.load("whole", overrides={"model.vision.image.backbone.weights": "other"})


def test_every_tower_loads_its_weights_once_and_only_frozen_ones_when_resuming(spied, monkeypatch):
    loaded = [spied(cls, "load_weights", lambda tower: tower.weights_id) for cls in (Patches, Letters)]
    toolbox.train(recipe(ALIGNMENT), out="whole")
    assert [sorted(map(str, seen)) for seen in loaded] == [["small", "toy"], ["None", "letters"]]
    for seen in loaded:
        seen.clear()
    stop_and_resume(recipe(ALIGNMENT), 3, monkeypatch)
    assert [seen[2:] for seen in loaded] == [["toy"], []], "the checkpoint brings everything else"


def test_a_learned_scale_is_clamped_in_every_step_also_after_a_resume(monkeypatch):
    config = recipe(ALIGNMENT, model__loss__scale=400.0, optim_wrapper__parts={"model.criterion": dict(lr=1e-2)})
    toolbox.train(config, out="whole")
    folder = stop_and_resume(config, 3, monkeypatch)
    assert_same(Path("whole"), folder)
    scales = [weights(step, "stopped")["criterion.log_scale"].item() for step in range(1, STEPS + 1)]
    assert scales[0] == pytest.approx(math.log(100))
    assert max(scales) <= math.log(100) + 1e-6
    assert len(set(scales)) > 1, "it is learned"
    assert toolbox.load("stopped/last").model.criterion.log_scale.item() == scales[-1]

    monkeypatch.setattr(Contrastive, "after_step", lambda self: None)
    toolbox.train(config, out="free")
    assert weights("last", "free")["criterion.log_scale"].item() > math.log(200), "nothing had to be clamped"


# --- a swapped vision tower --------------------------------------------------------------------------------------
def test_parts_train_at_their_own_rate():
    parts = {"model.merger": dict(lr=1e-2), "model.language.block": dict(lr=1e-3)}
    optimizer = dict(type="core.AdamW", lr=0.0, weight_decay=0.0)
    toolbox.train(recipe(SWAP, optim_wrapper=dict(optimizer=optimizer, parts=parts)), out="whole")
    first, second = weights(1), weights(2)
    names = moved(first, second)
    assert {name.rsplit(".", 1)[0] for name in names} == {"merger.0", "merger.1", "language.block"}
    for part, settings in parts.items():
        inside = [name for name in names if f"model.{name}".startswith(part)]
        largest = max((second[name] - first[name]).abs().max().item() for name in inside)
        # Adam's steps are about as long as the rate says
        assert 0.5 * settings["lr"] < largest < 1.5 * settings["lr"]


# --- pretraining -------------------------------------------------------------------------------------------------
def test_the_teacher_is_saved_and_goes_on_from_where_it_was(monkeypatch):
    config = recipe(PRETRAINING)
    toolbox.train(config, out="whole")
    saved = weights("last")
    student = {name for name in saved if name.startswith("student.")}
    teacher = {name.replace("student", "teacher", 1) for name in student}
    assert teacher == {name for name in saved if name.startswith("teacher.")}
    assert teacher <= moved(weights(1), saved) | {"teacher.backbone.mask_token"}
    assert not teacher & set(optimized("whole"))
    assert not any(torch.equal(saved[name], saved[name.replace("teacher", "student", 1)]) for name in teacher)

    shades, encoder = Shades(), toolbox.load("whole/last")
    embeddings = encoder.encode_image([shades[index]["image"] for index in range(4)])
    assert embeddings.shape == (4, 16)
    model = copy.deepcopy(encoder.model)
    model.teacher.load_state_dict(model.student.state_dict())
    encoder.model = model
    assert not torch.allclose(embeddings, encoder.encode_image([shades[index]["image"] for index in range(4)]))

    # negative control: a teacher that starts again as a copy of the student makes another run
    original = loading.load_into

    def forgetful(model, checkpoint):
        original(model, checkpoint)
        model.weights_ready()

    monkeypatch.setattr(loading, "load_into", forgetful)
    assert not same(trained(Path("whole"))[0], trained(stop_and_resume(config, 3, monkeypatch))[0])


def test_a_frozen_teacher_that_is_no_input_is_loaded_once_and_tuned(spied, monkeypatch):
    loaded = spied(Patches, "load_weights", lambda tower: tower.weights_id)
    anchors = spied(Pretrainer, "loss", lambda model, batch: (model.anchor, model.anchor not in model.inputs.values()))
    config = recipe(PRETRAINING)
    toolbox.train(config, out="whole")
    assert sorted(loaded) == ["anchor", "toy"], "the moving-average teacher is a copy, and loads nothing"
    anchor, apart = anchors[-1]
    assert apart
    assert anchor.frozen
    assert not any(module.training for module in anchor.modules())
    as_it_came = Patches(weights="anchor")
    as_it_came.load_weights()
    assert same(anchor.state_dict(), as_it_came.state_dict())
    assert not [name for name in optimized("whole") if name.startswith("anchor")]
    assert not [name for name in weights("last") if name.startswith("anchor")]
    assert checkpoints.read("whole/last").manifest["frozen"].keys() == {"anchor"}
    loaded.clear()
    stop_and_resume(config, 3, monkeypatch)
    assert sorted(loaded[:2]) == ["anchor", "toy"]
    assert loaded[2:] == ["anchor"], "the checkpoint brings everything else"

    other = recipe(PRETRAINING, model__anchor__weights="another", train_cfg__max_steps=1)
    toolbox.train(other, out="another")
    assert moved(weights(1), weights(1, "another")), "the anchor teaches nothing"


def test_a_teacher_without_weights_of_its_own_is_saved():
    config = recipe(PRETRAINING, model__anchor__weights=None, train_cfg__max_steps=1)
    toolbox.train(config, out="whole")
    own = {name: tensor for name, tensor in weights("last").items() if name.startswith("anchor")}
    assert own.keys() == {f"anchor.{name}" for name in Patches().state_dict()}
    assert not moved(own, toolbox.load("whole").model.state_dict())


def test_inputs_with_augments_of_their_own_get_views_of_their_own(spied):
    batches = spied(Pretrainer, "loss", lambda model, batch: batch)
    chances = spied(RandomCrops, "__call__", lambda crops, image, size: (size, random.getstate()))
    toolbox.train(recipe(PRETRAINING), out="whole")
    assert [batch.views for batch in batches] == [{"global_crops": 2, "local_crops": 4}] * STEPS
    assert batches[0].inputs["global_crops"].shape == (8, 3, 16, 16)
    assert batches[0].inputs["local_crops"].shape == (16, 3, 8, 8)
    by_input = [[state for size, state in chances if size == wanted] for wanted in ((16, 16), (8, 8))]
    assert [len(states) for states in by_input] == [4 * STEPS, 4 * STEPS]
    assert len({state for states in by_input for state in states}) == 8 * STEPS, "two views share their chance"

    chances.clear()
    crops = dict(type="contract.RandomCrops", views=2)
    toolbox.train(recipe(PRETRAINING, train_dataloader__augment=crops), out="shared")
    assert len({state for _, state in chances}) == 4 * STEPS, "one augment gives all inputs the same view"


def test_an_augment_for_one_input_leaves_the_other_as_it_is(spied):
    batches = spied(Pretrainer, "loss", lambda model, batch: batch)
    augment = {"global_crops": dict(type="contract.RandomCrops", views=2)}
    toolbox.train(recipe(PRETRAINING, train_dataloader__augment=augment), out="whole")
    assert batches[0].views == {"global_crops": 2, "local_crops": 1}
