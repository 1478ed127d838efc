"""Encoders of timm: timm's own numbers, weights in every form they come in, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from toolbox_encoders.find_blocks import find_blocks
from toolbox_encoders.timm_backbone import Timm

from toolbox.builtins.tune import BackboneTuning
from toolbox.testing import check_backbone

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16], "ls_init_value": 0.5}
NETS = {
    "vit_tiny_patch16_224": (32, TINY),
    "vit_base_patch16_siglip_224": (32, TINY),
    "vit_medium_patch16_reg4_gap_256": (32, TINY),
    "deit_tiny_distilled_patch16_224": (32, TINY),
    "beit_base_patch16_224": (32, TINY),
    "eva02_tiny_patch14_224": (32, TINY),
    "vit_small_patch14_reg4_dinov2": (32, TINY),
    "vit_small_patch16_dinov3_qkvb": (32, TINY),
    "swin_tiny_patch4_window7_224": (64, SWIN),
    "swinv2_tiny_window8_256": (64, SWIN),
    "convnext_atto": (64, CONVNEXT),
    "test_resnet": (64, {}),
    "test_efficientnet": (64, {}),
    "mobilenetv3_small_050": (64, {}),
}
"""One net of each kind: the size of its images, and keywords that make it small."""


def scattered(net, seed=0):
    """The net with every tensor moved to where it matters: positions, layer scales, running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return net.eval()


def small(name, **arguments):
    size, arch = NETS[name]
    torch.manual_seed(0)
    return Timm(name, **{"size": size, "weights": False, "arch": arch, **arguments})


def reference(name, **arguments):
    """timm's own net, of the same structure."""
    size, arch = NETS[name]
    fixed = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    return scattered(timm.create_model(name, **{"num_classes": 0, **fixed, **arch, **arguments}))


