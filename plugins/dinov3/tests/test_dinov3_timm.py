"""The nets of timm: numbers and gradients of those of transformers, weights of both formats, and what they refuse."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from toolbox_dinov3.convert import to_timm
from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.ids import BY_TIMM_NAME, KNOWN
from toolbox_dinov3.vit import ViT

from toolbox.base import Features, ImagePreprocess
from toolbox.registry import build
from toolbox.testing import check_backbone
from toolbox.utils.export_formats import save_processor

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8, "intermediate_size": 70}
PLAIN = {**VIT, "num_register_tokens": 2}
GATED = {**VIT, "use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
NETS = {"plain": (ViT, PLAIN), "gated": (ViT, GATED), "convnext": (ConvNeXt, CONVNEXT)}
SIZES = [(32, 32), (64, 32), (32, 96)]


def scattered(net, seed=0):
    """The net with every parameter, such as a layer scale of 1e-6, moved to where it matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return net


def transformers_folder(kind, folder, **arguments):
    build_net, arch = NETS[kind]
    net = scattered(build_net(name=None, arch=arch, size=32, **arguments)).eval()
    net.model.save_pretrained(folder)
    save_processor(folder, net.preprocess())
    return net


def timm_folder(folder, architecture="vit_small_patch16_dinov3_qkvb", head=False, **arguments):
    """A folder as timm writes it for the Hub, and the net in it."""
    net = timm.create_model(architecture, pretrained=False, num_classes=5 if head else 0, **arguments)
    scattered(net).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    numbers = {"mean": [0.43, 0.411, 0.296], "std": [0.213, 0.156, 0.143]}
    config = {"architecture": architecture, "pretrained_cfg": numbers, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config))
    return net


SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", NETS)
def test_tokens_and_gradients_are_those_of_transformers(kind, size, tmp_path):
    ours = transformers_folder(kind, tmp_path).double()
    net = NETS[kind][0](str(tmp_path), size=32, source="timm").eval()
    net.load_weights()
    net.double()
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    features, expected = net(pixels), ours(pixels)
    assert (features.prefix, features.grid) == (expected.prefix, expected.grid)
    # positions are computed in single precision by both, each in its own order
    torch.testing.assert_close(features.tokens, expected.tokens, rtol=0, atol=1e-5)
    weight = torch.randn_like(features.tokens)
    (features.tokens * weight).sum().backward()
    (expected.tokens * weight).sum().backward()
    wanted = to_timm(net.family, {k: p.grad for k, p in ours.model.named_parameters() if p.grad is not None})
    found = {name: parameter.grad for name, parameter in net.model.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        scale = wanted[name].abs().max().clamp(min=1)
        torch.testing.assert_close(gradient / scale, wanted[name] / scale, rtol=0, atol=1e-5, msg=name)


def test_the_comparison_sees_a_turned_picture_and_swapped_queries(tmp_path):
    ours = transformers_folder("plain", tmp_path)
    net = ViT(str(tmp_path), size=32, source="timm").eval()
    net.load_weights()
    pixels = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = ours(pixels).tokens
        assert (net(pixels.flip(2)).tokens - expected).abs().max() > 1e-2
        weight = net.layers()[0].attn.qkv.weight
        weight.copy_(torch.cat(weight.chunk(3)[::-1]))
        assert (net(pixels).tokens - expected).abs().max() > 1e-3


def test_blocks_are_those_of_transformers(tmp_path):
    ours = transformers_folder("plain", tmp_path)
    net = ViT(str(tmp_path), size=32, source="timm").eval()
    net.load_weights()
    pixels = torch.randn(2, 3, 32, 48)
    features, expected = net(pixels, layers=3), ours(pixels, layers=3)
    assert len(features.blocks) == 3
    for mine, other in zip(features.blocks, expected.blocks, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    assert torch.equal(features.tokens, net(pixels).tokens)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention(attention, tmp_path):
    ours = transformers_folder("plain", tmp_path)
    net = ViT(str(tmp_path), size=32, source="timm", attention=attention).eval()
    net.load_weights()
    assert {block.attn.fused_attn for block in net.layers()} == {attention == "sdpa"}
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(net(pixels).tokens, ours(pixels).tokens, rtol=0, atol=1e-5)


def test_a_folder_in_the_format_of_timm(tmp_path):
    for number, arguments in enumerate(({}, {"head": True}, {"architecture": "vit_small_plus_patch16_dinov3"})):
        folder = tmp_path / str(number)
        source = timm_folder(folder, **arguments, **SMALL)
        net = ViT(str(folder), size=32, source="timm").eval()
        net.load_weights()
        assert net.weights_id == str(folder)
        assert net.prefix == 5
        assert net.preprocess().mean == (0.43, 0.411, 0.296)
        pixels = torch.randn(2, 3, 32, 64)
        torch.testing.assert_close(net(pixels).tokens, source.forward_features(pixels), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"holds timm's 'vit_small_plus_patch16_dinov3': set source='timm'"):
        ViT(str(folder))
    with pytest.raises(ValueError, match=r"is no dinov3\.ConvNeXt: use encoders\.Timm"):
        ConvNeXt(str(folder), source="timm")
    timm_folder(tmp_path / "other", "test_vit")
    with pytest.raises(ValueError, match=r"timm's 'test_vit' is no dinov3\.ViT: use encoders\.Timm"):
        ViT(str(tmp_path / "other"), source="timm")


def test_a_convnext_folder_in_the_format_of_timm(tmp_path):
    source = timm_folder(tmp_path, "convnext_tiny", depths=[1, 1, 2, 1], dims=[8, 16, 24, 32], head=True)
    net = ConvNeXt(str(tmp_path), size=64, source="timm", drop_path=0.4).eval()
    net.load_weights()
    assert [getattr(layer.drop_path, "drop_prob", 0.0) for layer in net.layers()][-1] == pytest.approx(0.4)
    pixels = torch.randn(2, 3, 64, 96)
    features = net(pixels)
    pooled = source.forward_head(source.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(features.tokens[:, 0], pooled, rtol=0, atol=1e-5)
    assert (features.grid, net.prefix) == ((2, 3), 1)


@pytest.mark.parametrize("name", BY_TIMM_NAME)
def test_released_nets_are_those_of_timm(name):
    known = BY_TIMM_NAME[name]
    kind = ViT if known.family == "vit" else ConvNeXt
    with torch.device("meta"):
        net, reference = kind(f"timm/{name}", source="timm"), timm.create_model(name, num_classes=0)
        assert net(torch.empty(1, 3, 224, 224)).grid in ((14, 14), (7, 7))
    shapes = {key: tensor.shape for key, tensor in net.model.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in reference.state_dict().items()}
    assert net.weights_id == f"timm/{name}"
    eps = {m.eps for m in reference.modules() if hasattr(m, "eps")}
    assert {m.eps for m in net.model.modules() if hasattr(m, "eps")} == eps
    cfg = timm.get_pretrained_cfg(name)
    assert (net.preprocess().mean, net.preprocess().std) == (cfg.mean, cfg.std)
    assert cfg.hf_hub_id == known.timm_id


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.short)
def test_both_libraries_build_the_same_parameters(known):
    kind = ViT if known.family == "vit" else ConvNeXt
    with torch.device("meta"):
        ours, theirs = kind(known.short), kind(known.short, source="timm")
    converted = to_timm(known.family, ours.model.state_dict())
    assert {key: t.shape for key, t in converted.items()} == {k: t.shape for k, t in theirs.model.state_dict().items()}
    assert len(ours.layers()) == len(theirs.layers())
    assert (ours.dim, ours.prefix, ours.patch) == (theirs.dim, theirs.prefix, theirs.patch)


def test_contract():
    check_backbone(lambda: ViT(name=None, arch=PLAIN, size=32, source="timm"))
    check_backbone(lambda: ViT(name=None, arch=GATED, size=32, source="timm"))
    net = {**CONVNEXT, "layer_scale_init_value": 0.5}
    check_backbone(lambda: ConvNeXt(name=None, arch=net, size=64, source="timm"))


@pytest.mark.parametrize("kind", NETS)
def test_adapters_reach_every_linear_layer(kind):
    family, arch = NETS[kind]
    arch = {**arch, "layer_scale_init_value": 0.5} if kind == "convnext" else arch
    net = family(name=None, arch=arch, size=32, source="timm")
    build({"type": "core.Tune", "mode": "lora", "rank": 2}, "tune", where="tune").apply(net)
    leaves = {name.split(".lora_")[0].rpartition(".")[2] for name in net.adapter.parameter_names()}
    assert (
        leaves
        == {
            "plain": {"qkv", "proj", "fc1", "fc2"},
            "gated": {"qkv", "proj", "fc1_g", "fc1_x", "fc2"},
            "convnext": {"fc1", "fc2"},
        }[kind]
    )
    net(torch.randn(2, 3, 32, 32)).tokens.square().sum().backward()
    for name, parameter in net.named_parameters():  # B starts at zero, so that the gradient of A does too
        if "lora_B" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_drop_path_is_equal_in_all_blocks_and_positions_move():
    pixels = torch.randn(4, 3, 32, 32)

    def make(**arguments):
        torch.manual_seed(0)
        return ViT(name=None, arch=PLAIN, size=32, source="timm", **arguments).train()

    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in make(drop_path=0.3).layers()]
    assert rates == [(0.3, 0.3)] * 3
    exact = make()
    assert torch.equal(exact(pixels).tokens, exact(pixels).tokens)
    for option in ({"pos_embed_rescale": 2.0}, {"pos_embed_jitter": 1.5}, {"pos_embed_shift": 0.5}, {"drop_path": 0.5}):
        random = make(**option)
        assert not torch.equal(random(pixels).tokens, random(pixels).tokens), option
        assert torch.equal(random.eval()(pixels).tokens, exact(pixels).tokens), option


def test_checkpointing_recomputes():
    for net, pixels in (
        (ViT(name=None, arch=PLAIN, size=32, source="timm"), torch.randn(2, 3, 32, 32)),
        (ConvNeXt(name=None, arch=CONVNEXT, size=32, source="timm"), torch.randn(2, 3, 64, 64)),
    ):
        counts = []
        for _ in range(2):
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(1) or t, lambda t: t):
                net.train()(pixels)
            counts.append(len(kept))
            net.enable_checkpointing()
        assert counts[1] < counts[0] / 2


