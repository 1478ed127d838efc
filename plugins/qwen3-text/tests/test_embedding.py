"""Qwen3-Embedding on small random encoders: pooling, padding, instructions, sizes, and what is refused."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from tokenizers import processors
from toolbox_qwen3.embedding import Embedding
from toolbox_qwen3.released import RELEASED, TERMINATOR
from transformers import Qwen3Config, Qwen3Model

from toolbox.builtins.quantizing.quantize import LinearQuantization as Quantizer
from toolbox.builtins.tune import BackboneTuning
from toolbox.errors import ToolboxError
from toolbox.testing import check_component, check_plugin
from toolbox.utils.pool import TokenPool
from toolbox.utils.sentence_folder import write_tokenizer
from toolbox.utils.tokenizer import Tokenizer, build_byte_tokenizer

ARCH = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=64,
)
TEXTS = ["a red apple", "two green pears on a wooden table", "x"]
END = 256


def small(**arguments) -> Embedding:
    torch.manual_seed(0)
    return Embedding(name=None, arch=ARCH, **arguments).eval()


def read(encoder: Embedding, texts: list[str]) -> dict[str, torch.Tensor]:
    preprocess = encoder.preprocess()
    return preprocess.finish(preprocess.collate([preprocess(text) for text in texts]))


def published(folder, tokenizer: Tokenizer | None = None, **fields):
    """An encoder as it is on the Hub."""
    torch.manual_seed(1)
    model = Qwen3Model(Qwen3Config(**(ARCH | dict(vocab_size=260) | fields))).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder, tokenizer or build_byte_tokenizer(after=[TERMINATOR], last=TERMINATOR), 512)
    return model


def test_the_contracts():
    check_plugin("qwen3")
    check_component("qwen3.Embedding", name=None, arch=ARCH, dim=16, prompt="query")


# --- pooling and padding -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("pool", ["cls", "last"])
@torch.no_grad()
def test_left_right_and_no_padding_give_the_same(pool):
    encoder, pool = small(), TokenPool(pool)
    right = read(encoder, TEXTS)
    left = {name: value.clone() for name, value in right.items()}
    for row, count in enumerate(right["attention_mask"].sum(dim=1).tolist()):
        for value in left.values():
            value[row] = value[row].roll(-count)
    assert left["attention_mask"][:, -1].all()
    alone = torch.cat([pool(encoder(read(encoder, [text]))) for text in TEXTS])
    torch.testing.assert_close(pool(encoder(right)), alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(pool(encoder(left)), alone, rtol=0, atol=1e-6)
    others = read(encoder, [TEXTS[0], "z" * 300])
    torch.testing.assert_close(pool(encoder(others))[:1], alone[:1], rtol=0, atol=1e-6)


@torch.no_grad()
def test_ids_that_differ_from_padding_are_no_mask():
    encoder = small()
    inputs = read(encoder, TEXTS)
    assert encoder.preprocess().tokenizer.pad == END
    wrong = inputs | {"attention_mask": (inputs["input_ids"] != END).long()}
    difference = (encoder(inputs).tokens[:, 0] - encoder(wrong).tokens[:, 0]).norm(dim=1)
    assert (difference > 0.5).all(), "a mask that hides the end of each text would pass"


@torch.no_grad()
def test_the_vector_is_that_of_transformers(tmp_path):
    theirs = published(tmp_path)
    encoder = Embedding(str(tmp_path)).eval()
    encoder.load_weights()
    for text in TEXTS:
        ids = torch.tensor([[*encoder.preprocess().tokenizer.encode(text)[0]]])
        assert ids[0, -1] == END
        expected = theirs(input_ids=ids).last_hidden_state[:, -1]
        torch.testing.assert_close(encoder(read(encoder, [text])).tokens[:, 0], expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_token_list_ends_with_the_terminator_whatever_its_length():
    encoder = small(max_length=10)
    preprocess = encoder.preprocess()
    short, long = preprocess("pear"), preprocess("a very long text")
    assert (short.cut, long.cut) == (False, True)
    assert long.ids.tolist() == [*preprocess.tokenizer.encode("a very lo")[0][:9], END]
    assert short.ids[-1] == END
    assert preprocess.example(3)["input_ids"].shape == (3, 10)


# --- instructions and sizes --------------------------------------------------------------------------------------
def test_a_query_has_its_instruction_and_a_document_none():
    tokenizer = small().preprocess().tokenizer
    query = small(prompt="query", task="Find the image of a caption").preprocess()("a dog").ids.tolist()
    assert query == tokenizer.encode("Instruct: Find the image of a caption\nQuery:a dog")[0]
    assert small().preprocess()("a dog").ids.tolist() == tokenizer.encode("a dog")[0]


@torch.no_grad()
def test_dims_are_the_first_numbers_of_each_token():
    whole, cut = small(), small(dim=8)
    inputs = read(whole, TEXTS)
    assert cut.dim == 8
    torch.testing.assert_close(cut(inputs).tokens, whole(inputs).tokens[..., :8])
    assert [block.shape[-1] for block in cut(inputs, layers=2).blocks] == [8, 8]


def test_released_encoders_are_built_without_files(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    counts = {"0.6b": 595_776_512, "4b": 4_021_774_336, "8b": 7_567_295_488}
    for model in RELEASED:
        for name in (model.short, model.id):
            with torch.device("meta"):
                encoder = Embedding(name)
                inputs = encoder.preprocess().example(2)
                assert encoder(inputs).tokens.shape == (2, 513, model.arch["hidden_size"])
            assert sum(p.numel() for p in encoder.parameters()) == counts[model.short]
            assert encoder.weights_id == model.id


def test_pickles_are_the_same_before_and_after_use():
    preprocess = small().preprocess()
    before = pickle.dumps(preprocess)
    preprocess("some text")
    preprocess("x" * 1000)
    assert pickle.dumps(preprocess) == before
    assert pickle.loads(before)("some text").ids.tolist() == preprocess("some text").ids.tolist()


# --- tuning ------------------------------------------------------------------------------------------------------
def test_lora_trains_adapters_alone_and_starts_at_the_encoder_itself():
    encoder, inputs = small(), read(small(), TEXTS)
    expected = encoder(inputs).tokens.detach()
    BackboneTuning("lora", rank=2).apply(encoder)
    encoder.enable_checkpointing()
    encoder.train()
    torch.testing.assert_close(encoder(inputs).tokens, expected, rtol=0, atol=1e-5)
    encoder(inputs).tokens.square().sum().backward()
    trained = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert trained == encoder.adapter.parameter_names()
    assert len(trained) == 2 * 7 * 2


def test_four_bits_leave_embeddings_and_norms():
    pytest.importorskip("bitsandbytes")
    encoder = small()
    assert Quantizer(bits=4).apply(encoder) == 14
    assert encoder(read(encoder, TEXTS)).tokens.isfinite().all()


# --- what is refused ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="0.6b", dim=1025), r"dim=1025 is not between 1 and 1024.*4b: 2560.*8b: 4096"),
        (dict(name="4b", dim=2561), "between 1 and 2560"),
        (dict(name="8b", dim=4097), "between 1 and 4096"),
        (dict(name="0.5b"), r"no '0.5b'.*Did you mean '0.6b'"),
        (dict(name="0.6b", prompt="passage"), "'document' or 'query'"),
        (dict(name="0.6b", task="Find it"), "set prompt='query'"),
        (dict(name="0.6b", max_length=40000), "at most 32768"),
        (dict(name=None, arch=dict(hidden_sizes=64)), "Did you mean 'hidden_size'"),
        (dict(name=None, arch=dict(vocab_size=100)), "at least 257"),
        (dict(name="0.6b", arch=ARCH), "either name or arch"),
        (dict(name=None), "needs a name"),
    ],
)
def test_arguments_that_fit_nothing(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        Embedding(**arguments)


def test_a_tokenizer_without_the_terminator(tmp_path):
    published(tmp_path, build_byte_tokenizer(after=["<end>"], last="<end>"))
    with pytest.raises(ValueError, match=r"no token '<\|endoftext\|>'"):
        Embedding(str(tmp_path)).find_weights()


def test_a_tokenizer_that_ends_texts_with_another_token(tmp_path):
    published(tmp_path, build_byte_tokenizer(after=[TERMINATOR, "<end>"], last="<end>"))
    with pytest.raises(ValueError, match="ends texts with '<end>' and not with"):
        Embedding(str(tmp_path)).find_weights()


def test_a_tokenizer_that_appends_nothing_is_made_to(tmp_path):
    fields = json.loads(build_byte_tokenizer(after=[TERMINATOR], last=TERMINATOR).content)
    fields["post_processor"] = json.loads(
        processors.ByteLevel(trim_offsets=False).__getstate__()  # as of the first release
    )
    published(tmp_path, Tokenizer(json.dumps(fields), END))
    preprocess = Embedding(str(tmp_path), max_length=5).preprocess()
    assert preprocess("pear").ids.tolist()[-1] == END
    assert preprocess("pear tree").ids.tolist()[-1] == END
    assert len(preprocess("pear tree").ids) == 5


def test_a_tokenizer_of_another_vocabulary(tmp_path):
    published(tmp_path, vocab_size=200)
    with pytest.raises(ValueError, match=r"ids up to 256, and the embedding table of the model 200 rows"):
        Embedding(str(tmp_path)).find_weights()


def test_a_tokenizer_other_than_the_checkpoints(tmp_path):
    published(tmp_path)
    saved = Embedding(str(tmp_path))
    saved.load_weights()
    state = saved.state_dict()
    again = Embedding(str(tmp_path))
    again.load_state_dict(state)
    other = build_byte_tokenizer(before=["<new>"], after=[TERMINATOR], last=TERMINATOR)
    write_tokenizer(tmp_path, other, 512)
    changed = Embedding(str(tmp_path))
    with pytest.raises(ToolboxError, match="not the one that the checkpoint was trained with"):
        changed.load_state_dict(state)


def test_weights_that_are_not_here_are_steps(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with torch.device("meta"):
        encoder = Embedding("4b")
    with pytest.raises(OSError, match="hf download Qwen/Qwen3-Embedding-4B"):
        encoder.find_weights()


def test_a_folder_of_another_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"'bert' model, not 'qwen3': use encoders\.HFText"):
        Embedding(str(tmp_path))