def folder_of(net, name, folder, **config):
    """A folder as timm writes it for the Hub."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    cfg = {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "input_size": [3, 32, 32],
        "interpolation": "bilinear",
        "fixed_input_size": timm.get_pretrained_cfg(name).fixed_input_size,
        "num_classes": net.num_classes,
        "classifier": "head",
    }
    content = {"architecture": name, "num_classes": net.num_classes, "pretrained_cfg": cfg, **config}
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize("name", NETS)
def test_tokens_are_those_of_timm(name):
    net, theirs = small(name).eval(), reference(name)
    net.model.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, net.size[0], net.size[1])
    with torch.no_grad():
        features = net(pixels)
        output, embedding = theirs.forward_features(pixels), theirs(pixels)
    assert features.tokens.shape == (2, net.prefix + features.grid[0] * features.grid[1], net.dim)
    tokens = features.tokens
    if getattr(theirs, "cls_token", None) is None:
        torch.testing.assert_close(tokens[:, 0], embedding, rtol=0, atol=1e-5)
    patches = tokens[:, net.prefix :]
    if output.ndim == 3:
        expected = output[:, getattr(theirs, "num_prefix_tokens", 0) :]
        norm = getattr(theirs, "fc_norm", torch.nn.Identity())
        torch.testing.assert_close(patches, norm(expected), rtol=0, atol=1e-5)
        assert (tokens.std(dim=-1) > 0).all()
    else:
        maps = output if getattr(theirs, "output_fmt", "NCHW") == "NHWC" else output.permute(0, 2, 3, 1)
        assert features.grid == tuple(maps.shape[1:3])
        corner = maps[:, 0, 1].view(2, 1, 1, -1)  # a map of the second cell alone
        corner = corner if getattr(theirs, "output_fmt", "NCHW") == "NHWC" else corner.permute(0, 3, 1, 2)
        with torch.no_grad():
            expected = theirs.forward_head(corner, pre_logits=True)
        torch.testing.assert_close(patches[:, 1], expected, rtol=0, atol=1e-5)


def test_the_first_token_is_the_class_token_where_there_is_one():
    for name, prefix in (
        ("vit_tiny_patch16_224", 1),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("deit_tiny_distilled_patch16_224", 2),
        ("vit_medium_patch16_reg4_gap_256", 5),
        ("vit_base_patch16_siglip_224", 1),
        ("test_resnet", 1),
    ):
        assert small(name).prefix == prefix, name
    net, theirs = small("vit_tiny_patch16_224").eval(), reference("vit_tiny_patch16_224")
    net.model.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(pixels).tokens[:, 0], theirs(pixels), rtol=0, atol=1e-6)


def test_a_norm_after_pooling_is_applied_to_each_token():
    net, theirs = small("beit_base_patch16_224").eval(), reference("beit_base_patch16_224")
    net.model.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    output = theirs.forward_features(pixels)
    torch.testing.assert_close(net(pixels).tokens, theirs.fc_norm(output), rtol=0, atol=1e-5)
    assert (net(pixels).tokens - output).abs().max() > 1e-2


def test_convnext_is_dinov3_convnext(tmp_path):
    from toolbox.registry import build

    arch = {"hidden_sizes": CONVNEXT["dims"], "depths": CONVNEXT["depths"], "layer_scale_init_value": 0.5}
    net = scattered(small("convnext_atto", arch={**CONVNEXT, "conv_mlp": False}))
    file = tmp_path / "model.safetensors"
    save_file(net.model.state_dict(), file)
    twin = {"type": "dinov3.ConvNeXt", "name": None, "arch": arch, "checkpoint": str(file)}
    twin = build(twin, "backbone", where="").eval()
    twin.load_weights()
    pixels = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(net(pixels).tokens, twin(pixels).tokens, rtol=0, atol=1e-5)
    assert net(pixels).grid == (2, 3)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "test_efficientnet", "vit_base_patch16_siglip_224"])
def test_patches_are_row_by_row(name):
    net = small(name).eval()
    if name == "vit_base_patch16_siglip_224":  # without mixing, a token sees its own patch
        for block in net.model.blocks:
            torch.nn.init.zeros_(block.attn.proj.weight)
    pixels = torch.randn(1, 3, *net.size)
    changed = pixels.clone()
    step = net.size[0] // 8
    changed[..., :step, -step:] += 5.0  # the upper right corner
    with torch.no_grad():
        difference = (net(changed).tokens - net(pixels).tokens).abs().sum(-1)[0, net.prefix :]
    rows, columns = net(pixels).grid
    assert difference.view(rows, columns).argmax().item() == columns - 1


ALIKE = ("deit_tiny_distilled_patch16_224", "swinv2_tiny_window8_256", "vit_medium_patch16_reg4_gap_256")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in NETS]
)
def test_contract(name):
    if name in ("test_resnet", "test_efficientnet", "mobilenetv3_small_050"):
        pytest.skip("the check compares gradients in training with those in evaluation: not with batch norm")
    check_backbone(lambda: scattered(small(name)))  # some start with branches that are switched off


@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_every_parameter(name):
    net = small(name).train()
    features = net(torch.randn(4, 3, *net.size))
    (features.tokens * torch.randn_like(features.tokens)).sum().backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "beit_base_patch16_224",
        "eva02_tiny_patch14_224",
        "vit_base_patch16_siglip_224",
        "vit_medium_patch16_reg4_gap_256",
    ],
)
def test_blocks(name):
    net, pixels = small(name).eval(), torch.randn(2, 3, 32, 32)
    scattered(net.model)
    features = net(pixels, layers=2)
    seen = []
    net.layers()[0].register_forward_hook(lambda _, __, output: seen.append(output))
    assert torch.equal(features.tokens, net(pixels).tokens)
    norm = net.model.norm if name.startswith("vit") and "gap" not in name else net.model.fc_norm
    patches = norm(seen[0])[:, getattr(net.model, "num_prefix_tokens", 0) :]
    torch.testing.assert_close(features.blocks[0][:, net.prefix :], patches, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="layers must be between 1 and 2 for"):
        net(pixels, layers=3)


@pytest.mark.parametrize("name", NETS)
def test_adapters_reach_every_linear_layer(name):
    net = small(name)
    linear = sum(isinstance(part, torch.nn.Linear) for layer in net.layers() for part in layer.modules())
    if not linear:
        with pytest.raises(ValueError, match="no linear layers"):
            BackboneTuning("lora", rank=2).apply(net)
        return
    BackboneTuning("lora", rank=2).apply(scattered(net))
    names = net.adapter.parameter_names()
    assert len(names) == 2 * linear
    features = net.eval()(torch.randn(2, 3, *net.size))
    (features.tokens * torch.randn_like(features.tokens)).sum().backward()
    for key, parameter in net.named_parameters():  # B starts at zero, so that the gradient of A does too
        if "lora_B" in key:
            assert parameter.grad is not None, key
            assert parameter.grad.any(), key


@pytest.mark.slow
def test_blocks_of_many_nets():
    found = {
        "resnet18": 8,
        "convnext_tiny": 18,
        "swin_tiny_patch4_window7_224": 12,
        "vit_base_patch16_224": 12,
        "efficientnet_b0": 16,
        "regnetx_002": 0,
        "densenet121": 0,
        "maxvit_tiny_rw_224": 11,
        "caformer_s18": 18,
        "vgg11": 0,
        "res2net50_14w_8s": 16,
    }
    for name, count in found.items():
        with torch.device("meta"):
            net = timm.create_model(name, num_classes=0)
            blocks = find_blocks(net)
            assert len(blocks) == count, name
            order = [id(module) for module in net.modules()]
            places = [order.index(id(block)) for block in blocks]
            assert places == sorted(set(places)), name
            assert len(Timm(name, weights=False).layers()) >= max(count, 2), name


def test_checkpointing_recomputes():
    for name in ("vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224", "test_resnet"):
        net, counts = small(name).train(), []
        for _ in range(2):
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(1) or t, lambda t: t):
                net(torch.randn(2, 3, *net.size))
            counts.append(len(kept))
            net.enable_checkpointing()
        assert counts[1] < counts[0] * 0.7, name


def test_drop_path():
    name = "swin_tiny_patch4_window7_224"
    pixels = torch.randn(8, 3, 64, 64)
    assert torch.equal(*(net(pixels).tokens for net in [small(name).train()] * 2))  # timm's own default is 0.1
    assert not torch.equal(*(net(pixels).tokens for net in [small(name, drop_path=0.5).train()] * 2))
    with pytest.raises(ValueError, match="drop_path must be at least 0 and below 1, not 1"):
        small(name, drop_path=1.0)
    with torch.device("meta"), pytest.raises(ValueError, match="has no residual branches to skip: remove drop_path"):
        Timm("vgg11", weights=False, size=32, drop_path=0.1)


def test_preprocess_follows_timm_in_all_but_the_cut():
    for name in ("vit_base_patch14_dinov2.lvd142m", "resnet50.a1_in1k", "vit_base_patch16_siglip_224.webli"):
        with torch.device("meta"):
            preprocess = Timm(name).preprocess()
        cfg = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        assert (preprocess.size, preprocess.mean, preprocess.std) == (cfg["input_size"][1:], cfg["mean"], cfg["std"])
        assert preprocess.interpolation == cfg["interpolation"]
    with torch.device("meta"):
        assert Timm("resnet50", size=160).preprocess().size == (160, 160)


def published(tmp_path, name, **arguments):
    """timm's net of random weights, and a folder with it."""
    theirs = reference(name, **arguments)
    return theirs, folder_of(theirs, name, tmp_path / "net", model_args=NETS[name][1] | arguments)


