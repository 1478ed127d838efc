"""Encoders of transformers: that library's own numbers, weights in every form they come in, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from toolbox_encoders.hf_vision import HFVision
from transformers import AutoConfig, AutoModel

from toolbox.base import Features
from toolbox.builtins.tune import BackboneTuning
from toolbox.testing import check_backbone
from toolbox.utils.pool import TokenPool

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}
DINO = {key: value for key, value in VIT.items() if key != "intermediate_size"}
SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
CONV = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}
MODELS = {
    "dinov2": DINO,
    "dinov2_with_registers": DINO,
    "dinov3_vit": {**VIT, "num_register_tokens": 2},
    "vit": VIT,
    "deit": VIT,
    "beit": VIT,
    "vit_mae": VIT,
    "ijepa": VIT,
    "clip_vision_model": VIT,
    "siglip_vision_model": VIT,
    "swin": SWIN,
    "convnext": CONV,
    "resnet": {**CONV, "embedding_size": 8},
}
IMAGES = {
    "image_processor_type": "BitImageProcessor",
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 2,
    "size": {"shortest_edge": 40},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
}


def scattered(net, seed=0):
    """The net with every tensor moved to where it matters: biases, layer scales, running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return net.eval()


def small(kind, size=32, **arguments):
    torch.manual_seed(0)
    arch = {"model_type": kind, **MODELS[kind], **arguments.pop("arch", {})}
    return HFVision(name=None, arch=arch, size=size, **arguments)


def published(kind, folder, image_size=32, **fields):
    """transformers' model of random weights, and a folder with it as it is on the Hub."""
    fields = {**MODELS[kind], **fields}
    sized = {"image_size": image_size} if hasattr(AutoConfig.for_model(kind), "image_size") else {}
    torch.manual_seed(0)
    model = scattered(AutoModel.from_config(AutoConfig.for_model(kind, **fields, **sized)))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    return model