def test_weights_of_the_other_kind_do_not_fit(tmp_path):
    transformers_folder("plain", tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    key = next(key for key in whole if key.endswith("layer.1.attention.q_proj.weight"))
    for edit, message in (
        ({key: None}, r"missing: blocks\.1\.attn\.qkv\.weight"),
        ({key: whole[key][:16].clone()}, r"of another shape: blocks\.1\.attn\.qkv\.weight"),
        ({"extra.weight": torch.zeros(1)}, r"unexpected: extra\.weight"),
    ):
        save_file({k: t for k, t in {**whole, **edit}.items() if t is not None}, file, {"format": "pt"})
        net = ViT(str(tmp_path), size=32, source="timm")
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            net.load_weights()
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    save_file(whole, file, {"format": "pt"})
    with torch.device("meta"):
        net = ViT(str(tmp_path), size=32, source="timm")
    with pytest.raises(ValueError, match="meta device"):
        net.load_weights()


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"key_bias": True}, "key_bias=False only; set source='transformers'"),
        ({"value_bias": False}, "value_bias=True only"),
        ({"mlp_bias": False}, "mlp_bias=True only"),
        ({"use_gated_mlp": True}, "hidden_act='silu' only"),
        ({"initializer_range": 0.1}, r"initializer_range=0\.02 only"),
    ],
)
def test_refused_arch(arch, message):
    with pytest.raises(ValueError, match=message):
        ViT(name=None, arch={**VIT, **arch}, size=32, source="timm")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="source must be 'transformers' or 'timm', not 'tim'"):
        ViT("vitb16", source="tim")
    with pytest.raises(ValueError, match="four hidden_sizes and depths"):
        ConvNeXt(name=None, arch={"hidden_sizes": [8, 16], "depths": [1, 1]}, source="timm")
    for name in ("vit_base_patch16_dinov3.lvd1689m", "timm/vit_base_patch16_dinov3_qkvb.lvd1689m"):
        with pytest.raises(ValueError, match="is a name of timm's: set source='timm', or name 'vitb16'"):
            ViT(name)
    with pytest.raises(ValueError, match=r"'timm/convnext_tiny.*' is no dinov3.ViT: use dinov3.ConvNeXt"):
        ViT("timm/convnext_tiny.dinov3_lvd1689m", source="timm")
    net = ViT(name=None, arch=PLAIN, size=32, source="timm")
    assert net.abilities == {"layers", "checkpointing"}
    with pytest.raises(ValueError, match="has no mask token: set source='transformers'"):
        net(torch.zeros(1, 3, 32, 32), mask=torch.zeros(1, 16, dtype=torch.bool))
    assert isinstance(net.preprocess(), ImagePreprocess)
    assert isinstance(net(torch.zeros(1, 3, 32, 32)), Features)


def test_offline_message_names_the_repository_of_timm(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with torch.device("meta"):
        net = ViT("vits16", size=32, source="timm")
    with pytest.raises(OSError) as caught:
        net.find_weights()
    message = str(caught.value)
    assert "licence" not in message
    parts = (
        "(timm/vit_small_patch16_dinov3_qkvb.lvd1689m) are not on this machine: HF_HUB_OFFLINE is set",
        "1. In mainland China",
        "2. hf download timm/vit_small_patch16_dinov3_qkvb.lvd1689m --local-dir weights/vits16-timm\n",
        "3. Run again with the override model.backbone.name=weights/vits16-timm\n",
    )
    places = [message.index(part) for part in parts]
    assert places == sorted(places)