@pytest.mark.parametrize("classes", [0, 7])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_weights_of_a_file_and_a_folder(tmp_path, classes, suffix):
    name = "vit_tiny_patch16_224"
    theirs, folder = published(tmp_path, name, num_classes=classes)
    file = tmp_path / "net" / "model.safetensors"
    if suffix != ".safetensors":
        file = tmp_path / "net" / f"pytorch_model{suffix}"
        torch.save({"state_dict": theirs.state_dict()}, file)
        (tmp_path / "net" / "model.safetensors").unlink()
    pixels = torch.randn(2, 3, 32, 32)
    expected = theirs.forward_features(pixels)
    loaded = small(name, weights=True, checkpoint=str(file)).eval()
    assert loaded.weights_id == str(file)
    assert (loaded(pixels).tokens - expected).abs().max() > 1e-2
    parameter = loaded.layers()[0].norm1.weight
    loaded.load_weights()
    assert loaded.layers()[0].norm1.weight is parameter
    assert torch.equal(loaded(pixels).tokens, expected)
    if suffix != ".pth":  # no name of a file in a repository
        net = Timm(folder).eval()
        assert (net.weights_id, net.size, net.prefix) == (folder, (32, 32), 1)
        assert (list(net.preprocess().mean), net.preprocess().interpolation) == ([0.4, 0.5, 0.6], "bilinear")
        net.load_weights()
        assert torch.equal(net(pixels).tokens, expected)


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224", "swinv2_tiny_window8_256"])
def test_positions_follow_another_size_as_in_timm(name, tmp_path):
    _, folder = published(tmp_path, name)
    size = NETS[name][0] * 2
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, img_size=size).eval()
    net = Timm(folder, size=size).eval()
    net.load_weights()
    pixels = torch.randn(1, 3, size, size)
    torch.testing.assert_close(net.model.forward_features(pixels), theirs.forward_features(pixels), rtol=0, atol=1e-6)
    assert net(pixels).grid == (size // (32 if name.startswith("swin") else 8),) * 2


def test_half_precision_weights_are_loaded_in_float32(tmp_path):
    theirs, folder = published(tmp_path, "convnext_atto")
    file = Path(folder) / "model.safetensors"
    save_file({key: value.bfloat16() for key, value in load_file(file).items()}, file)
    net = Timm(folder, size=32)
    net.load_weights()
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    torch.testing.assert_close(net.model.state_dict()["stem.0.weight"], theirs.stem[0].weight, rtol=0, atol=1e-2)


def test_running_statistics_are_loaded(tmp_path):
    theirs, folder = published(tmp_path, "test_resnet")
    net = Timm(folder, size=64).eval()
    net.load_weights()
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(net(pixels).tokens[:, 0], theirs(pixels))


def test_weights_that_do_not_fit(tmp_path):
    name = "vit_tiny_patch16_224"
    theirs, folder = published(tmp_path, name)
    file = Path(folder) / "model.safetensors"
    state = theirs.state_dict()
    for edit, message in (
        ({"blocks.1.norm1.weight": None}, r"do not fit .*Missing key\(s\) in state_dict: \"blocks.1.norm1.weight\""),
        ({"blocks.2.norm1.weight": torch.zeros(32)}, r"Unexpected key\(s\) in state_dict: \"blocks.2.norm1.weight\""),
        ({"blocks.1.norm1.weight": torch.zeros(16)}, r"size mismatch for blocks.1.norm1.weight"),
    ):
        save_file({key: t for key, t in {**state, **edit}.items() if t is not None}, file)
        net = Timm(folder)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            net.load_weights()
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    save_file(state, file)
    with pytest.raises(ValueError, match=r"do not fit .*without arch, or set weights=False"):
        Timm(folder, arch={"depth": 3}).load_weights()
    with torch.device("meta"):
        net = Timm(folder)
    with pytest.raises(ValueError, match="meta device"):
        net.load_weights()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"model\.safetensors is damaged or was cut short"):
        Timm(folder).find_weights()
    file.unlink()
    with pytest.raises(OSError, match=r"has none of model\.safetensors, pytorch_model\.bin"):
        Timm(folder).find_weights()
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    with pytest.raises(OSError, match=r"bad\.pth cannot be read as a checkpoint"):
        small(name, weights=True, checkpoint=str(tmp_path / "bad.pth")).load_weights()
    with pytest.raises(OSError, match=r"gone\.pth does not exist"):
        small(name, weights=True, checkpoint=str(tmp_path / "gone.pth")).find_weights()


