"""Weights of timm: numbers and gradients of its own nets, all names that it has, and what is refused."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from toolbox_dinov3.convert import to_transformers
from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.ids import BY_TIMM_NAME, KNOWN
from toolbox_dinov3.vit import ViT

VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8, "mlp_ratio": 70.5 / 32}
NETS = {
    "plain": (ViT, "vit_small_patch16_dinov3_qkvb", {**VIT, "num_reg_tokens": 2}),
    "no registers": (ViT, "vit_small_patch16_dinov3_qkvb", {**VIT, "num_reg_tokens": 0, "rope_temperature": 50.0}),
    "gated": (ViT, "vit_small_plus_patch16_dinov3", VIT),  # 70 becomes a multiple of 8
    "convnext": (ConvNeXt, "convnext_tiny", {"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "norm_eps": 1e-5}),
}
SIZES = [(32, 32), (64, 32), (32, 96)]
NUMBERS = {"mean": [0.43, 0.411, 0.296], "std": [0.213, 0.156, 0.143]}


def scattered(net, seed=0):
    """The net with every parameter, such as a layer scale of 1e-6, moved to where it matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return net


def timm_folder(folder, architecture, head=False, **arguments):
    """A folder as timm writes it for the Hub, and the net in it."""
    net = timm.create_model(architecture, pretrained=False, num_classes=5 if head else 0, **arguments)
    scattered(net).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    config = {"architecture": architecture, "pretrained_cfg": NUMBERS, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config))
    return net


def both(kind, folder, **more):
    """timm's net, and ours with its weights."""
    build_net, architecture, arguments = NETS[kind]
    theirs = timm_folder(folder, architecture, **arguments)
    ours = build_net(str(folder), size=32, **more).eval()
    ours.load_weights()
    return theirs, ours


