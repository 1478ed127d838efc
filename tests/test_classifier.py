"""The classifier: what it computes, trains and refuses, and runs of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretrained import IMAGES
from safetensors.torch import load_file
from same import assert_equal
from test_embedder import Toy
from test_exactness import assert_same, interrupt_at
from toolbox_classification.class_heads import MLP, Linear
from toolbox_classification.classifier import Classifier
from toolbox_losses.cross_entropy import CrossEntropy
from toolbox_losses.supcon import SupCon
from toolbox_retrieval.embedder import Embedder
from torch import nn
from torch.nn import functional

import toolbox
from toolbox import base
from toolbox.base import Batch, l2_normalize
from toolbox.builtins.projection import Projection
from toolbox.builtins.tune import BackboneTuning
from toolbox.engine.assemble import apply_tuning
from toolbox.engine.signals import Interrupted
from toolbox.errors import ToolboxError
from toolbox.utils.export_formats import save_processor

CLASSES = 3
MODEL = [
    "model=dict(type='classification.Classifier',backbone=dict(type='toy.Patches'),pool='mean',"
    "loss=dict(type='losses.CrossEntropy'))",
    "train_dataloader.dataset.per_class=8",
    "val_dataloader.dataset.per_class=8",
]


def batch(rows=6, views=1, **fields):
    torch.manual_seed(0)
    images, labels = torch.randn(rows * views, 5, 4), torch.arange(rows) % CLASSES
    return Batch.example({"image": images}, **{"labels": labels, "views": {"image": views}, **fields})


def model(**arguments) -> Classifier:
    torch.manual_seed(1)
    built = Classifier(backbone=Toy(), **{"loss": CrossEntropy(), **arguments})
    built.connect(classes=CLASSES)
    return built


# --- what it computes --------------------------------------------------------------------------------------------
def test_predictions_are_logits_in_float32_and_pooled_features_of_length_1():
    built, data = model(pool="cls+mean"), batch()
    pooled = built.pool(built.backbone(data.inputs["image"]))
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found, before = built(data, "predict"), built(data, "baseline")
        assert list(before) == ["embeddings"]
        assert {key: value.dtype for key, value in found.items()} == dict.fromkeys(found, torch.float32)
        torch.testing.assert_close(found["logits"], built.head(pooled), rtol=0, atol=0)  # never in half precision
        torch.testing.assert_close(found["embeddings"], l2_normalize(pooled))
        torch.testing.assert_close(before["embeddings"], found["embeddings"])
    assert found["logits"].shape == (6, CLASSES)


@pytest.mark.parametrize("views", [1, 3])
def test_every_view_has_the_label_of_its_item(views):
    built, data = model(), batch(views=views)
    logits = built(data, "encode")["logits"]
    expected = functional.cross_entropy(logits, data.labels.repeat(views))
    torch.testing.assert_close(built(data)["loss"], expected)


def test_mixed_images_have_mixed_labels():
    partner, share = torch.tensor([1, 0, 3, 2, 4, 5]), torch.tensor([0.3, 0.3, 0.9, 0.9, 1.0, 1.0])
    built, data = model(), batch(mixed=(partner, share))
    labels, logits = data.labels, built(batch(), "encode")["logits"]
    each = functional.cross_entropy(logits, labels, reduction="none")
    other = functional.cross_entropy(logits, labels[partner], reduction="none")
    torch.testing.assert_close(built(data)["loss"], (share * each + (1 - share) * other).mean())
    assert not torch.isclose(built(data)["loss"], built(batch())["loss"])


def test_stored_features_stand_for_the_backbone():
    built, data = model(pool="mean"), batch()
    features = built.pool(built.backbone(data.inputs["image"]))
    stored = replace(data, inputs={"image": features.half()}, stored={"image"})
    torch.testing.assert_close(built(stored, "predict")["logits"], built.head(features.half().float()))
    assert built.pooled_backbones().keys() == {"image"}


# --- heads -------------------------------------------------------------------------------------------------------
def test_the_linear_head_starts_as_in_linear_probing():
    head = Linear()
    head.connect(2000, 50)
    assert [type(part) for part in head.stack] == [nn.Linear]
    assert abs(head.stack[0].weight.std() - 0.01) < 2e-4
    assert not head.stack[0].bias.any()
    wide = Linear(dropout=0.5, norm="batch")
    wide.connect(4, 3)
    assert [type(part).__name__ for part in wide.stack] == ["BatchNorm1d", "Dropout", "Linear"]


def test_the_mlp_has_the_shape_of_the_seed():
    head = MLP()
    head.connect(9, 5)
    assert [type(part).__name__ for part in head.stack] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert [tuple(part.weight.shape) for part in head.stack if isinstance(part, nn.Linear)] == [(4, 9), (5, 4)]
    assert head.stack[2].p == 0.1
    deep = MLP(hidden=7, layers=3, dropout=0.0)
    deep.connect(9, 5)
    assert [type(part).__name__ for part in deep.stack] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(dropout=1.0), "dropout=1.0 is no probability"),
        (lambda: Linear(norm="group"), "norm 'group' does not exist"),
        (lambda: MLP(hidden=0), "hidden=0 is no width"),
        (lambda: MLP(layers=1), "2 layers or more, not 1"),
        (lambda: MLP(dropout=-0.1), "dropout=-0.1 is no probability"),
    ],
)
def test_heads_refuse_values_outside_their_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- what it refuses ---------------------------------------------------------------------------------------------
def test_data_without_classes_and_parts_that_do_not_fit_are_refused():
    for classes, said in ((None, "no labels"), (1, "have 1")):
        with pytest.raises(ValueError, match=said):
            Classifier(Toy()).connect(classes)
    with pytest.raises(ValueError, match="Projection gives 512 numbers for 3 classes"):
        Classifier(Toy(), head=Projection()).connect(3)
    with pytest.raises(ValueError, match="keeps tokens"):
        Classifier(Toy(), pool="tokens")
    with pytest.raises(ValueError, match="no labels"):
        Linear().connect(4, None)
    assert "without a loss" in str(Classifier(Toy()).check()[0])
    assert "SupCon compares embeddings" in str(Classifier(Toy(), loss=SupCon()).check()[0])
    assert "CrossEntropy compares logits" in str(Embedder(Toy(), loss=CrossEntropy()).check()[0])
    assert model().check() == []
    with pytest.raises(ValueError, match=r"set model\.loss"):
        model(loss=None)(batch())
    with pytest.raises(ValueError, match="needs labels"):
        model()(batch(labels=None))


DATA = '''
from toy_plugin import Noise
from toolbox.plugin import Component, hookimpl

namespace = "odd"

@hookimpl
def toolbox_components():
    return [Component("dataset", "Odd", f"{__name__}:Odd", "labels of all kinds")]

class Odd(Noise):
    """- `kind`: what is wrong with it."""
    def __init__(self, kind: str = "none", seed: int = 0):
        super().__init__(32, 8, seed)
        self.classes = [f"class {label}" for label in range(4)]
        if kind == "unlabelled":
            self.labels = self.classes = None
        if kind == "one class":
            self.labels, self.classes = [0] * 32, ["all"]
        if kind == "one label":
            self.labels = [2] * 32
        if kind == "outside":
            self.labels[5] = 4
        if kind == "negative":
            self.labels[7] = -1
        if kind == "floats":
            self.labels = [label + 0.5 for label in self.labels]
        if kind == "words":
            self.labels = [self.classes[label] for label in self.labels]
        if kind == "gap":
            self.labels[9] = None
        if kind == "short":
            self.labels = self.labels[:-1]
        if kind == "renamed":
            self.classes[3] = "cats"
        if kind == "absent":
            self.classes = [*self.classes, "never seen"]
    def __len__(self):
        return 32
'''


@pytest.fixture
def odd(toy):
    from toolbox.registry import add_local, get_catalog

    if "odd" not in {plugin.namespace for plugin in get_catalog().plugins}:
        toy()
        Path("odd.py").write_text(DATA)
        add_local(["odd.py"])

    def problems(train: str, val: str = "none") -> str:
        data = [
            f"train_dataloader.dataset=dict(type='odd.Odd',kind='{train}')",
            f"val_dataloader.dataset=dict(type='odd.Odd',kind='{val}')",
            "train_dataloader.sampler=dict(type='core.Shuffled',batch_size=8)",
        ]
        return "\n".join(map(str, toolbox.check_config(toy([*MODEL[:1], *data]))))

    return problems


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("unlabelled", "these data have no labels"),
        ("one class", "the training data have 1"),
        ("one label", "All 32 items have the same label"),
        ("outside", "4 classes, and item 5 has the label 4 (1 such items)"),
        ("negative", "item 7 has the label -1"),
        ("floats", "the label 0.5, which is no integer"),
        ("words", "the label 'class 0', which is no integer"),
        ("gap", "the label None, which is no integer"),
        ("short", "labels of shape (31,) for 32 items"),
    ],
)
def test_labels_that_no_classifier_can_learn_are_told_before_anything_runs(odd, kind, said):
    assert said in odd(kind, kind)


@pytest.mark.parametrize(
    ("kind", "said"), [("negative", "item 7 has the label -1"), ("gap", "the label None"), ("floats", "the label 0.5")]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_label_is_no_class_of_other_models_either(odd, toy, kind, said, split):
    data = f"{split}_dataloader.dataset=dict(type='odd.Odd',kind='{kind}')"
    found = toolbox.check_config(toy([data]))
    assert len(found) == 1
    assert f"{split}_dataloader.dataset" in found[0].where
    assert said in found[0].message


def test_sound_labels_pass(odd):
    assert odd("none") == ""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("renamed", "class number 3 was 'class 3' in training and is 'cats' here"),
        ("absent", "class number 4 was none in training and is 'never seen' here"),
        ("outside", "item 5 has the label 4"),
        ("unlabelled", "It has 0 classes"),
    ],
)
def test_data_to_judge_by_have_the_training_classes(odd, kind, said):
    found = odd("none", kind)
    assert said in found
    assert "val_dataloader.dataset" in found


def test_classes_without_items_are_counted(odd, toy):
    assert odd("absent", "absent") == ""
    data = "train_dataloader.dataset=dict(type='odd.Odd',kind='absent')"
    plan = toolbox.api.plan(toy([*MODEL[:1], data, "val_dataloader=None", "val_evaluator=None"]))
    assert "1 of 5 classes have no item to learn from, such as 'never seen'." in plan.notes


# --- runs --------------------------------------------------------------------------------------------------------
def test_it_learns_a_toy_set_by_heart(toy):
    more = [
        "optim_wrapper.optimizer.lr=0.02",
        "train_cfg.max_steps=120",
        "train_cfg.val_interval=120",
        "default_hooks.checkpoint.interval=120",
        "evaluate_before=False",
        "train_dataloader.augment=None",
        "model.backbone.tune.mode=full",
        "train_dataloader.dataset.seed=11",
    ]
    toolbox.train(toy([*MODEL, *more]), out="run")
    encoder = toolbox.load("run/last", device="cpu")
    noise = toolbox.build(dict(type="toy.Noise", per_class=8, seed=11))
    pictures = torch.stack([encoder.model.preprocess()["image"](noise[index]["image"]) for index in range(64)])
    with torch.no_grad():
        found = encoder.model(Batch.example({"image": pictures}), "predict")["logits"].argmax(1)
    assert found.tolist() == list(noise.labels)


@pytest.mark.parametrize(
    ("tune", "trained"),
    [
        ("None", {"head"}),
        ("dict(mode='frozen')", {"head"}),
        ("dict(mode='full')", {"head", "embed", "block.0", "block.1"}),
        ("dict(mode='last')", {"head", "block.0", "block.1"}),
        ("dict(mode='lora',rank=2)", {"head", "lora"}),
    ],
)
def test_exactly_what_tune_says_trains(toy, tune, trained):
    config = toy(
        [
            *MODEL,
            f"model.backbone.tune={tune}",
            "evaluate_before=False",
            "train_cfg.max_steps=4",
            "val_dataloader=None",
            "val_evaluator=None",
        ]
    )
    toolbox.train(config, out="run")
    after = toolbox.load("run/last", device="cpu").model.state_dict()
    toolbox.train(
        toy(
            [
                *MODEL,
                f"model.backbone.tune={tune}",
                "evaluate_before=False",
                "train_cfg.max_steps=2",
                "optim_wrapper.optimizer.lr=0.0",
                "val_dataloader=None",
                "val_evaluator=None",
            ]
        ),
        out="still",
    )
    before = toolbox.load("still/last", device="cpu").model.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    parts = {
        part
        for part in ("head", "embed", "block.0", "block.1", "lora")
        if any(part in name and not ("lora" in name and part != "lora") for name in moved)
    }
    assert parts == trained


class Normed(Toy):
    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(5), nn.Dropout(0.5)

    def forward(self, inputs, *, layers=1, mask=None):
        return super().forward(self.dropout(self.norm(inputs)))


def test_a_frozen_backbone_stays_in_eval_mode():
    built = Classifier(Normed(), loss=CrossEntropy())
    built.connect(CLASSES)
    assert isinstance(built.backbone.tune, base.Tune)
    assert built.backbone.tune.mode == "frozen"
    apply_tuning(built)
    built.train()
    before = {name: tensor.clone() for name, tensor in built.backbone.state_dict().items()}
    data = batch()
    assert torch.equal(built(data, "encode")["logits"], built(data, "encode")["logits"])
    built(batch())["loss"].backward()
    assert_equal(built.backbone.state_dict(), before)
    assert [name for name, part in built.named_parameters() if part.grad is not None] == [
        "head.stack.0.weight",
        "head.stack.0.bias",
    ]
    # negative control: with another tune it would move
    moving = Classifier(Normed(), loss=CrossEntropy())
    moving.backbone.tune = BackboneTuning("full")
    moving.connect(CLASSES)
    apply_tuning(moving)
    moving.train()
    assert not torch.equal(moving(data, "encode")["logits"], moving(data, "encode")["logits"])
    assert moving.backbone.norm.num_batches_tracked == 2


def test_the_table_of_parts_says_that_the_backbone_is_frozen(toy):
    parts = {part.name: part for part in toolbox.api.plan(toy(MODEL)).parts}
    assert parts["model.backbone"].trainable == 0
    assert parts["model.backbone"].lr is None
    assert parts["model.head"].trainable == parts["model.head"].parameters > 0


def test_frozen_random_weights_are_warned_of_and_trained_ones_are_not(toy, capsys):
    said = "model.backbone is frozen with random weights"
    toolbox.train(toy([*MODEL, "train_cfg.max_steps=2"]), out="frozen")
    assert said in capsys.readouterr().out
    toolbox.train(toy(["train_cfg.max_steps=2"]), out="retrieval")
    start = ["load_from=retrieval/last", "load_parts=['model.backbone']"]
    toolbox.train(toy([*MODEL, *start, "train_cfg.max_steps=2"]), out="taught")
    toolbox.train(toy([*MODEL, "model.backbone.tune.mode=full", "train_cfg.max_steps=2"]), out="full")
    assert said not in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["train_dataloader.mix.type=core.Mix", "train_dataloader.num_workers=2"]])
def test_a_resumed_run_equals_the_uninterrupted_one(toy, monkeypatch, more):
    recipe = [*MODEL, "model.backbone.tune.mode=full", "model.head=dict(type='classification.MLP')", *more]
    toolbox.train(toy(recipe), out="whole")
    interrupt_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        toolbox.train(toy(recipe), out="stopped")
    toolbox.train(toy(recipe), out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))


def test_chunks_of_a_batch_give_the_same_step(toy):
    recipe = [
        *MODEL,
        "model.backbone.tune.mode=full",
        "model.backbone.dropout=0.0",
        "train_cfg.max_steps=3",
        "train_dataloader.mix.type=core.Mix",
        "evaluate_before=False",
    ]
    toolbox.train(toy(recipe), out="whole")
    toolbox.train(toy([*recipe, "optim_wrapper.grad_cache.chunk_size=3"]), out="chunks")
    whole, chunks = (load_file(f"{name}/last/model.safetensors") for name in ("whole", "chunks"))
    for name, tensor in whole.items():
        torch.testing.assert_close(chunks[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tune", ["None", "dict(mode='full')"])
def test_a_backbone_trained_for_retrieval_becomes_a_classifier(toy, tune):
    """Its weights came from no file, so checkpoints hold them, frozen or not."""
    toolbox.train(toy(["train_cfg.max_steps=4"]), out="retrieval")
    start = ["load_from=retrieval/last", "load_parts=['model.backbone']", f"model.backbone.tune={tune}"]
    results = toolbox.train(toy([*MODEL, *start]), out="classify")
    trained, found = (load_file(f"{name}/last/model.safetensors") for name in ("retrieval", "classify"))
    same = {name: torch.equal(found[name], trained[name]) for name in trained if name.startswith("backbone")}
    assert same
    assert all(same.values()) == (tune == "None")
    assert results["before"] == toolbox.evaluate(toy([*MODEL, *start]), device="cpu")
    assert json.loads(Path("classify/last/manifest.json").read_text())["classes"] == 8


def test_a_whole_retrieval_checkpoint_is_refused_with_what_to_take_of_it(toy):
    toolbox.train(toy(["train_cfg.max_steps=2"]), out="retrieval")
    with pytest.raises(ToolboxError, match=r"load_parts=\['model\.backbone'\]"):
        toolbox.train(toy([*MODEL, "load_from=retrieval/last"]), out="classify")


# --- checkpoints -------------------------------------------------------------------------------------------------
def pretrained(folder: Path, width: int = 128) -> str:
    """A ViT of 3 MB on disk, and the override that makes it the backbone."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = dict(hidden_size=width, num_hidden_layers=4, num_attention_heads=2, intermediate_size=4 * width)
    torch.manual_seed(3)
    DINOv3ViTModel(DINOv3ViTConfig(**sizes, patch_size=8, num_register_tokens=0, image_size=16)).save_pretrained(folder)
    save_processor(folder, IMAGES)
    return f"model.backbone=dict(type='dinov3.ViT',name={str(folder)!r},size=16)"


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("head", ["classification.Linear", "classification.MLP"])
def test_a_checkpoint_of_a_frozen_run_is_as_large_as_its_head(toy, tmp_path, head, average):
    few = [f"{name}_dataloader.dataset.per_class=1" for name in ("train", "val")]
    more = [
        pretrained(tmp_path / "weights"),
        f"model.head=dict(type='{head}')",
        "evaluate_before=False",
        "train_dataloader.sampler=dict(type='core.Shuffled',batch_size=8)",
        "train_cfg.max_steps=4",
    ]
    averaged = ["optim_wrapper.average.decay=0.9"] if average else []
    toolbox.train(toy([*MODEL, *few, *more, *averaged]), out="run")
    backbone = sum(file.stat().st_size for file in (tmp_path / "weights").glob("*.safetensors"))
    tensors = load_file("run/last/model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"head"}
    own = sum(tensor.nbytes for tensor in tensors.values())
    assert own < backbone / 50  # what would be noticed
    files = [file for file in Path("run/last/").rglob("*") if file.is_file()]
    assert Path("run/last/model.safetensors").stat().st_size <= 1.1 * own
    assert sum(file.stat().st_size for file in files) <= (4.2 if average else 3.2) * own + 64 * 1024
    restored = toolbox.load("run/last", device="cpu")
    assert restored.encode_image(toolbox.build(dict(type="toy.Noise"))[0]["image"]).shape == (1, 128)


def test_with_an_adapter_it_holds_head_and_adapter(toy, tmp_path):
    more = [
        pretrained(tmp_path / "weights", 32),
        "model.backbone.tune=dict(mode='lora',rank=2)",
        "evaluate_before=False",
        "train_cfg.max_steps=4",
    ]
    toolbox.train(toy([*MODEL, *more]), out="run")
    assert {name.split(".")[0] for name in load_file("run/last/model.safetensors")} == {"head"}
    adapter = load_file("run/last/adapters/backbone/adapter_model.safetensors")
    assert adapter
    assert all("lora" in name for name in adapter)
