"""Text encoders in a run: trained, stored, saved, loaded, cut, and exported for sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from contract_parts import Captions
from sentence_transformers import SentenceTransformer
from test_contracts_in_runs import ALIGNMENT, recipe

import toolbox
from toolbox.builtins.projection import Projection
from toolbox.errors import ToolboxError
from toolbox.exporters.towers import find_linear_map
from toolbox.utils.sentence_folder import write_tokenizer
from toolbox.utils.tokenizer import build_byte_tokenizer

QWEN3 = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=64
)
BERT = dict(model_type="bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
VIT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8)
PAIRS = dict(type="retrieval.PK", classes=2, per_class=2)
TEXTS = ["black", "a white square of noise", "gray number 3"]
QUERY = dict(type="qwen3.Embedding", name=None, arch=QWEN3, prompt="query", task="Find the image of a shade")


def pair(text: dict, **tower) -> dict:
    """A recipe of an image and a text tower, trained for two steps."""
    head = dict(type="core.Projection", dim=8)
    return recipe(
        ALIGNMENT
        | dict(
            model=dict(
                type="alignment.DualEncoder",
                vision=dict(
                    image=dict(
                        type="core.Tower", backbone=dict(type="dinov3.ViT", name=None, arch=VIT, size=16), head=head
                    )
                ),
                text=dict(text=dict(type="core.Tower", backbone=text, **(dict(head=head) | tower))),
                loss=dict(type="losses.CLIP"),
            ),
            train_dataloader=dict(
                dataset=dict(type="contract.Captions", count=16), sampler=dict(type="core.Shuffled", batch_size=4)
            ),
        ),
        train_cfg__max_steps=2,
        train_cfg__val_interval=None,
        val_dataloader=None,
        val_evaluator=None,
    )


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("tune", [None, dict(mode="lora", rank=2)])
def test_an_export_gives_sentence_transformers_the_embeddings(tune):
    toolbox.train(pair(QUERY | dict(dim=16, tune=tune)), out="run")
    expected = toolbox.load("run").encode_text(TEXTS)
    differences = toolbox.export("run", "exported")
    assert set(differences) >= {
        "text.text.backbone",
        "embedding of text.text.backbone",
        "embedding of vision.image.backbone",
    }
    assert max(differences.values()) < 1e-5
    theirs = SentenceTransformer("exported/text.text.backbone", device="cpu")
    torch.testing.assert_close(torch.from_numpy(theirs.encode(TEXTS)), expected, rtol=0, atol=1e-5)
    without = torch.from_numpy(theirs.encode(TEXTS, prompt=""))
    assert (without - expected).abs().max() > 1e-4, "the instruction changes nothing"
    readme = Path("exported/README.md").read_text()
    assert "Encoders of images and texts" in readme
    assert 'texts = ["a red apple"]' in readme


def test_a_head_that_is_not_linear_is_lines_after_the_folder():
    toolbox.train(pair(QUERY, head=dict(type="core.Projection", dim=8, layers=2)), out="run")
    differences = toolbox.export("run", "exported")
    assert differences["embedding of text.text.backbone"] < 1e-5
    assert 'head["text.text.head.' in Path("exported/README.md").read_text()
    theirs = SentenceTransformer("exported/text.text.backbone", device="cpu")
    assert theirs.encode(TEXTS).shape == (3, 32), "the folder gives the encoder's own vectors"


def test_heads_are_told_apart_by_what_they_compute():
    linear, curved = Projection(dim=4), Projection(dim=4, layers=2)
    for head in (linear, curved):
        head.connect(6)
        head.eval()
    weight, bias = find_linear_map(linear, 6)
    x = torch.randn(5, 6)
    torch.testing.assert_close(x @ weight.T + bias, linear(x))
    assert find_linear_map(curved, 6) is None


@pytest.mark.parametrize("kind", ["clip_text_model", "siglip_text_model", "bert"])
def test_the_model_of_one_text_encoder_is_saved_loaded_and_exported(kind):
    arch = BERT | dict(model_type=kind, max_position_embeddings=40)
    backbone = dict(type="encoders.HFText", name=None, arch=arch, projection=kind != "bert")
    model = dict(type="retrieval.Embedder", backbone=backbone, loss=dict(type="losses.SupCon"))
    config = pair(QUERY) | dict(model=model, train_dataloader=pair(QUERY)["train_dataloader"] | dict(sampler=PAIRS))
    toolbox.train(config, out="run")
    vectors = toolbox.load("run").encode_text(TEXTS)
    assert vectors.shape == (3, 32 if kind != "clip_text_model" else 512)
    assert toolbox.export("run", "exported")["embedding of backbone"] < 1e-5
    with pytest.raises(ToolboxError, match=r"model\.onnx is written from pixels on"):
        toolbox.export("run", "other", onnx=True)


def test_a_frozen_text_encoder_is_stored():
    frozen = QUERY | dict(tune=dict(mode="frozen"))
    stored = toolbox.train(pair(frozen) | dict(features=dict(dtype="fp32")), out="stored")
    live = toolbox.train(pair(frozen), out="live")
    assert stored["features"]["computed"] == 16
    assert live["steps"] == stored["steps"] == 2
    again = toolbox.train(pair(frozen) | dict(features=dict(dtype="fp32")), out="again")
    assert (again["features"]["computed"], again["features"]["found"]) == (0, 16), "a used tokenizer gives another key"
    vectors = [toolbox.load(run).encode_text(TEXTS) for run in ("stored", "live")]
    torch.testing.assert_close(*vectors, rtol=0, atol=1e-4)


def test_the_name_of_a_text_encoder_is_loaded(tmp_path):
    theirs = transformers.BertModel(
        transformers.BertConfig(vocab_size=259, **{k: v for k, v in BERT.items() if k[0] != "m"})
    )
    theirs.save_pretrained(tmp_path / "bert")
    ends = build_byte_tokenizer(["<s>", "<pad>"], ["</s>"], first="<s>", last="</s>", pad="<pad>")
    write_tokenizer(tmp_path / "bert", ends, 64)
    encoder = toolbox.load(str(tmp_path / "bert"))
    assert encoder.encode_text(TEXTS).shape == (3, 32)
    with pytest.raises(ToolboxError, match="cannot encode images: it reads texts"):
        encoder.encode_image(torch.zeros(3, 16, 16, dtype=torch.uint8))


def test_long_texts_are_counted_and_told_once(capsys):
    short = QUERY | dict(prompt="document", task=None, max_length=4)
    results = toolbox.train(pair(short), out="run")
    assert 0 < results["cut_texts"] <= 8
    assert capsys.readouterr().out.count("longer than the model reads") == 1
    long = toolbox.train(pair(short | dict(max_length=64)), out="long")
    assert long["cut_texts"] == 0
    with pytest.warns(UserWarning, match="3 texts are longer than the model reads, of 3 items"):
        toolbox.load("run").encode_text(TEXTS)


def test_long_texts_of_a_store_and_of_an_evaluation_are_counted(capsys):
    short = QUERY | dict(prompt="document", task=None, max_length=4, tune=dict(mode="frozen"))
    evaluated = dict(
        val_dataloader=dict(dataset=dict(type="contract.Captions", count=16), batch_size=4),
        val_evaluator=dict(type="contract.Matching"),
        evaluate_before=False,
    )
    live = toolbox.train(pair(short) | evaluated, out="live")
    counts = [len(text.encode()) + 1 > 4 for index in range(16) for text in Captions(16)[index]["text"]]
    assert live["after"]["cut_texts"] == sum(counts) > 0
    capsys.readouterr()
    toolbox.train(pair(short) | dict(features=dict(dtype="fp32")), out="stored")
    text = f"{sum(counts)} texts are longer than the model reads, among those of train that are stored"
    assert text in capsys.readouterr().out
