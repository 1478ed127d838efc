"""Linear layers in 4 and 8 bits: their numbers, their gradients, what adapters on them are, and how small they get."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys

import pytest
import torch
from test_tune import PIXELS, VIT, Plain, convnext, trainable, vit
from toolbox_dinov3.vit import ViT
from toolbox_encoders.hf_vision import HFVision
from toolbox_encoders.timm_backbone import Timm
from torch import nn

from toolbox.base import Backbone
from toolbox.builtins.quantizing import libraries
from toolbox.builtins.quantizing.packed import Format
from toolbox.builtins.quantizing.quantize import LinearQuantization
from toolbox.builtins.quantizing.quantized_linear import QuantizedLinear
from toolbox.builtins.tune import BackboneTuning

# peft asks transformers for a property that transformers 5 is renaming
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WAYS = {
    "nf4": LinearQuantization(),
    "nf4 nested": LinearQuantization(nested=True),
    "fp4": LinearQuantization(kind="fp4"),
    "fp4 nested": LinearQuantization(kind="fp4", nested=True),
    "int8": LinearQuantization(8, library="bitsandbytes"),
    "int8 torchao": LinearQuantization(8, library="torchao"),
}
if not libraries.is_installed("torchao"):  # optional: where it is installed, importing transformers logs its complaints
    del WAYS["int8 torchao"]
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
STEP = {"nf4": 0.17, "fp4": 0.2, "int8": 0.5 / 126}
"""Half the widest gap between two values of a kind, in units of the largest weight of a block or row."""


def tiny_timm() -> Backbone:
    torch.manual_seed(0)
    return Timm("vit_tiny_patch16_224", weights=False, size=32)


def siglip() -> Backbone:
    torch.manual_seed(0)
    arch = dict(
        model_type="siglip_vision_model",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=8,
        image_size=32,
    )
    return HFVision(name=None, arch=arch, size=32)


BUILDERS = {"vit": vit, "timm, fused qkv": tiny_timm, "convnext": convnext, "hf": siglip, "plain": Plain}
every_backbone = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def tokens(backbone) -> torch.Tensor:
    return backbone.eval()(PIXELS).tokens


def quantised(backbone) -> list[QuantizedLinear]:
    return [module for module in backbone.modules() if isinstance(module, QuantizedLinear)]


def unpacked(backbone: Backbone) -> Backbone:
    """A copy with plain linear layers that hold the unpacked weights."""
    backbone = copy.deepcopy(backbone)
    for parent in list(backbone.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, QuantizedLinear):
                plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                plain.weight = nn.Parameter(layer.weight, requires_grad=False)
                plain.bias = layer.bias
                setattr(parent, name, plain)
    return backbone


# --- numbers -----------------------------------------------------------------------------------------------------
@every_way
@pytest.mark.parametrize("shape", [(64, 64), (32, 32), (48, 96), (7, 5), (10, 33), (3, 129), (200, 130)])
def test_every_weight_is_within_half_a_step_of_what_it_was(way, shape):
    # the library's own 4-bit product is wrong on CPUs for rows that are no multiple of 64
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 0, shape[0])[:, None]
    format = way._format()
    found = format.unpack(format.pack(weight), weight.shape, torch.float32)
    if format.kind == "int8":
        largest = weight.abs().amax(1, keepdim=True).expand_as(weight)
    else:
        flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
        largest = flat.abs().amax(1, keepdim=True).expand_as(flat).flatten()[: weight.numel()].view(shape)
    slack = 0.02 * weight.abs().max() if format.nested else 1e-3 * largest  # scales in 8 bits; a float16 on the way
    assert ((found - weight).abs() <= STEP[format.kind] * largest + slack).all()
    assert (found - weight).abs().max() > 0


@every_way
def test_packed_tensors_have_the_shapes_that_the_meta_device_tells(way):
    format = way._format()
    for shape in ((64, 64), (7, 5), (300, 130)):
        real, meta = format.pack(torch.randn(shape)), format.pack(torch.empty(shape, device="meta"))
        assert {name: (t.shape, t.dtype) for name, t in real.items()} == {
            name: (t.shape, t.dtype) for name, t in meta.items()
        }


@pytest.mark.parametrize(
    ("build", "way"),
    [pytest.param(vit, way, id=f"vit-{name}") for name, way in WAYS.items()]
    + [pytest.param(build, WAYS["nf4"], id=name) for name, build in BUILDERS.items() if build is not vit],
)
def test_features_stay_close_and_nothing_but_linear_layers_in_blocks_changes(build, way):
    backbone = build()
    names = dict(backbone.named_parameters())
    inside = {id(p) for layer in backbone.layers() for p in layer.parameters()}
    before, kept = tokens(backbone), {name: p for name, p in names.items() if id(p) not in inside or p.ndim != 2}
    count = way.apply(backbone)
    after = tokens(backbone)
    assert len(quantised(backbone)) == count > 0
    assert nn.functional.cosine_similarity(before, after, dim=-1).min() > (0.999 if way.bits == 8 else 0.9)
    assert not torch.equal(before, after)
    here = dict(backbone.named_parameters())
    assert all(torch.equal(here[name], value) for name, value in kept.items())
    assert all(not p.is_floating_point() or p.dtype == torch.float32 for p in backbone.parameters())


@every_way
def test_it_computes_what_plain_layers_with_the_unpacked_weights_do_to_the_bit(way):
    backbone = vit()
    way.apply(backbone)
    plain = unpacked(backbone)
    assert torch.equal(tokens(backbone), tokens(plain))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokens(backbone), tokens(plain))


def test_training_and_evaluation_compute_the_same_in_any_order():
    backbone = vit()
    LinearQuantization().apply(backbone)
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    pixels = PIXELS.clone().requires_grad_()

    def gradient():
        pixels.grad = None
        backbone.train()(pixels).tokens.square().sum().backward()
        return pixels.grad

    first = gradient()
    with torch.no_grad():
        evaluated = tokens(backbone)
    assert torch.equal(gradient(), first)
    assert torch.equal(backbone.train()(pixels).tokens, evaluated)
    assert all(torch.equal(state[name], tensor) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("compute", "autocast", "inside", "result"),
    [
        (None, None, torch.float32, torch.float32),
        (None, torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ("bf16", None, torch.bfloat16, torch.float32),
        ("fp32", torch.bfloat16, torch.float32, torch.bfloat16),
    ],
)
def test_products_are_computed_in_what_was_asked_for(compute, autocast, inside, result):
    way = LinearQuantization(compute=compute)
    linear, inputs = nn.Linear(64, 8), torch.randn(4, 64)
    layer = QuantizedLinear(linear, way._format(), {"bf16": torch.bfloat16, "fp32": torch.float32}.get(compute))
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        found = layer(inputs)
    expected = nn.functional.linear(inputs.to(inside), layer.weight.to(inside), linear.bias.to(inside))
    assert found.dtype == result
    assert torch.equal(found, expected.to(result))


# --- adapters ----------------------------------------------------------------------------------------------------
@every_backbone
def test_adapters_on_4_bits_get_the_gradients_of_adapters_on_the_unpacked_weights(build):
    backbone = build()
    LinearQuantization().apply(backbone)
    plain = unpacked(backbone)
    for one in (backbone, plain):
        torch.manual_seed(5)
        BackboneTuning("lora", rank=4).apply(one)
        with torch.no_grad():
            for name, parameter in one.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
        found = one.eval()(PIXELS).tokens
        (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert trainable(backbone) == backbone.adapter.parameter_names()
    found, expected = dict(backbone.named_parameters()), dict(plain.named_parameters())
    assert all(p.grad is None for name, p in found.items() if name not in trainable(backbone))
    reached = [name for name in trainable(backbone) if expected[name].grad is not None]
    assert len(reached) > 0
    for name in reached:
        torch.testing.assert_close(found[name].grad, expected[name].grad, rtol=1e-4, atol=1e-5)
    assert any(expected[name].grad.abs().max() > 1e-2 for name in reached)


def test_the_adapter_is_that_of_the_backbone_in_full_precision():
    full, small = vit(), vit()
    LinearQuantization().apply(small)
    for one in (full, small):
        BackboneTuning("lora", rank=4).apply(one)
    shapes = [{name: t.shape for name, t in one.adapter.state_dict().items()} for one in (full, small)]
    assert shapes[0] == shapes[1]
    assert all(t.dtype == torch.float32 for t in small.adapter.state_dict().values())
    full.adapter.load_state_dict(small.adapter.state_dict())


def test_an_adapter_is_not_put_into_quantised_weights():
    backbone = vit()
    LinearQuantization().apply(backbone)
    BackboneTuning("lora").apply(backbone)
    before = tokens(backbone)
    with pytest.raises(ValueError, match="cannot be put into quantised weights"):
        backbone.adapter.merge()
    assert torch.equal(tokens(backbone), before)


def test_recomputing_activations_changes_nothing():
    found = []
    for again in (False, True):
        backbone = vit()
        LinearQuantization().apply(backbone)
        torch.manual_seed(0)
        BackboneTuning("lora").apply(backbone)
        if again:
            backbone.enable_checkpointing()
        backbone.train()(PIXELS).tokens.square().mean().backward()
        found.append([p.grad for p in backbone.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# --- memory ------------------------------------------------------------------------------------------------------
def test_a_vit_b_in_nested_nf4_has_at_most_30_percent_of_its_bytes_in_bf16():
    with torch.device("meta"):
        backbone = ViT("vitb16", weights=False)
        numbers = sum(parameter.numel() for parameter in backbone.parameters())
        assert LinearQuantization(nested=True).apply(backbone) == 72
    stored = sum(tensor.nbytes for tensor in (*backbone.parameters(), *backbone.buffers()))
    assert numbers > 85e6
    assert stored <= 0.30 * 2 * numbers
    assert stored > 0.25 * 2 * numbers, "4 bits a weight cannot be less"


def test_nothing_float_of_a_weight_stays_behind():
    backbone = vit()
    LinearQuantization(nested=True).apply(backbone)
    for layer in quantised(backbone):
        held = sum(p.nbytes for name, p in layer.named_parameters() if name != "bias")
        assert held < 0.6 * layer.in_features * layer.out_features + 64
        assert not [value for value in vars(layer).values() if isinstance(value, torch.Tensor)]


# --- bad input ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(bits=3), "bits is 4 or 8, not 3"),
        (dict(bits=True), "bits is 4 or 8"),
        (dict(kind="int4"), "'nf4' or"),
        (dict(bits=8, kind="nf4"), "8 bits have no kind"),
        (dict(bits=8, nested=True), "8 bits have no kind"),
        (dict(compute="half"), "compute is one of"),
        (dict(library="quanto"), "'auto', 'bitsandbytes' or 'torchao'"),
        (dict(library="torchao"), "8 bits only"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearQuantization(**arguments)


class Convolutions(Plain):
    def __init__(self):
        super().__init__(lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU()))


def test_a_backbone_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="Convolutions has no plain linear layers"):
        LinearQuantization().apply(Convolutions())


class Doubling(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def test_layers_that_compute_something_else_stay_as_they_are():
    backbone = Plain(lambda: nn.Sequential(Doubling(8, 8), nn.Linear(8, 8)))
    assert LinearQuantization().apply(backbone) == 2
    assert sum(isinstance(module, Doubling) for module in backbone.modules()) == 2


def test_a_layer_that_stands_in_two_places_stays_one():
    shared = nn.Linear(8, 8)
    backbone = Plain(lambda: nn.Sequential(shared, nn.GELU()))
    assert LinearQuantization().apply(backbone) == 1
    assert backbone.blocks[0][0] is backbone.blocks[1][0]


def test_weights_that_are_not_finite_are_refused():
    backbone = vit()
    with torch.no_grad():
        backbone.layers()[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        LinearQuantization().apply(backbone)


def only(monkeypatch, *names):
    monkeypatch.setattr(libraries, "is_installed", lambda name: name in names)


def test_8_bits_take_the_library_that_is_there(monkeypatch):
    only(monkeypatch, "bitsandbytes", "torchao")
    assert LinearQuantization(8).describe()["library"] == "bitsandbytes"
    only(monkeypatch, "torchao")
    assert LinearQuantization(8).describe()["library"] == "torchao"
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        LinearQuantization().apply(vit())
    only(monkeypatch)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        LinearQuantization(8).apply(vit())


def test_an_old_library_is_refused_with_the_command(monkeypatch):
    monkeypatch.setattr(libraries.metadata, "version", lambda name: "0.41.3.post2")
    with pytest.raises(ValueError, match=r"0\.41\.3\.post2 is too old\. Try: pip install -U 'bitsandbytes>=0\.46'"):
        LinearQuantization().apply(vit())


def test_a_device_that_the_library_cannot_use_is_named(monkeypatch):
    LinearQuantization().try_on(torch.device("cpu"))

    def fails(*_):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(Format, "unpack", fails)
    with pytest.raises(ValueError, match="bitsandbytes has no 4 bits on cpu: no kernel"):
        LinearQuantization().try_on(torch.device("cpu"))
    monkeypatch.setattr(Format, "unpack", lambda self, packed, shape, dtype: torch.zeros(shape))
    with pytest.raises(ValueError, match="wrong numbers"):
        LinearQuantization().try_on(torch.device("cpu"))


_IMPORTS = """
import importlib.abc, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kernels":
            print("looked for kernels")
sys.meta_path.insert(0, Watch())
from toolbox.builtins.quantizing import libraries
libraries.before_peft()
libraries.import_bitsandbytes()
if libraries.is_installed("torchao"):
    libraries.import_torchao()
assert "kernels" not in sys.modules
"""


def test_importing_the_libraries_says_nothing_and_looks_for_no_code_elsewhere():
    done = subprocess.run([sys.executable, "-W", "error", "-c", _IMPORTS], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_what_it_is_reads_well():
    text = "LinearQuantization(library='bitsandbytes', bits=4, kind='nf4', nested=True, compute='bf16')"
    assert repr(LinearQuantization(nested=True, compute="bf16")) == text
    assert VIT["hidden_size"] % 64 != 0, "the tests above see rows that are no multiple of a block"
