"""Text encoders of transformers: that library's and sentence-transformers' own numbers, and what is refused."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from toolbox_encoders.hf_text import HFText
from toolbox_encoders.hf_vision import HFVision

from toolbox.base.exported_backbone import run_lines
from toolbox.builtins.tune import BackboneTuning
from toolbox.errors import ToolboxError
from toolbox.testing import check_backbone
from toolbox.utils.pool import TokenPool
from toolbox.utils.sentence_folder import append_dense, read_sentence_settings, write_tokenizer
from toolbox.utils.tokenizer import Tokenizer, build_byte_tokenizer

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
WORDS = dict(vocab_size=259, bos_token_id=0, pad_token_id=1, eos_token_id=258)
TEXTS = ["a red apple", "two green pears on a wooden table, one of them half eaten", "x"]
BYTES = build_byte_tokenizer(["<s>", "<pad>"], ["</s>"], first="<s>", last="</s>", pad="<pad>")
IMAGE = dict(image_size=32, patch_size=8, **SMALL)
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
}


def small(kind: str = "bert", arch: dict | None = None, **arguments) -> HFText:
    torch.manual_seed(0)
    fields = dict(model_type=kind, max_position_embeddings=64, **SMALL)
    return HFText(name=None, arch=fields | (arch or {}), **arguments).eval()


def load(folder, cls=HFText, **arguments):
    encoder = cls(str(folder), **arguments).eval()
    encoder.load_weights()
    return encoder


def read(encoder: HFText, texts: list[str]) -> dict[str, torch.Tensor]:
    preprocess = encoder.preprocess()
    return preprocess.finish(preprocess.collate([preprocess(text) for text in texts]))


@torch.no_grad()
def embed(encoder: HFText, texts: list[str]) -> torch.Tensor:
    return TokenPool("cls")(encoder(read(encoder, texts)))


def published(folder, kind: str = "bert", tokenizer: Tokenizer = BYTES, **fields):
    """A model of random weights with a tokenizer, as on the Hub."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, max_position_embeddings=80, **(SMALL | WORDS | fields))
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder, tokenizer, 64)
    return model


def pair(folder, kind: str):
    """A pair of towers of random weights, as on the Hub."""
    torch.manual_seed(0)
    words = dict(max_position_embeddings=24, **SMALL, **WORDS) | ({"projection_size": 32} if kind == "siglip" else {})
    config = transformers.AutoConfig.for_model(kind, text_config=words, vision_config=IMAGE)
    if kind == "clip":
        config.projection_dim = 16
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder, BYTES, 24)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model


# --- contracts ---------------------------------------------------------------------------------------------------
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
CASES = [("bert", NO_DROPOUT, {}), ("clip_text_model", {}, dict(projection=True)), ("siglip_text_model", {}, {})]


@pytest.mark.parametrize(("kind", "arch", "arguments"), CASES)
def test_the_contract(kind, arch, arguments):
    check_backbone(lambda: small(kind, arch, **arguments))


@pytest.mark.parametrize("kind", ["mpnet", "roberta", "modernbert", "t5"])
def test_other_kinds_are_built_and_count_their_positions(kind):
    arch = dict(d_model=32, num_layers=2, num_heads=2, d_ff=64, d_kv=16) if kind == "t5" else {}
    encoder = HFText(name=None, arch=dict(model_type=kind, **arch)) if arch else small(kind)
    encoder.eval()
    assert encoder.max_length == {"mpnet": 62, "roberta": 62, "modernbert": 64, "t5": 512}[kind]
    vector = embed(encoder, ["x" * 1000])  # a text of all positions
    assert vector.shape == (1, 32)


# --- the numbers of other libraries ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["bert", "mpnet"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"])
def test_it_pools_as_its_files_of_sentence_transformers_say(kind, pooling, tmp_path):
    published(tmp_path / "bare", kind)
    modules = [Transformer(str(tmp_path / "bare")), Pooling(32, pooling_mode=pooling), Normalize()]
    theirs = SentenceTransformer(modules=modules, device="cpu")
    theirs.save(str(tmp_path / "whole"))
    encoder = load(tmp_path / "whole")
    expected = torch.from_numpy(theirs.encode(TEXTS))
    vectors = torch.nn.functional.normalize(embed(encoder, TEXTS), dim=-1)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    if pooling != "cls":
        other = torch.nn.functional.normalize(embed(load(tmp_path / "whole", pooling="cls"), TEXTS), dim=-1)
        assert (other - expected).abs().max() > 1e-3, "the poolings cannot be told apart"