def test_names():
    with torch.device("meta"):
        for name in ("resnet50.a1_in1k", "timm/resnet50.a1_in1k", "hf-hub:timm/resnet50.a1_in1k"):
            assert Timm(name).weights_id == "timm/resnet50.a1_in1k"
        default = timm.get_pretrained_cfg("resnet50").hf_hub_id
        assert Timm("resnet50").weights_id == default
        assert Timm("resnet50", weights=False).weights_id is None
    for name, message in (
        ("resnet5O", "timm has no net 'resnet5O'. Did you mean 'resnet50'"),
        ("vit_base_patch14_dinov2.lvd142", "no weights .* Of vit_base_patch14_dinov2 there are: vit_base_.*lvd142m"),
        ("qqqqqq", r"timm.list_models\(\)"),
        ("", "timm has no net ''"),
        ("facebook/dinov2-base", "For a model of transformers use encoders.HFVision"),
        ("weights/none", "There is no folder 'weights/none'"),
        (__file__, "is a file, which does not say of what net"),
    ):
        with pytest.raises(ValueError, match=message):
            Timm(name)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(OSError, match=r"has no config\.json"):
        Timm(str(tmp_path))
    config = tmp_path / "config.json"
    for content, message in (
        ("{", "is no valid JSON"),
        ("[]", "holds no JSON object"),
        ('{"architecture": "nonsense"}', "names no architecture that timm has"),
        ('{"model_type": "dinov2"}', "describes transformers' 'dinov2': use encoders.HFVision"),
    ):
        config.write_text(content)
        with pytest.raises(ValueError, match=message):
            Timm(str(tmp_path))
    config.write_text('{"architecture": "resnet18"}')
    with pytest.raises(ValueError, match="is a folder: remove revision"):
        Timm(str(tmp_path), revision="main")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 30}, "multiple of it, not 30: try 24 or 32"),
        ({"size": 0}, "size must be a positive number"),
        ({"arch": {"img_size": 32}}, "arch has no 'img_size': it is the argument 'size' of encoders.Timm"),
        ({"arch": {"num_classes": 3}}, "arch has no 'num_classes'"),
        ({"arch": {"dept": 3}}, "timm cannot build 'vit_tiny_patch16_224' so: .*unexpected keyword argument 'dept'"),
        ({"arch": {"depth": "two"}}, "timm cannot build 'vit_tiny_patch16_224' so: "),
        ({"checkpoint": "a.pth"}, "weights=False would leave the checkpoint unread"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small("vit_tiny_patch16_224", **arguments)


def test_nets_and_inputs_that_cannot_be_read():
    for name in ("crossvit_9_240", "pit_ti_224"):
        with torch.device("meta"), pytest.raises(ValueError, match=f"encoders.Timm cannot read '{name}'"):
            Timm(name, weights=False)
    with torch.device("meta"), pytest.raises(ValueError, match=r"does not take images of 256 x 256.*own size is 224"):
        Timm("efficientformer_l1", weights=False, size=256)
    with torch.device("meta"), pytest.raises(ValueError, match="no weights of 'convnextv2_small': set weights=False"):
        Timm("convnextv2_small")
    net = small("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="does not take these images"):
        net(torch.zeros(1, 3, 40, 40))
    with pytest.raises(ValueError, match=r"shape \(B, 3, H, W\)"):
        net(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match="no mask token"):
        net(torch.zeros(1, 3, 32, 32), mask=torch.zeros(1, 16, dtype=torch.bool))
    with torch.device("meta"), pytest.raises(ValueError, match="has no gradient checkpointing"):
        Timm("vgg11", weights=False, size=32).enable_checkpointing()
    any_size = small("vit_tiny_patch16_224", arch={**TINY, "dynamic_img_size": True})
    assert any_size(torch.zeros(1, 3, 40, 24)).grid == (5, 3)


def test_offline_message_has_every_step(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with torch.device("meta"):
        net, address = Timm("resnet18.a1_in1k"), Timm("gcvit_xxtiny.in1k")
    with pytest.raises(OSError) as caught:
        net.find_weights()
    message = str(caught.value)
    parts = (
        "'resnet18.a1_in1k' (timm/resnet18.a1_in1k) are not on this machine: HF_HUB_OFFLINE is set",
        "1. In mainland China: export HF_ENDPOINT=https://hf-mirror.com\n",
        "2. hf download timm/resnet18.a1_in1k --local-dir weights/resnet18.a1_in1k\n",
        "3. Run again with the override model.backbone.name=weights/resnet18.a1_in1k\n",
        "the override model.backbone.weights=False",
    )
    places = [message.index(part) for part in parts]
    assert places == sorted(places)
    with pytest.raises(OSError, match=r"curl -L --create-dirs -o weights/gcvit_xxtiny\.in1k\.pth https://"):
        address.find_weights()


def test_cached_weights_need_no_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from toolbox.utils import hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "explain_unreachable", lambda *_: pytest.fail("the network was asked"))
    cfg = timm.get_pretrained_cfg("test_vit")
    theirs = scattered(timm.create_model("test_vit"))
    repository = tmp_path / f"models--{cfg.hf_hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    folder_of(theirs, "test_vit", snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    net = Timm("test_vit").eval()
    net.find_weights()
    net.load_weights()
    pixels = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(net(pixels).tokens, theirs.forward_features(pixels), rtol=0, atol=1e-6)
