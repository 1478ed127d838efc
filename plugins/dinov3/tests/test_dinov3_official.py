"""Files of the authors: the numbers of the same weights in transformers, and in timm, which reads such files itself."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import convnext, eva
from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.vit import ViT

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "intermediate_size": 64,
    "num_register_tokens": 2,
}
GATED = {**VIT, "use_gated_mlp": True, "hidden_act": "silu"}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
NETS = {"plain": (ViT, VIT), "gated": (ViT, GATED), "convnext": (ConvNeXt, CONVNEXT)}
TIMM = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.0, "num_reg_tokens": 2}
REFERENCES = {
    "plain": ("vit_small_patch16_dinov3_qkvb", TIMM),
    "gated": ("vit_small_plus_patch16_dinov3_qkvb", TIMM),
    "convnext": ("convnext_tiny", {"dims": CONVNEXT["hidden_sizes"], "depths": CONVNEXT["depths"]}),
}


def encoder(kind, **arguments):
    build_net, arch = NETS[kind]
    net = build_net(name=None, arch=arch, size=32, **arguments).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return net


def as_published(net):
    """Its weights under the names of the authors, with one matrix for queries, keys and values, and their extras."""
    state = {key.removeprefix("model."): tensor.clone() for key, tensor in net.model.state_dict().items()}
    if isinstance(net, ConvNeXt):
        return _convnext_as_published(state)
    names = (
        ("embeddings.register_tokens", "storage_tokens"),
        ("embeddings.patch_embeddings.", "patch_embed.proj."),
        ("embeddings.", ""),
        ("layer.", "blocks."),
        (".attention.o_proj.", ".attn.proj."),
        (".lambda1", ".gamma"),
        (".layer_scale", ".ls"),
    )
    gated = any("gate_proj" in key for key in state)
    names += (
        (("gate_proj", "w1"), ("up_proj", "w2"), ("down_proj", "w3"))
        if gated
        else (
            ("up_proj", "fc1"),
            ("down_proj", "fc2"),
        )
    )
    found = {"mask_token": state.pop("embeddings.mask_token")[0]}
    for key, tensor in state.items():
        block = re.match(r"layer\.(\d+)\.attention\.q_proj\.weight", key)
        if block:
            at, to = f"layer.{block[1]}.attention", f"blocks.{block[1]}.attn.qkv"
            found[f"{to}.weight"] = torch.cat([state[f"{at}.{part}_proj.weight"] for part in "qkv"])
            junk = torch.full_like(state[f"{at}.q_proj.bias"], 7.0)  # that the mask takes away
            found[f"{to}.bias"] = torch.cat([state[f"{at}.q_proj.bias"], junk, state[f"{at}.v_proj.bias"]])
            ones = torch.ones_like(junk)
            found[f"{to}.bias_mask"] = torch.cat([ones, 0 * ones, ones])
        elif not re.search(r"\.[qkv]_proj\.", key):
            for old, new in names:
                key = key.replace(old, new)
            found[key] = tensor
    found["rope_embed.periods"] = 100.0 ** (torch.arange(4) / 4.0)
    found["local_cls_norm.weight"] = torch.ones(32)
    return found


def _convnext_as_published(state):
    found = {}
    for key, tensor in state.items():
        key = re.sub(r"^stages\.(\d+)\.downsample_layers", r"downsample_layers.\1", key)
        key = re.sub(r"^stages\.(\d+)\.layers", r"stages.\1", key).replace("layer_norm", "norm")
        found[key.replace("depthwise_conv", "dwconv").replace("pointwise_conv", "pwconv")] = tensor
    return {**found, "norms.3.weight": found["norm.weight"], "norms.3.bias": found["norm.bias"]}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", NETS)
def test_a_file_of_the_authors_is_the_model_of_transformers(kind, ending, tmp_path):
    source, file = encoder(kind), tmp_path / f"weights{ending}"
    state = as_published(source)
    if ending == ".pth":
        torch.save(state, file)
    else:
        save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, file)
    net = type(source)(name=None, arch=NETS[kind][1], size=32, checkpoint=str(file)).eval()
    assert net.weights_id == str(file)
    pixels = torch.randn(2, 3, 32, 64)
    assert not torch.equal(net(pixels).tokens, source(pixels).tokens)
    net.load_weights()
    assert torch.equal(net(pixels).tokens, source(pixels).tokens)
    assert net.abilities == source.abilities
    assert all(torch.equal(mine, own) for mine, own in zip(net.parameters(), source.parameters(), strict=True))


@pytest.mark.parametrize("kind", NETS)
def test_timm_makes_the_same_of_a_file_of_the_authors(kind, tmp_path):
    """So the names here are not of our own making."""
    state = as_published(encoder(kind))
    torch.save(state, tmp_path / "weights.pth")
    net = NETS[kind][0](name=None, arch=NETS[kind][1], size=32, checkpoint=str(tmp_path / "weights.pth")).eval()
    net.load_weights()
    architecture, arguments = REFERENCES[kind]
    theirs = timm.create_model(architecture, num_classes=0, **arguments).eval()
    filter_fn = (convnext if kind == "convnext" else eva).checkpoint_filter_fn
    theirs.load_state_dict(filter_fn(state, theirs))
    pixels = torch.randn(2, 3, 32, 64)
    expected = theirs.forward_features(pixels)
    if kind == "convnext":
        expected = theirs.head.norm(expected).flatten(2).transpose(1, 2)
        torch.testing.assert_close(net(pixels).tokens[:, 1:], expected, rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(net(pixels).tokens, expected, rtol=0, atol=1e-5)


def test_a_file_of_any_format_fits_a_name(tmp_path):
    with torch.device("meta"):
        net = ViT("vits16", checkpoint=str(tmp_path / "vits16.pth"))
    assert (net.weights_id, net.model.config.hidden_size) == (str(tmp_path / "vits16.pth"), 384)
    with pytest.raises(FileNotFoundError, match=r"the checkpoint .*vits16\.pth does not exist"):
        net.find_weights()
    source = encoder("plain")
    timm_net = timm.create_model(REFERENCES["plain"][0], num_classes=0, **TIMM)
    states = {
        "transformers": (source.model.state_dict(), True),
        "timm": (timm_net.state_dict(), False),
        "authors": (as_published(source), True),
    }
    for name, (state, masked) in states.items():
        torch.save(dict(state), tmp_path / f"{name}.bin")
        net = ViT(name=None, arch=VIT, size=32, checkpoint=str(tmp_path / f"{name}.bin"))
        net.load_weights()
        assert ("mask" in net.abilities) == masked, name


def test_what_a_file_may_not_be(tmp_path):
    file = tmp_path / "weights.pth"
    state = as_published(encoder("plain"))

    def load(content):
        torch.save(content, file)
        net = ViT(name=None, arch=VIT, size=32, checkpoint=str(file))
        before = {key: value.clone() for key, value in net.state_dict().items()}
        try:
            net.load_weights()
        finally:
            assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())

    with pytest.raises(ValueError, match=r"rotary positions .* have other frequencies: .* rope_theta"):
        load({**state, "rope_embed.periods": 2 * state["rope_embed.periods"]})
    unmasked = {key: tensor for key, tensor in state.items() if not key.endswith("bias_mask")}
    with pytest.raises(ValueError, match=r"unexpected: layer\.0\.attention\.k_proj\.bias"):
        load(unmasked)
    with pytest.raises(ValueError, match=r"of another shape: embeddings\.mask_token"):
        load({**state, "mask_token": torch.zeros(1, 16)})
    with pytest.raises(ValueError, match=r"unexpected: cls_norm\.weight"):  # untied norms are another model
        load({**state, "cls_norm.weight": torch.ones(32)})
    with pytest.raises(OSError, match="cannot be read as a checkpoint of tensors alone"):
        load({**state, "more": print})
    with pytest.raises(OSError, match="holds something else than tensors: 'teacher'"):
        load({"teacher": state})
    file.write_bytes(b"no checkpoint")
    net = ViT(name=None, arch=VIT, size=32, checkpoint=str(file))
    with pytest.raises(OSError, match="cannot be read as a checkpoint of tensors alone"):
        net.load_weights()
    with pytest.raises(ValueError, match="weights=False would leave the checkpoint unread"):
        ViT("vits16", checkpoint=str(file), weights=False, size=32)
    with pytest.raises(ValueError, match="revision belongs to a repository on the Hub, and checkpoint is a file"):
        ViT("vits16", checkpoint=str(file), revision="main")
    with pytest.raises(ValueError, match=r"is a file; give the folder .* or name one of vits16.* and checkpoint="):
        ViT(str(file))
