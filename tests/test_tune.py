"""What trains under each mode, and adapters that peft loads without this toolbox."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.vit import ViT
from torch import nn

from toolbox.base import Backbone, Features
from toolbox.builtins.tune import BackboneTuning

# peft asks transformers for a property that transformers 5 is renaming
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8, "num_register_tokens": 2}
GATED = {**VIT, "use_gated_mlp": True, "hidden_act": "silu"}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "layer_scale_init_value": 0.5}
PIXELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(**arguments) -> ViT:
    torch.manual_seed(0)
    return ViT(name=None, arch=VIT, size=32, **arguments)


def gated() -> ViT:
    torch.manual_seed(0)
    return ViT(name=None, arch=GATED, size=32)


def convnext() -> ConvNeXt:
    torch.manual_seed(0)
    return ConvNeXt(name=None, arch=CONVNEXT, size=32)


class Plain(Backbone):
    """A third party's backbone: a stem with running statistics, two blocks, a linear layer after them."""

    modality, dim = "image", 8

    def __init__(self, block=lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.GELU(), nn.Linear(8, 8))):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.BatchNorm2d(8, affine=False))
        self.blocks = nn.ModuleList([block() for _ in range(2)])
        self.after = nn.Linear(8, 8)

    def forward(self, inputs, *, layers=1, mask=None):
        x = self.stem(inputs).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return Features(self.after(x))

    def layers(self):
        return list(self.blocks)

    def preprocess(self):
        raise NotImplementedError


BUILDERS = {"vit": vit, "gated": gated, "convnext": convnext, "plain": Plain}
every_backbone = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def tokens(module, pixels=PIXELS):
    return module(pixels).tokens


def trainable(backbone) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


def train(backbone, steps=3, lr=0.5):
    """A few steps towards random tokens (a loss that a final norm would keep constant trains nothing)."""
    backbone.train()
    target = torch.randn(tokens(backbone).shape, generator=torch.Generator().manual_seed(1))
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (tokens(backbone) - target).square().mean().backward()
        optimizer.step()
    return backbone


def is_frozen(backbone, before) -> set[str]:
    """Names whose values are as in the state dict `before`."""
    state = backbone.state_dict()
    return {name for name in before if name in state and torch.equal(state[name], before[name])}


@every_backbone
def test_frozen(build):
    backbone = build()
    BackboneTuning(mode="frozen").apply(backbone)
    assert backbone.frozen
    backbone.train()
    assert not any(module.training for module in backbone.modules())


@every_backbone
def test_full(build):
    backbone = build()
    backbone.freeze()
    backbone = build()
    BackboneTuning().apply(backbone)
    assert trainable(backbone) == {name for name, _ in backbone.named_parameters()}
    backbone.train()
    assert all(module.training for module in backbone.modules())


@pytest.mark.parametrize("count", [1, 2])
def test_last_of_a_vit(count):
    backbone = vit()
    BackboneTuning(mode="last", last=count).apply(backbone)
    chosen = [f".layer.{index}." for index in range(3 - count, 3)]
    expected = {
        name
        for name, _ in backbone.named_parameters()
        if any(part in name for part in chosen) or name.startswith("model.norm.")
    }
    assert trainable(backbone) == expected
    assert any(name.endswith("norm.weight") for name in expected)
    backbone.train()
    assert [layer.training for layer in backbone.layers()] == [False] * (3 - count) + [True] * count
    assert not backbone.model.embeddings.training
    assert backbone.model.norm.training


def test_last_of_a_convnext_and_of_a_third_party():
    backbone = convnext()
    BackboneTuning(mode="last", last=2).apply(backbone)
    names = trainable(backbone)
    assert {name.partition("layers.")[0].rpartition("stages.")[2] for name in names if "stages" in name} == {"2.", "3."}
    assert {name for name in names if "stages" not in name} == {"model.layer_norm.weight", "model.layer_norm.bias"}
    # the reduction between the last two blocks stands before the last block, so it is frozen
    assert not any("downsample" in name for name in names)
    plain = Plain()
    BackboneTuning(mode="last").apply(plain)
    assert {name.split(".")[0] + name.split(".")[1] for name in trainable(plain)} == {
        "blocks1",
        "afterweight",
        "afterbias",
    }
    before = copy.deepcopy(plain.state_dict())
    train(plain)
    changed = set(before) - is_frozen(plain, before)
    assert changed == trainable(plain), "running statistics of the frozen stem must not move either"


def test_last_of_too_few():
    with pytest.raises(ValueError, match="last is 4, but this backbone has 3 blocks: use at most 3"):
        BackboneTuning(mode="last", last=4).apply(vit())
    backbone = vit()
    BackboneTuning(mode="last", last=3).apply(backbone)
    assert len(trainable(backbone)) > 0


