"""Compiled blocks and channels-last memory: they are really in use, and change nothing but the speed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pretrained import ARCH
from test_exactness import assert_same, interrupt_at, trained
from test_resume import interrupted

import toolbox
from toolbox.base import Batch
from toolbox.engine import speed
from toolbox.engine.assemble import apply_tuning, build_structure

CPU = torch.device("cpu")
# torch hides this one itself while it traces, but not where warnings are errors
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.fixture
def counted(monkeypatch):
    """A backend that counts `calls` of compiled code and the `graphs` that it was given; dynamo is clean around it."""
    from torch._dynamo.backends import registry

    class Counted:
        calls = graphs = 0

        def __call__(self, graph, example_inputs):
            self.graphs += 1

            def run(*arguments):
                self.calls += 1
                return graph.forward(*arguments)

            return run

    torch._dynamo.reset()
    backend = Counted()
    monkeypatch.setitem(registry._BACKENDS, "counted", None)
    monkeypatch.setitem(registry._COMPILER_FNS, "counted", backend)
    yield backend
    torch._dynamo.reset()


COMPILED = "env_cfg.compile=dict(backend='counted')"
BACKBONES = {
    "dinov3.ViT": dict(type="dinov3.ViT", name=None, arch=ARCH, size=32),
    "dinov3.ConvNeXt": dict(
        type="dinov3.ConvNeXt", name=None, size=32, arch=dict(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 2, 1])
    ),
    "timm": dict(
        type="encoders.Timm",
        name="vit_tiny_patch16_224",
        size=32,
        weights=False,
        arch=dict(depth=3, embed_dim=24, num_heads=2),
    ),
    "timm resnet": dict(type="encoders.Timm", name="resnet10t", size=32, weights=False),
}


def built(backbone: dict, tune: str = "full", checkpointing: bool = False):
    torch.manual_seed(0)
    model = build_structure(
        {
            "model": dict(
                type="retrieval.Embedder",
                loss=dict(type="losses.SupCon"),
                head=dict(type="core.Projection", dim=8),
                backbone=backbone | dict(tune=dict(mode=tune), gradient_checkpointing=checkpointing),
            )
        },
        classes=2,
    )
    apply_tuning(model)
    return model.train()


def batch(rows: int = 6, size: int = 32):
    images = torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(rows))
    return Batch.example({"image": images}, labels=torch.arange(rows) // 2)


def gradients(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model.zero_grad(set_to_none=True)
    model(batch(), "loss")["loss"].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_block_of_a_backbone_is_called_compiled(counted, name):
    model = built(BACKBONES[name])
    names = list(model.state_dict())
    plain = gradients(model)
    speed.compile_blocks(model, {"backend": "counted"}, CPU)
    counted.calls = 0
    found = gradients(model)
    assert counted.calls >= len(model.backbone.layers()) > 1
    assert list(model.state_dict()) == names
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tune", ["full", "lora", "frozen", "last"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_blocks_train_alike_under_any_tuning(counted, backend, tune, checkpointing):
    plain = gradients(built(BACKBONES["dinov3.ViT"], tune, checkpointing))
    model = built(BACKBONES["dinov3.ViT"], tune, checkpointing)
    speed.compile_blocks(model, {"backend": backend}, CPU)
    found = gradients(model)
    assert found.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_more_unlike_blocks_than_torch_compiles_by_default_are_all_compiled(counted):
    """torch counts variants over all modules of a class and runs what comes after the eighth as written."""
    backbone = BACKBONES["dinov3.ViT"] | dict(arch=ARCH | dict(num_hidden_layers=12), drop_path=0.1)
    model = built(backbone)
    speed.compile_blocks(model, {"backend": "counted"}, CPU)
    counted.calls = 0
    gradients(model)
    assert counted.calls >= 12


def test_an_uneven_batch_compiles_each_kind_of_block_once_more(counted):
    model = built(BACKBONES["dinov3.ViT"]).eval()
    speed.compile_blocks(model, {"backend": "counted"}, CPU)
    graphs = []
    with torch.inference_mode():
        for rows in (6, 6, 4, 4, 6):
            model(batch(rows), "predict")
            graphs.append(counted.graphs)
    assert graphs[0] == graphs[1] < graphs[2] == graphs[3] == graphs[4]
    assert graphs[2] - graphs[1] <= 2


def test_with_variable_shapes_it_compiles_nothing_more(counted):
    model = built(BACKBONES["dinov3.ViT"]).eval()
    speed.compile_blocks(model, {"backend": "counted", "dynamic": True}, CPU)
    graphs = []
    with torch.inference_mode():
        for rows in (6, 4, 9):
            model(batch(rows), "predict")
            graphs.append(counted.graphs)
    assert graphs[0] == graphs[1] == graphs[2]


MANNERS = {
    "plain": [],
    "chunks": ["optim_wrapper.grad_cache=dict(chunk_size=3)"],
    "lora": ["model.backbone.tune=dict(mode='lora',rank=2,dropout=0.1)", "optim_wrapper.average=dict(decay=0.9)"],
    "accumulation, uneven evaluation": ["optim_wrapper.accumulative_counts=2", "val_dataloader.batch_size=24"],
}


@pytest.mark.parametrize(
    "manner", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in list(MANNERS)[1:])]
)
def test_a_compiled_run_equals_the_plain_one_and_resumes_exactly(toy, counted, monkeypatch, manner):
    options = [*MANNERS[manner], COMPILED]
    toolbox.train(toy(MANNERS[manner]), out="plain")
    toolbox.train(toy(options), out="whole")
    assert counted.calls > 12
    for a, b in zip(trained(Path("plain"))[:2], trained(Path("whole"))[:2], strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
    interrupt_at(monkeypatch, 5)
    torch._dynamo.reset()
    interrupted(toy(options), out="stopped")
    torch._dynamo.reset()  # as in another process
    toolbox.train(toy(options), out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))


def test_what_torch_cannot_compile_is_one_message(toy, counted, monkeypatch):
    def no_compiler(graph, example_inputs):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx")

    monkeypatch.setattr(type(counted), "__call__", lambda self, *given: no_compiler(*given))
    with pytest.raises(toolbox.ToolboxError, match="There is no C\\+\\+ compiler") as caught:
        toolbox.train(toy([COMPILED]), out="w")
    assert "env_cfg.compile=False" in str(caught.value)


def test_a_block_that_fails_to_compile_is_one_message_too(toy, counted, monkeypatch):
    original = type(counted).__call__

    def only_small(self, graph, example_inputs):
        if self.graphs:
            raise RuntimeError("this backend knows no layer norm")
        return original(self, graph, example_inputs)

    monkeypatch.setattr(type(counted), "__call__", only_small)
    with pytest.raises(toolbox.ToolboxError, match="this backend knows no layer norm") as caught:
        toolbox.train(toy([COMPILED]), out="w")
    assert "env_cfg.compile=False" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("dict(moode='x')", "no key 'moode'"),
        ("dict(mode='fastest')", "no mode 'fastest'"),
        ("dict(mode='reduce-overhead')", "'reduce-overhead' records CUDA graphs"),
        ("dict(mode='max-autotune')", "'max-autotune' records CUDA graphs"),
        ("dict(backend='cudagraphs')", "'cudagraphs' records CUDA graphs"),
        ("dict(backend='nothing')", "no backend 'nothing'"),
        ("dict(backend='eager',mode='default')", "has no modes"),
        ("dict(dynamic='yes')", "bool is expected"),
        ("3", "is expected here, not 3"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(toy, value, said):
    found = toolbox.check_config(toy([f"env_cfg.compile={value}"]))
    assert len(found) == 1
    assert said in str(found[0])


# ---- channels-last memory


def convolutions(model) -> list[torch.Tensor]:
    return [module.weight for module in model.backbone.modules() if isinstance(module, torch.nn.Conv2d)]


def is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def test_convolutions_and_what_they_are_given_are_channels_last():
    model = built(BACKBONES["timm resnet"])
    plain = gradients(model)
    seen = []
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda module, given: seen.append(is_channels_last(given[0])))
    gradients(model)
    assert not all(seen)
    seen.clear()
    speed.use_channels_last(model)
    found = gradients(model)
    assert all(map(is_channels_last, convolutions(model)))
    assert seen == [True] * len(convolutions(model))
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


def test_a_channels_last_run_resumes_exactly_and_writes_ordinary_files(toy, monkeypatch):
    options = ["env_cfg.channels_last=True", "optim_wrapper.average=dict(decay=0.9)"]
    toolbox.train(toy(options), out="whole")
    interrupt_at(monkeypatch, 5)
    interrupted(toy(options), out="stopped")
    toolbox.train(toy(options), out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))
    toolbox.train(toy(options[1:]), out="plain")
    for a, b in zip(trained(Path("plain"))[:2], trained(Path("whole"))[:2], strict=True):
        assert {name: (value.shape, value.stride()) for name, value in a.items()} == {
            name: (value.shape, value.stride()) for name, value in b.items()
        }
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_without_the_layout_of_its_state_a_resumed_optimizer_would_be_wrong(toy, monkeypatch):
    """Negative control: torch's fused AdamW takes state of another layout and mixes up its values in silence."""
    options = ["env_cfg.channels_last=True"]
    toolbox.train(toy(options), out="whole")
    interrupt_at(monkeypatch, 5)
    interrupted(toy(options), out="stopped")
    monkeypatch.setattr("toolbox.engine.train_step._laid_out_as", lambda parameter, state: state)
    toolbox.train(toy(options), out="stopped", resume=True)
    with pytest.raises(AssertionError):
        assert_same(Path("whole"), Path("stopped"))


def test_the_check_says_where_channels_last_is_useless(toy):
    from toolbox import api

    note = "channels_last has next to no effect"
    on = "env_cfg.channels_last=True"
    assert any(note in said for said in api.plan(toy([on])).notes)
    assert not any(note in said for said in api.plan(toy()).notes)
    settings = {"channels_last": True, "compile": False}
    assert speed.notes(built(BACKBONES["dinov3.ViT"]), settings)
    assert not speed.notes(built(BACKBONES["dinov3.ConvNeXt"]), settings)
    assert not speed.notes(built(BACKBONES["timm resnet"]), settings)


def test_channels_last_weights_cannot_be_sharded(toy):
    found = toolbox.check_config(toy(["env_cfg.channels_last=True", "env_cfg.parallel.mode=fsdp"]))
    assert [problem.where.split()[-1] for problem in found] == ["env_cfg.channels_last"]