def loaded(folder, **arguments):
    net = HFVision(str(folder), **arguments).eval()
    net.load_weights()
    return net


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "deit"])
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (32, 64)])
def test_tokens_are_the_last_hidden_state(kind, size, tmp_path):
    theirs, net = published(kind, tmp_path), loaded(tmp_path)
    pixels = torch.randn(2, 3, *size)
    option = {"interpolate_pos_encoding": True} if kind in ("vit", "deit") else {}
    with torch.no_grad():
        expected, features = theirs(pixel_values=pixels, **option).last_hidden_state, net(pixels)
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=1e-6)
    prefix = {"dinov2_with_registers": 5, "dinov3_vit": 3, "deit": 2}.get(kind, 1)
    assert (features.prefix, features.grid) == (prefix, (size[0] // 8, size[1] // 8))
    assert net.prefix == prefix


def test_dinov2_at_another_size_than_it_was_trained_at(tmp_path):
    theirs = published("dinov2", tmp_path, image_size=56)
    net = loaded(tmp_path, size=24)
    assert net.preprocess().size == (24, 24)
    assert net.model.embeddings.position_embeddings.shape == (1, 1 + 49, 32)
    pixels = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(net(pixels).tokens, theirs(pixel_values=pixels).last_hidden_state, rtol=0, atol=1e-6)
    assert net(pixels).grid == (3, 3)


def test_pool_mean_is_the_mean_of_patches(tmp_path):
    theirs, net = published("vit", tmp_path), loaded(tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    out = theirs(pixel_values=pixels)
    assert out.pooler_output is not None
    mean = TokenPool("mean")(net(pixels))
    torch.testing.assert_close(mean, out.last_hidden_state[:, 1:].mean(dim=1), rtol=0, atol=1e-6)
    assert (mean - out.pooler_output).abs().max() > 1e-2
    assert (mean - TokenPool("cls")(net(pixels))).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [32, 48])
def test_the_vision_tower_of_a_pair(kind, size, tmp_path):
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 20,
        "eos_token_id": 1,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    vision = {**VIT, "image_size": 32}
    config = AutoConfig.for_model(kind, vision_config=vision, text_config=text)
    pair = scattered(AutoModel.from_config(config))
    pair.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    net, pixels = loaded(tmp_path, size=size), torch.randn(2, 3, size, size)
    with torch.no_grad():
        out = pair.vision_model(pixel_values=pixels, interpolate_pos_encoding=size != 32)
        features = net(pixels)
    # CLIP's pooler is its final norm on the CLS token, SigLIP's attends to the patches
    torch.testing.assert_close(features.tokens[:, 0], out.pooler_output, rtol=0, atol=1e-6)
    if kind == "siglip":
        torch.testing.assert_close(features.tokens[:, 1:], out.last_hidden_state, rtol=0, atol=1e-6)
    else:
        norm = net.model.get_submodule(net._layout.norm)
        torch.testing.assert_close(features.tokens, norm(out.last_hidden_state), rtol=0, atol=1e-6)
        assert (features.tokens - out.last_hidden_state).abs().max() > 1e-2
    assert (features.prefix, features.grid) == (1, (size // 8, size // 8))


@pytest.mark.parametrize("averaged", [True, False])
def test_beit_norms_before_or_after_pooling(averaged, tmp_path):
    theirs = published("beit", tmp_path, use_mean_pooling=averaged, use_absolute_position_embeddings=True)
    net, pixels = loaded(tmp_path), torch.randn(2, 3, 32, 32)
    out = theirs(pixel_values=pixels)
    expected = out.last_hidden_state
    if averaged:
        expected = theirs.pooler.layernorm(expected)
        assert (expected - out.last_hidden_state).abs().max() > 1e-2
    torch.testing.assert_close(net(pixels).tokens, expected, rtol=0, atol=1e-6)


def test_mae_keeps_all_patches_in_their_places(tmp_path):
    published("vit_mae", tmp_path)
    net, pixels = loaded(tmp_path).train(), torch.randn(2, 3, 32, 32)
    assert torch.equal(net(pixels).tokens, net(pixels).tokens)
    twin = small("vit")  # the same net, but for the order of patches
    twin.model.load_state_dict({**twin.model.state_dict(), **net.model.state_dict()})
    torch.testing.assert_close(net(pixels).tokens, twin(pixels).tokens, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["swin", "convnext", "resnet"])
def test_hierarchies_begin_with_their_pooled_output(kind, tmp_path):
    theirs, net = published(kind, tmp_path, image_size=64), loaded(tmp_path, size=64)
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        out, features = theirs(pixel_values=pixels), net(pixels)
    assert (features.prefix, features.grid) == (1, (2, 3))
    torch.testing.assert_close(features.tokens[:, 0], out.pooler_output.flatten(1), rtol=0, atol=1e-5)
    cells = out.last_hidden_state
    if kind != "swin":
        cells = cells.flatten(2).transpose(1, 2)
    if kind == "convnext":
        cells = theirs.layernorm(cells)
    torch.testing.assert_close(features.tokens[:, 1:], cells, rtol=0, atol=1e-5)


def test_the_same_as_dinov3(tmp_path):
    from toolbox.registry import build

    published("dinov3_vit", tmp_path)
    twin = build({"type": "dinov3.ViT", "name": str(tmp_path), "size": 32}, "backbone", where="").eval()
    twin.load_weights()
    net, pixels = loaded(tmp_path), torch.randn(2, 3, 48, 32)
    mask = torch.rand(2, 24) > 0.5
    assert torch.equal(net(pixels).tokens, twin(pixels).tokens)
    assert torch.equal(net(pixels, mask=mask).tokens, twin(pixels, mask=mask).tokens)
    for mine, other in zip(net(pixels, layers=3).blocks, twin(pixels, layers=3).blocks, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("kind", ["dinov2", "vit", "clip_vision_model", "beit", "dinov2_with_registers"])
def test_blocks(kind):
    net, pixels = small(kind), torch.randn(2, 3, 32, 32)
    scattered(net.model)
    seen = []
    first = net.layers()[1]
    handle = first.register_forward_hook(lambda _, __, made: seen.append(made[0] if isinstance(made, tuple) else made))
    features = net(pixels, layers=2)
    handle.remove()
    assert torch.equal(features.tokens, net(pixels).tokens)
    norm = net.model.get_submodule(net._layout.final)
    torch.testing.assert_close(features.blocks[0], norm(seen[0]), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="layers must be between 1 and 3 for"):
        net(pixels, layers=4)


ALIKE = ("deit", "beit", "ijepa", "siglip_vision_model", "dinov2_with_registers")  # as others in all that matters here


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in ALIKE else []) for kind in MODELS]
)
def test_contract(kind):
    if kind == "resnet":
        pytest.skip("the check compares gradients in training with those in evaluation: not with batch norm")
    size = 64 if kind in ("swin", "convnext") else 32
    arch = {"pos_embed_rescale": None} if kind == "dinov3_vit" else {}  # by default training sees random positions
    check_backbone(lambda: scattered(small(kind, size, arch=arch)))


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_reach_every_parameter(kind):
    net = small(kind, 64).train()
    tokens = net(torch.randn(4, 3, 64, 64)).tokens
    (tokens * torch.randn_like(tokens)).sum().backward()
    idle = [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert all(key.endswith("mask_token") for key in idle), idle


@pytest.mark.parametrize("kind", MODELS)
def test_adapters_reach_every_linear_layer(kind):
    net = small(kind, 64)
    if kind == "resnet":
        with pytest.raises(ValueError, match="no linear layers"):
            BackboneTuning("lora", rank=2).apply(net)
        return
    BackboneTuning("lora", rank=2).apply(scattered(net))
    tokens = net.eval()(torch.randn(2, 3, 64, 64)).tokens
    (tokens * torch.randn_like(tokens)).sum().backward()
    reached = [key for key, parameter in net.named_parameters() if "lora_B" in key and parameter.grad.any()]
    assert len(reached) == len(net.adapter.parameter_names()) / 2 > 0


def test_blocks_are_found_in_order():
    counts = {"dinov2": 3, "siglip_vision_model": 3, "swin": 5, "convnext": 5, "resnet": 5}
    for kind, count in counts.items():
        net = small(kind, 64)
        order = [id(module) for module in net.modules()]
        places = [order.index(id(layer)) for layer in net.layers()]
        assert places == sorted(set(places))
        assert len(places) == count


def test_checkpointing_recomputes():
    for kind in ("dinov2", "clip_vision_model", "swin"):
        net, counts = small(kind, 64).train(), []
        for _ in range(2):
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(1) or t, lambda t: t):
                net(torch.randn(2, 3, 64, 64))
            counts.append(len(kept))
            net.enable_checkpointing()
        assert counts[1] < counts[0] * 0.7, kind


def test_drop_path():
    pixels = torch.randn(8, 3, 32, 32)
    for kind in ("dinov2", "beit"):  # BEiT's own default is 0.1
        net, random = (scattered(small(kind, drop_path=rate)).train() for rate in (0.0, 0.5))
        assert torch.equal(net(pixels).tokens, net(pixels).tokens)
        assert not torch.equal(random(pixels).tokens, random(pixels).tokens)
    with pytest.raises(ValueError, match="'vit' has no single rate of skipped residual branches"):
        small("vit", drop_path=0.1)
    with pytest.raises(ValueError, match="drop_path must be at least 0 and below 1, not 1"):
        small("dinov2", drop_path=1.0)


def test_preprocess_follows_the_processor(tmp_path):
    from PIL import Image

    published("dinov2", tmp_path)
    preprocess = HFVision(str(tmp_path)).preprocess()
    assert preprocess.size == (32, 32)
    assert preprocess.interpolation == "bilinear"
    generator = torch.Generator().manual_seed(0)
    image = Image.fromarray(torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8).numpy())
    ours = preprocess.finish(preprocess.collate([preprocess(image)]))
    options = {"do_resize": False, "do_center_crop": False}
    theirs = transformers.BitImageProcessor(**{**IMAGES, **options})(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    for change, mean, std in (
        ({"do_normalize": False}, (0.0,) * 3, (1.0,) * 3),
        ({"rescale_factor": 1 / 127.5}, (0.25, 0.2, 0.15), (0.1, 0.15, 0.2)),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**IMAGES, **change}))
        changed = HFVision(str(tmp_path)).preprocess()
        assert (changed.mean, changed.std) == (pytest.approx(mean), pytest.approx(std))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**IMAGES, "rescale_factor": 1 / 127.5}))
    preprocess = HFVision(str(tmp_path)).preprocess()
    numbers = {**IMAGES, **options, "rescale_factor": 1 / 127.5}
    theirs = transformers.BitImageProcessor(**numbers)(image, return_tensors="pt")["pixel_values"]
    ours = preprocess.finish(preprocess.collate([preprocess(image)]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-6)
    for size, expected in (
        ({"height": 40, "width": 24}, (40, 24)),
        ({"shortest_edge": 24}, (24, 24)),
    ):
        numbers = {**IMAGES, "do_center_crop": False, "size": size}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(numbers))
        assert HFVision(str(tmp_path)).preprocess().size == expected
    kept = {**IMAGES, "do_center_crop": False, "do_resize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"leaves images at their own size: say to which .*, for example size=32"):
        HFVision(str(tmp_path))
    assert HFVision(str(tmp_path), size=32).preprocess().size == (32, 32)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match=r"has no preprocessor_config\.json, which says how images are scaled"):
        HFVision(str(tmp_path))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": IMAGES}))
    assert HFVision(str(tmp_path)).preprocess().mean == (0.5, 0.4, 0.3)