def test_without_such_files_it_averages_tokens(tmp_path):
    theirs = published(tmp_path)
    ids = torch.tensor([BYTES.encode(TEXTS[0])[0]])
    with torch.no_grad():
        expected = theirs(input_ids=ids).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(embed(load(tmp_path), TEXTS)[:1], expected, rtol=0, atol=1e-5)


def test_old_files_of_sentence_transformers(tmp_path):
    published(tmp_path)
    described = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(described))
    types = [("", "sentence_transformers.models.Transformer"), ("1_Pooling", "sentence_transformers.models.Pooling")]
    (tmp_path / "modules.json").write_text(json.dumps([dict(path=path, type=kind) for path, kind in types]))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(dict(max_seq_length=12, do_lower_case=True)))
    settings = read_sentence_settings(tmp_path)
    assert (settings.pooling, settings.max_length, settings.lowercase) == ("cls", 12, True)
    encoder = load(tmp_path)
    assert encoder.max_length == 12
    torch.testing.assert_close(embed(encoder, ["A Red"]), embed(encoder, ["a red"]))
    assert load(tmp_path, max_length=20).max_length == 20


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_the_towers_of_a_pair_encode_as_transformers_does(kind, tmp_path):
    theirs = pair(tmp_path, kind)
    text, image = load(tmp_path, projection=True), load(tmp_path, HFVision, projection=True)
    options = dict(padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    inputs = tokenizer(TEXTS, **options)
    inputs = inputs if kind == "clip" else {"input_ids": inputs["input_ids"]}
    pixels = torch.randn(3, 3, 32, 32)
    out = theirs(
        pixel_values=pixels, **{name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    )
    width = 16 if kind == "clip" else 32
    assert (text.dim, image.dim) == (width, width)
    ours = torch.nn.functional.normalize(embed(text, TEXTS), dim=-1)
    torch.testing.assert_close(ours, out.text_embeds, rtol=0, atol=1e-5)
    ours = torch.nn.functional.normalize(TokenPool("cls")(image(pixels)), dim=-1)
    torch.testing.assert_close(ours, out.image_embeds, rtol=0, atol=1e-5)
    for encoder, name, given in ((text, "pooled", dict(texts=TEXTS)), (image, "tokens", dict(pixels=pixels))):
        again = load(tmp_path, type(encoder), projection=True)
        again.load_state_dict(encoder.state_dict())
        exported = again.export(tmp_path / name)
        lines = [*exported.imports, *exported.load, *exported.texts, *exported.tokens]
        values = run_lines(lines, folder=str(tmp_path / name), **given)[name]
        values = values if name == "pooled" else values[:, 0]
        expected = out.text_embeds if name == "pooled" else out.image_embeds
        torch.testing.assert_close(torch.nn.functional.normalize(values, dim=-1), expected, rtol=0, atol=1e-5)


def test_clip_without_its_projection_has_its_own_width(tmp_path):
    theirs = pair(tmp_path, "clip")
    encoder = load(tmp_path)
    assert encoder.dim == 32
    with torch.no_grad():
        expected = theirs.text_projection(embed(encoder, TEXTS))
    torch.testing.assert_close(embed(load(tmp_path, projection=True), TEXTS), expected, rtol=0, atol=1e-5)


# --- padding and length ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["bert", "mpnet", "clip_text_model"])
@torch.no_grad()
def test_left_right_and_no_padding_give_the_same(kind):
    encoder = small(kind)
    right = read(encoder, TEXTS)
    left = {name: value.clone() for name, value in right.items()}
    for row, count in enumerate(right["attention_mask"].sum(dim=1).tolist()):
        for value in left.values():
            value[row] = value[row].roll(-count)
    alone = torch.cat([embed(encoder, [text]) for text in TEXTS])
    assert left["attention_mask"][:, -1].all()
    for inputs in (left, right):
        for pool in ("cls", "mean"):
            pooled = TokenPool(pool)(encoder(inputs))
            expected = torch.cat([TokenPool(pool)(encoder(read(encoder, [text]))) for text in TEXTS])
            torch.testing.assert_close(pooled, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(embed(encoder, TEXTS), alone, rtol=0, atol=2e-6)


def test_a_long_text_is_cut_before_its_end():
    preprocess = small(max_length=8, prompt="q: ").preprocess()
    item = preprocess("a long text")
    assert item.cut
    assert item.ids.tolist() == [*BYTES.encode("q: a l")[0][:7], 258]
    assert not preprocess("abc").cut
    assert preprocess.example(2)["attention_mask"].shape == (2, 8)


def test_pickles_are_the_same_before_and_after_use():
    preprocess = small().preprocess()
    before = pickle.dumps(preprocess)
    preprocess("x" * 100)
    assert pickle.dumps(preprocess) == before
    assert preprocess.tokenizer == pickle.loads(before).tokenizer


def test_what_a_file_says_of_padding_and_truncation_is_left_out():
    opened = BYTES.open()
    opened.enable_truncation(4)
    opened.enable_padding(length=9)
    assert Tokenizer(opened.to_str(), BYTES.pad) == BYTES


def test_lora_on_a_text_encoder():
    encoder = small("clip_text_model")
    BackboneTuning("lora", rank=2).apply(encoder)
    encoder(read(encoder, TEXTS)).tokens.sum().backward()
    assert {name for name, p in encoder.named_parameters() if p.grad is not None} == encoder.adapter.parameter_names()


# --- what is refused ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(projection=True), "no tower of a pair such as CLIP"),
        (dict(max_length=65), "at most 64"),
        (dict(pooling="first"), "pooling must be one of mean, cls"),
        (dict(arch=dict(hidden_sizes=3)), "Did you mean 'hidden_size'"),
        (dict(arch=dict(vocab_size=100)), "vocab_size must be at least 259"),
        (dict(kind="vit", arch=dict(max_position_embeddings=64)), "'vit' has no field"),
    ],
)
def test_arguments_that_fit_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_an_image_encoder_has_no_texts(tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**IMAGE)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no text encoder.*encoders\.HFVision"):
        HFText(str(tmp_path))


def test_modules_that_are_not_read(tmp_path):
    published(tmp_path)
    HFText(str(tmp_path)).export(tmp_path)
    append_dense(tmp_path, torch.eye(32))
    with pytest.raises(ValueError, match="Dense after the pooling, which is not read"):
        HFText(str(tmp_path))
    assert HFText(str(tmp_path), pooling="mean").dim == 32


def test_a_folder_without_a_tokenizer(tmp_path):
    published(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(OSError, match="has no tokenizer"):
        HFText(str(tmp_path)).find_weights()


def test_a_tokenizer_of_another_vocabulary(tmp_path):
    published(tmp_path, vocab_size=120, eos_token_id=2)
    with pytest.raises(ValueError, match="ids up to 258, and the embedding table of the model 120 rows"):
        HFText(str(tmp_path)).find_weights()


def test_an_added_token_beyond_the_table_is_refused_in_its_text(tmp_path):
    opened = BYTES.open()
    opened.add_tokens(["<new>"])
    published(tmp_path, tokenizer=Tokenizer(opened.to_str(), 1))
    preprocess = load(tmp_path).preprocess()
    assert not preprocess("fine").cut
    with pytest.raises(ValueError, match="token '<new>' of id 259, and the embedding table has 259 rows"):
        preprocess("a <new> text")


def test_a_tower_of_clip_needs_the_end_of_texts(tmp_path):
    fields = json.loads(BYTES.content) | {"post_processor": None}
    published(tmp_path, "clip_text_model", tokenizer=Tokenizer(json.dumps(fields), 1))
    with pytest.raises(ValueError, match=r"ends texts with the id .* and the model reads them at 258"):
        HFText(str(tmp_path)).find_weights()


def test_a_tokenizer_other_than_the_checkpoints(tmp_path):
    published(tmp_path)
    state = load(tmp_path).state_dict()
    load(tmp_path).load_state_dict(state)
    other = build_byte_tokenizer(["<pad>", "<s>"], ["</s>"], first="<s>", last="</s>", pad="<pad>")
    write_tokenizer(tmp_path, other, 64)
    with pytest.raises(ToolboxError, match="not the one that the checkpoint was trained with"):
        HFText(str(tmp_path)).load_state_dict(state)


def test_names_that_are_nowhere(monkeypatch):
    with pytest.raises(ValueError, match="There is no folder"):
        HFText("all-mpnet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="hf download sentence-transformers/all-mpnet-base-v2"):
        HFText()
