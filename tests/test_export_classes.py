"""Exports that tell classes: probes, whatever tells theirs best, and classifiers, with the names of their classes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from test_export import BACKBONES, make_image, predicted, readme, scattered, write
from toolbox_classification.class_heads import MLP
from toolbox_classification.classifier import Classifier
from toolbox_classification.classifiers import LinearLogits, NearestNeighbours
from toolbox_classification.probe import Probe

from toolbox.errors import ToolboxError

NAMES = ["cat", "dog", 'a "quoted" name', "<b>é</b>"]


def fitted(method):
    rows = torch.nn.functional.normalize(torch.randn(12, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    if method == "knn":
        return NearestNeighbours(rows, torch.arange(12) % 3, 5, 0.07)  # it has seen three of the four classes
    return LinearLogits(rows[:4] * 5, torch.tensor([0.1, -0.2, 0.3, 0.0]), 1.0)


def probe(method, chosen=(1, 1), repeats=1):
    torch.manual_seed(0)
    model = Probe(BACKBONES["vit"](), ["cls", "cls+mean"], [0.01, 0.1], repeats)
    model.connect(4)
    scattered(model)
    model.chosen = torch.tensor(chosen)
    model.best = torch.tensor(["linear", "knn", "logistic"].index(method))
    if method != "linear":
        model.fitted[method] = fitted(method)
    return model.eval()


@pytest.mark.parametrize("method", ["linear", "logistic", "knn"])
def test_the_lines_of_a_probe_tell_what_it_tells(method, tmp_path):
    model = probe(method, repeats=2)
    found = write(model, tmp_path / "out", classes=NAMES)
    assert found.keys() == {"backbone", "embedding", "logits"}
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == NAMES
    held = load_file(tmp_path / "out" / "head.safetensors")
    wanted = {
        "linear": ["heads.1.biases.1", "heads.1.weights.1"],
        "knn": ["fitted.knn.labels", "fitted.knn.memory"],
        "logistic": ["fitted.logistic.biases", "fitted.logistic.weights"],
    }
    assert sorted(held) == wanted[method], "what it predicts by, and none of the other heads"
    make_image((32, 32), seed=1).save(tmp_path / "a.png")
    names = readme(tmp_path / "out", tmp_path / "a.png")
    logits = predicted(model, names["pixels"])["logits"]
    torch.testing.assert_close(names["logits"], logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(names["probabilities"], logits.softmax(dim=1), rtol=0, atol=1e-5)
    assert names["answers"] == [NAMES[int(logits.argmax())]]
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"The classes are told by {model.predictor}." in text
    assert "classes.json holds the names of the 4 classes" in text


def test_other_heads_of_a_probe_than_the_chosen_give_other_numbers(tmp_path):
    """The comparison of an export can fail."""
    model = probe("linear", chosen=(0, 1))
    right = model.in_plain_torch()
    assert right != probe("linear", chosen=(1, 0)).in_plain_torch()
    model.in_plain_torch = lambda: [line.replace("heads.1", "heads.0") for line in right]
    with pytest.raises(ToolboxError, match="logits in plain torch differ"):
        write(model, tmp_path / "out", classes=NAMES)
    assert not (tmp_path / "out").exists()


def test_a_probe_of_several_blocks_is_its_backbone_and_all_heads(tmp_path):
    torch.manual_seed(0)
    model = Probe(BACKBONES["vit"](), ["cls:2"], [0.1])
    model.connect(4)
    model.chosen = torch.tensor([0, 0])
    assert write(model.eval(), tmp_path / "out", classes=NAMES).keys() == {"backbone"}
    assert "heads.0.weights.0" in load_file(tmp_path / "out" / "head.safetensors")
    assert "reads the last 2 blocks" in (tmp_path / "out" / "README.md").read_text()


def test_a_classifier_names_its_classes(tmp_path):
    torch.manual_seed(0)
    model = Classifier(BACKBONES["vit"](), "cls+mean", MLP(hidden=5))
    model.connect(4)
    scattered(model)
    write(model, tmp_path / "out", classes=NAMES)
    make_image((32, 32), seed=1).save(tmp_path / "a.png")
    names = readme(tmp_path / "out", tmp_path / "a.png")
    assert names["answers"] == [NAMES[int(predicted(model, names["pixels"])["logits"].argmax())]]
    write(model, tmp_path / "unnamed")
    assert not (tmp_path / "unnamed" / "classes.json").exists()
    names = readme(tmp_path / "unnamed", tmp_path / "a.png")
    assert "answers" not in names
    assert names["probabilities"].shape == (1, 4)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("logistic", "linear")]


@pytest.mark.parametrize("method", ["classifier", *SLOW])
def test_onnx_tells_classes(method, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if method == "classifier":
        model = Classifier(BACKBONES["vit"](), "cls")
        model.connect(4)
        scattered(model)
    else:
        model = probe(method)
    write(model, tmp_path / "out", classes=NAMES, onnx=True)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert {output.name for output in session.get_outputs()} == {"embeddings", "logits", "probabilities"}
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == NAMES
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    given = session.run(["probabilities"], {"image": pixels.numpy()})[0]
    expected = predicted(model, pixels)["logits"].softmax(dim=1)
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-5)


def test_neighbours_are_no_onnx_file(tmp_path):
    with pytest.raises(ToolboxError, match=r"k-NN looks training embeddings up.*model\.classifier='linear'"):
        write(probe("knn"), tmp_path / "out", classes=NAMES, onnx=True)
    assert not (tmp_path / "out").exists()