LINEAR = {
    "vit": {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"},
    "gated": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "convnext": {"pointwise_conv1", "pointwise_conv2"},
    "plain": {"0", "3"},
}


@pytest.mark.parametrize("kind", LINEAR)
def test_lora_is_on_every_linear_layer_of_every_block(kind):
    backbone = BUILDERS[kind]()
    depth, names = len(backbone.layers()), {name for name, _ in backbone.named_parameters()}
    BackboneTuning(mode="lora", rank=4).apply(backbone)
    found = trainable(backbone)
    assert found == backbone.adapter.parameter_names()
    assert len(found) == 2 * depth * len(LINEAR[kind])
    for layer in backbone.layers():
        on = {name.partition(".lora_")[0].rpartition(".")[2] for name, p in layer.named_parameters() if p.requires_grad}
        assert on == LINEAR[kind]
    base = {name.replace(".base_layer.", ".") for name, _ in backbone.named_parameters()} - found
    assert base == names
    ranks = {p.shape[0] for name, p in backbone.named_parameters() if "lora_A" in name}
    assert ranks == {4}


@every_backbone
def test_lora_changes_nothing_at_first_and_trains_only_itself(build):
    backbone = build().eval()
    before, state = tokens(backbone), copy.deepcopy(backbone.state_dict())
    BackboneTuning(mode="lora").apply(backbone)
    # not bit by bit: torch takes another convolution for frozen weights
    torch.testing.assert_close(tokens(backbone.eval()), before)
    train(backbone)
    assert (tokens(backbone.eval()) - before).abs().max() > 1e-3
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == (name in backbone.adapter.parameter_names()), name
    after = {name.replace(".base_layer.", "."): value for name, value in backbone.state_dict().items()}
    for name, value in state.items():
        assert torch.equal(after[name], value), name


def test_dropout_and_drop_path_stay_active_between_adapters():
    for backbone in (vit(drop_path=0.5), Plain()):
        BackboneTuning(mode="lora").apply(backbone)
        backbone.train()
        assert not torch.equal(tokens(backbone), tokens(backbone))
    backbone = vit()
    BackboneTuning(mode="lora", dropout=0.5).apply(backbone)
    train(backbone)
    assert not torch.equal(tokens(backbone), tokens(backbone))
    backbone.eval()
    assert torch.equal(tokens(backbone), tokens(backbone))


def test_checkpointing_gives_adapters_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        backbone = vit().train()
        if checkpointing:
            backbone.enable_checkpointing()
        BackboneTuning(mode="lora", rank=2).apply(backbone)
        assert all(layer.training for layer in backbone.layers())
        tokens(backbone).square().mean().backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_targets():
    backbone = vit()
    BackboneTuning(mode="lora", targets=["q_proj", "v_proj"]).apply(backbone)
    assert len(trainable(backbone)) == 2 * 3 * 2
    assert all(".q_proj." in name or ".v_proj." in name for name in trainable(backbone))
    with pytest.raises(ValueError, match=r"\['query'\] match no linear layer. There are down_proj, k_proj, o_proj"):
        BackboneTuning(mode="lora", targets=["query", "q_proj"]).apply(vit())
    with pytest.raises(ValueError, match=r"targets \[\] match no"):
        BackboneTuning(mode="lora", targets=[]).apply(vit())


def save(backbone, folder):
    backbone.adapter.save_config(folder)
    state = {key: value.clone() for key, value in backbone.adapter.state_dict().items()}
    save_file(state, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("options", [{}, {"rank": 2, "alpha": 3.5}, {"targets": None, "dropout": 0.1}])
@pytest.mark.parametrize("kind", ["vit", "gated", "convnext"])
def test_peft_alone_loads_the_adapter(kind, options, tmp_path):
    build = BUILDERS[kind]
    backbone = build()
    BackboneTuning(mode="lora", **options).apply(backbone)
    train(backbone).eval()
    save(backbone, tmp_path)

    bare = build().model.eval()
    assert type(bare).__module__.startswith("transformers.")
    without = bare(PIXELS).last_hidden_state
    loaded = peft.PeftModel.from_pretrained(bare, str(tmp_path)).eval()
    assert torch.equal(loaded(PIXELS).last_hidden_state, tokens(backbone))
    assert not torch.equal(without, tokens(backbone)), "the adapter does nothing"


def test_saved_files_are_what_peft_writes(tmp_path):
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    theirs = peft.get_peft_model(vit().model, peft.LoraConfig(**options))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    backbone = vit()
    BackboneTuning(mode="lora", rank=4, targets=["q_proj", "v_proj"]).apply(backbone)
    save(backbone, tmp_path)
    tensors = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert {key: value.shape for key, value in tensors.items()} == {
        key: value.shape for key, value in backbone.adapter.state_dict().items()
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    expected = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    assert config.pop("target_modules") == sorted(config_names(backbone))
    differ = {key for key in config if config[key] != expected[key]}
    assert differ <= {"auto_mapping", "base_model_name_or_path"}
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    assert config["base_model_name_or_path"] is None


def config_names(backbone) -> set[str]:
    return {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in backbone.adapter.state_dict()}


def test_config_names_the_weights_it_belongs_to_and_is_reproducible(tmp_path):
    texts = []
    for folder in ("a", "b"):
        backbone = vit()
        backbone.weights_id = "facebook/dinov3-vits16-pretrain-lvd1689m"
        BackboneTuning(mode="lora").apply(backbone)
        backbone.adapter.save_config(tmp_path / folder)
        texts.append((tmp_path / folder / "adapter_config.json").read_text())
    assert texts[0] == texts[1]
    config = json.loads(texts[0])
    assert config["base_model_name_or_path"] == "facebook/dinov3-vits16-pretrain-lvd1689m"
    assert config["target_modules"] == sorted(config["target_modules"])


def test_adapter_state_round_trip_and_what_does_not_fit():
    first, second = vit(), vit()
    for backbone in (first, second):
        BackboneTuning(mode="lora", rank=2).apply(backbone)
    train(first).eval()
    second.eval()
    assert not torch.equal(tokens(first), tokens(second))
    second.adapter.load_state_dict(first.adapter.state_dict())
    assert torch.equal(tokens(first), tokens(second))

    state = first.adapter.state_dict()
    key = sorted(state)[0]
    for broken, message in (
        ({name: value for name, value in state.items() if name != key}, f"missing {key}"),
        ({**state, "extra": torch.zeros(1)}, "unexpected extra"),
        ({**state, key: torch.zeros(1, 1)}, rf"{key} has shape \(1, 1\) instead of"),
    ):
        with pytest.raises(ValueError, match=message):
            second.adapter.load_state_dict(broken)
        assert torch.equal(tokens(first), tokens(second)), "a refused state must change nothing"


def test_a_copy_has_an_adapter_of_its_own():
    backbone = vit()
    BackboneTuning(mode="lora").apply(backbone)
    other = copy.deepcopy(backbone)
    train(other)
    key = next(key for key in backbone.adapter.state_dict() if "lora_B" in key)
    assert backbone.adapter.state_dict()[key].abs().sum() == 0
    assert other.adapter.state_dict()[key].abs().sum() > 0


@pytest.mark.parametrize("mode", ["frozen", "lora", "last", "full"])
def test_on_the_meta_device(mode):
    with torch.device("meta"):
        backbone = ViT("vits16", size=32)
    BackboneTuning(mode=mode).apply(backbone)
    assert all(parameter.is_meta for parameter in backbone.parameters())
    counts = {
        "frozen": 0,
        "lora": 12 * 16 * (4 * 2 * 384 + 2 * (384 + 1536)),
        "last": 1774848 + 768,
        "full": 21596544,
    }
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == counts[mode]


def test_backbones_that_cannot_take_adapters():
    with pytest.raises(ValueError, match="Plain has no linear layers inside layers"):
        BackboneTuning(mode="lora").apply(Plain(block=lambda: nn.LayerNorm(8)))
    # torch's own encoder layer reads its weights directly in eval mode: an adapter in it would be silently left out
    fused = Plain(block=lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    with pytest.raises(ValueError, match="Plain has no linear layers inside layers"):
        BackboneTuning(mode="lora").apply(fused)
    backbone = vit()
    BackboneTuning(mode="lora").apply(backbone)
    with pytest.raises(ValueError, match="has an adapter already"):
        BackboneTuning(mode="lora").apply(backbone)


def test_same_names_outside_the_blocks_are_no_trap():
    class Twin(Plain):
        def __init__(self):
            super().__init__()
            self.outer = nn.ModuleDict({"blocks": nn.ModuleList([nn.Sequential(nn.Linear(8, 8))])})

    with pytest.raises(ValueError, match=r"cannot tell apart: outer\.blocks\.0\.0"):
        BackboneTuning(mode="lora").apply(Twin())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "lorra"}, "one of 'frozen', 'lora', 'last', 'full', not 'lorra'"),
        (
            {"mode": "full", "rank": 8},
            "'full' has no rank: give tune as a whole, .*dict.mode='full'.*or set mode to 'lora'",
        ),
        ({"rank": 16}, "'full' has no rank"),
        ({"mode": "frozen", "dropout": 0.0, "alpha": 1.0}, "'frozen' has no alpha, dropout"),
        ({"mode": "last", "targets": ["q_proj"]}, "'last' has no targets"),
        ({"mode": "lora", "last": 2}, "'lora' has no last: give tune as a whole.*, or set mode to 'last'"),
        ({"mode": "lora", "rank": 0}, "rank and last must be at least 1"),
        ({"mode": "last", "last": 0}, "rank and last must be at least 1"),
        ({"mode": "lora", "alpha": 0.0}, "alpha must be positive"),
        ({"mode": "lora", "dropout": 1.0}, "dropout at least 0 and below 1"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BackboneTuning(**arguments)