def test_weights(tmp_path, capfd):
    theirs = published("dinov2", tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    expected = theirs(pixel_values=pixels).last_hidden_state
    net = HFVision(str(tmp_path), drop_path=0.3)
    net.enable_checkpointing()
    parameter = net.layers()[0].norm1.weight
    capfd.readouterr()
    net.load_weights()
    assert capfd.readouterr() == ("", "")
    assert net.weights_id == str(tmp_path)
    assert net.training
    assert net.layers()[0].norm1.weight is parameter
    assert net.layers()[0].gradient_checkpointing
    torch.testing.assert_close(net.eval()(pixels).tokens, expected, rtol=0, atol=1e-6)
    random = HFVision(str(tmp_path), weights=False).eval()
    random.load_weights()
    assert random.weights_id is None
    assert (random(pixels).tokens - expected).abs().max() > 1e-2
    file = tmp_path / "model.safetensors"
    half = {key: value.bfloat16() for key, value in load_file(file).items()}
    save_file(half, file, {"format": "pt"})
    assert {parameter.dtype for parameter in loaded(tmp_path).parameters()} == {torch.float32}
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    file.unlink()
    torch.testing.assert_close(loaded(tmp_path)(pixels).tokens, expected, rtol=0, atol=1e-6)
    with torch.device("meta"):
        net = HFVision(str(tmp_path))
    with pytest.raises(ValueError, match="meta device"):
        net.load_weights()


def test_weights_of_a_classifier_and_with_a_pooler(tmp_path):
    config = AutoConfig.for_model("vit", **VIT, image_size=32, num_labels=3)
    classifier = scattered(transformers.ViTForImageClassification(config))
    classifier.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    pixels = torch.randn(2, 3, 32, 32)
    expected = classifier.vit(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(loaded(tmp_path)(pixels).tokens, expected, rtol=0, atol=1e-6)


def test_weights_that_do_not_fit(tmp_path):
    published("dinov2", tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    for edit, message in (
        ({"layernorm.weight": None}, r"missing: layernorm\.weight\)"),
        ({"layernorm.weight": torch.zeros(16)}, r"of another shape: layernorm\.weight\)"),
    ):
        save_file({key: t for key, t in {**state, **edit}.items() if t is not None}, file, {"format": "pt"})
        net = HFVision(str(tmp_path))
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            net.load_weights()
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OSError, match=r"model\.safetensors is damaged or was cut short"):
        HFVision(str(tmp_path)).find_weights()
    file.unlink()
    with pytest.raises(OSError, match=r"has no model\.safetensors"):
        HFVision(str(tmp_path)).find_weights()


def test_folders_and_names_that_are_none(tmp_path):
    with pytest.raises(OSError, match=r"has no config\.json"):
        HFVision(str(tmp_path))
    for content, message in (
        ("{", "is no valid JSON"),
        ("[]", "holds no JSON object"),
        ('{"architecture": "resnet18"}', "holds timm's 'resnet18': use encoders.Timm"),
        ('{"model_type": "nonsense"}', "transformers cannot read"),
        ("{}", "transformers cannot read"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            HFVision(str(tmp_path))
    for name in ("weights/none/deeper", "./none", "resnet50", __file__):
        with pytest.raises(ValueError, match=r"There is no folder .* for nets of timm use encoders\.Timm"):
            HFVision(name)
    with pytest.raises(ValueError, match="needs a name such as 'facebook/dinov2-base'"):
        HFVision(name=None)
    with pytest.raises(ValueError, match="either name or arch"):
        HFVision("facebook/dinov2-base", arch={"model_type": "vit"})
    published("dinov2", tmp_path / "net")
    with pytest.raises(ValueError, match="is a folder: remove revision"):
        HFVision(str(tmp_path / "net"), revision="main")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"hidden_size": 32}, r"arch needs the model_type .* not None\. For example 'dinov2'"),
        ({"model_type": "dinov22"}, "Did you mean 'dinov2'"),
        ({"model_type": "dinov2", "hiden_size": 32}, "'dinov2' has no field 'hiden_size'. Did you mean 'hidden_size'"),
        ({"model_type": "dinov2", "drop_path_rate": 0.1}, "it is the argument 'drop_path'"),
        ({"model_type": "dinov2", **DINO, "hidden_act": "nonsense"}, "transformers cannot build 'arch'"),
        ({"model_type": "bert"}, r"cannot use 'arch' \(BertModel\).*its parts are embeddings, encoder"),
        ({"model_type": "yolos", **VIT}, "cannot tell what the first 101 tokens"),
        ({"model_type": "blip"}, "transformers has no model of its own for the images of 'arch'"),
        ({"model_type": "timm_wrapper"}, "is a net of timm: use encoders.Timm"),
        ({"model_type": "siglip2_vision_model", **VIT}, "does not take images of 32 x 32"),
    ],
)
def test_refused_arch(arch, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        HFVision(name=None, arch=arch, size=32)


def test_refused_inputs():
    net = small("dinov2")
    assert isinstance(net(torch.zeros(1, 3, 32, 32)), Features)
    with pytest.raises(ValueError, match="reads patches of 8 x 8 pixels: image height and width must be multiples"):
        net(torch.zeros(1, 3, 32, 36))
    with pytest.raises(ValueError, match=r"shape \(B, 3, H, W\)"):
        net(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"mask must have shape \(1, 16\)"):
        net(torch.zeros(1, 3, 32, 32), mask=torch.zeros(1, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="has no mask token"):
        small("vit")(torch.zeros(1, 3, 32, 32), mask=torch.zeros(1, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="has no gradient checkpointing"):
        small("resnet").enable_checkpointing()
    with pytest.raises(ValueError, match="size must be a positive number"):
        small("dinov2", size=0)
    with torch.device("meta"), pytest.raises(ValueError, match="multiples of it, not 30 x 30"):
        HFVision(name=None, arch={"model_type": "dinov2", **DINO, "image_size": 32}, size=30)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from toolbox.utils import hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "explain_unreachable", lambda *_: pytest.fail("the network was asked"))

    def fill(kind, name):
        repository = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("0" * 40)
        model = published(kind, snapshot)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        return model, snapshot

    return fill


def test_cached_configuration_and_weights_need_no_network(cache):
    theirs, snapshot = cache("dinov2", "facebook/dinov2-base")
    weights = Path(snapshot / "model.safetensors")
    whole = weights.read_bytes()
    weights.unlink()
    net = HFVision().eval()  # the default
    assert (net.weights_id, net.dim, net.size) == ("facebook/dinov2-base", 32, (32, 32))
    with pytest.raises(OSError) as caught:
        net.find_weights()
    message = str(caught.value)
    parts = (
        "The weights of encoders.HFVision 'facebook/dinov2-base' are not on this machine: HF_HUB_OFFLINE is set",
        "2. In mainland China: export HF_ENDPOINT=https://hf-mirror.com\n",
        "3. hf download facebook/dinov2-base --local-dir weights/dinov2-base\n",
        "4. Run again with the override model.backbone.name=weights/dinov2-base\n",
        "the override model.backbone.weights=False",
    )
    places = [message.index(part) for part in parts]
    assert places == sorted(places)
    weights.write_bytes(whole)
    net.load_weights()
    pixels = torch.randn(1, 3, 48, 32)
    torch.testing.assert_close(net(pixels).tokens, theirs(pixel_values=pixels).last_hidden_state, rtol=0, atol=1e-6)


def test_offline_without_a_configuration_says_what_to_do(cache):
    with pytest.raises(OSError) as caught:
        HFVision("facebook/dinov2-small", revision="v1")
    message = str(caught.value)
    assert message.startswith(
        "The configuration of encoders.HFVision 'facebook/dinov2-small' is not on this machine: HF_HUB"
    )
    assert "3. hf download facebook/dinov2-small --revision v1 --local-dir weights/dinov2-small\n" in message
    assert message.endswith("4. Run again with the override model.backbone.name=weights/dinov2-small")
    assert "weights=False" not in message  # it would not help