def tokens_of(net, pixels):
    """The tokens of timm's net after its final norm; a ConvNeXt has it in its head."""
    features = net.forward_features(pixels)
    if features.ndim == 3:
        return features
    tokens = torch.cat([features.mean(dim=(2, 3)).unsqueeze(2), features.flatten(2)], dim=2)
    return net.head.norm(tokens.unsqueeze(3)).squeeze(3).transpose(1, 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", NETS)
def test_tokens_and_gradients_are_those_of_timm(kind, size, tmp_path):
    theirs, ours = (net.double() for net in both(kind, tmp_path))
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    features, expected = ours(pixels), tokens_of(theirs, pixels)
    reduction = 8 if ours.family == "vit" else 32
    assert features.grid == (size[0] // reduction, size[1] // reduction)
    assert features.prefix == expected.shape[1] - features.grid[0] * features.grid[1]
    # positions are computed in single precision by both, each in its own order
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=1e-5)
    weight = torch.randn_like(features.tokens)
    (features.tokens * weight).sum().backward()
    (expected * weight).sum().backward()
    wanted = to_transformers(ours.family, {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None})
    found = {
        name.removeprefix("model."): parameter.grad
        for name, parameter in ours.model.named_parameters()
        if parameter.grad is not None and parameter.numel()
    }
    assert found.keys() == {key for key, tensor in wanted.items() if tensor.numel()} - {"embeddings.mask_token"}
    for name, gradient in found.items():
        scale = wanted[name].abs().max().clamp(min=1)
        torch.testing.assert_close(gradient / scale, wanted[name] / scale, rtol=0, atol=1e-5, msg=name)


def test_the_comparison_sees_a_turned_picture_and_swapped_queries(tmp_path):
    theirs, ours = both("plain", tmp_path)
    pixels = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = tokens_of(theirs, pixels)
        assert (ours(pixels.flip(2)).tokens - expected).abs().max() > 1e-2
        attention = ours.layers()[0].attention
        attention.q_proj.weight, attention.k_proj.weight = attention.k_proj.weight, attention.q_proj.weight
        assert (ours(pixels).tokens - expected).abs().max() > 1e-3


def test_blocks_are_those_of_timm(tmp_path):
    theirs, ours = both("plain", tmp_path)
    pixels = torch.randn(2, 3, 32, 48)
    features = ours(pixels, layers=3)
    last, pairs = theirs.forward_intermediates(
        pixels, indices=3, norm=True, output_fmt="NLC", return_prefix_tokens=True
    )
    assert len(features.blocks) == 3
    for mine, (patches, prefix) in zip(features.blocks, pairs, strict=True):
        torch.testing.assert_close(mine, torch.cat([prefix, patches], dim=1), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.tokens, last, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention(attention, tmp_path):
    theirs, ours = both("plain", tmp_path, attention=attention)
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours(pixels).tokens, tokens_of(theirs, pixels), rtol=0, atol=1e-5)


def test_a_folder_in_the_format_of_timm(tmp_path):
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    architectures = ("vit_small_patch16_dinov3_qkvb", "vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3_qkvb")
    for number, architecture in enumerate(architectures):
        folder = tmp_path / str(number)
        source = timm_folder(folder, architecture, head=number == 0, **small)
        net = ViT(str(folder), size=32).eval()
        net.load_weights()
        assert net.weights_id == str(folder)
        assert net.prefix == 5
        assert net.preprocess().mean == (0.43, 0.411, 0.296)
        assert net.preprocess().interpolation == "bicubic"
        pixels = torch.randn(2, 3, 32, 64)
        torch.testing.assert_close(net(pixels).tokens, source.forward_features(pixels), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"is no dinov3\.ConvNeXt: use encoders\.Timm"):
        ConvNeXt(str(folder))
    timm_folder(tmp_path / "other", "test_vit")
    with pytest.raises(ValueError, match=r"timm's 'test_vit' is no dinov3\.ViT: use encoders\.Timm"):
        ViT(str(tmp_path / "other"))


def test_keywords_of_timm_that_change_the_net_are_followed_or_refused(tmp_path):
    config = {"architecture": "vit_small_patch16_dinov3", "model_args": {"rope_rotate_half": False, "depth": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not follow these keywords .*: rope_rotate_half: use encoders\.Timm"):
        ViT(str(tmp_path))
    config = {"architecture": "convnext_tiny", "model_args": {"in_chans": 4, "global_pool": "avg"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="images of three channels, and in_chans=4"):
        ConvNeXt(str(tmp_path))


def test_a_convnext_folder_in_the_format_of_timm(tmp_path):
    source = timm_folder(tmp_path, "convnext_tiny", depths=[1, 1, 2, 1], dims=[8, 16, 24, 32], head=True)
    net = ConvNeXt(str(tmp_path), size=64, drop_path=0.4).eval()
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
        net, reference = kind(f"timm/{name}"), timm.create_model(name, num_classes=0)
        assert net(torch.empty(1, 3, 224, 224)).grid in ((14, 14), (7, 7))
        converted = to_transformers(known.family, reference.state_dict())
    shapes = {key.removeprefix("model."): tensor.shape for key, tensor in net.model.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in converted.items()}
    assert net.weights_id == f"timm/{name}"
    eps = {m.eps for m in reference.modules() if hasattr(m, "eps")}
    assert {m.eps for m in net.model.modules() if hasattr(m, "eps")} == eps
    cfg = timm.get_pretrained_cfg(name)
    assert (net.preprocess().mean, net.preprocess().std) == (cfg.mean, cfg.std)
    assert net.preprocess().interpolation == cfg.interpolation
    assert cfg.hf_hub_id == known.timm_id
    if known.family == "vit":
        assert net.model.config.num_attention_heads == reference.blocks[0].attn.num_heads
        assert net.model.config.rope_theta == reference.rope.temperature


def test_timm_has_a_copy_of_every_released_net():
    assert {known.short for known in KNOWN} == {known.short for known in BY_TIMM_NAME.values()}
    for name in ("vit_base_patch16_dinov3.lvd1689m", "timm/vit_base_patch16_dinov3.lvd1689m"):
        with torch.device("meta"):
            assert ViT(name).weights_id == "timm/vit_base_patch16_dinov3.lvd1689m"
    with pytest.raises(ValueError, match=r"'timm/convnext_tiny.*' is no dinov3.ViT: use dinov3.ConvNeXt"):
        ViT("timm/convnext_tiny.dinov3_lvd1689m")


def test_weights_that_do_not_fit(tmp_path):
    timm_folder(tmp_path, NETS["plain"][1], **NETS["plain"][2])
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    key = "blocks.1.attn.qkv.weight"
    for edit, message in (
        ({key: None}, r"missing: (model\.)?layer\.1\.attention\.k_proj\.weight"),
        ({key: whole[key][:48].clone()}, r"of another shape: (model\.)?layer\.1\.attention\.k_proj\.weight"),
        ({"reg_token": None}, r"of another shape: embeddings\.register_tokens"),
        ({"extra.weight": torch.zeros(1)}, r"unexpected: extra\.weight"),
    ):
        save_file({k: t for k, t in {**whole, **edit}.items() if t is not None}, file, {"format": "pt"})
        net = ViT(str(tmp_path), size=32)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            net.load_weights()
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_copies_of_timm_have_no_mask_token(tmp_path):
    _, net = both("plain", tmp_path)
    assert net.abilities == {"layers", "checkpointing"}
    assert not net.state_dict()[next(key for key in net.state_dict() if key.endswith("mask_token"))].any()
    mask = torch.zeros(1, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match="copies of DINOv3 have no mask token: masked input needs the authors'"):
        net(torch.zeros(1, 3, 32, 32), mask=mask)
    scratch = ViT(str(tmp_path), size=32, weights=False)  # its mask token can be learned
    assert "mask" in scratch.abilities
    scratch(torch.zeros(1, 3, 32, 32), mask=mask)


def test_offline_message_names_the_repository_of_timm(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with torch.device("meta"):
        net = ViT("timm/vit_small_patch16_dinov3_qkvb.lvd1689m", size=32)
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
