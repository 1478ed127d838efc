"""tools/export.py: folders that other libraries load alone, with the toolbox's numbers."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import peft
import pytest
import timm
import torch
from forked_python import ForkedPython
from PIL import Image
from pretrained import save_weights, vit
from safetensors.torch import load_file
from toolbox_classification.class_heads import MLP, Linear
from toolbox_classification.classifier import Classifier
from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.vit import ViT
from toolbox_encoders.hf_vision import HFVision
from toolbox_encoders.timm_backbone import Timm
from toolbox_retrieval.embedder import Embedder
from torch import nn
from transformers import AutoImageProcessor, AutoModel

import toolbox
from toolbox.base import Batch, ExportedModel, Head, ImagePreprocess, Model
from toolbox.base.exported_backbone import run_lines
from toolbox.builtins.bn_neck import BNNeck
from toolbox.builtins.projection import Projection
from toolbox.builtins.tune import BackboneTuning
from toolbox.cli.export import main
from toolbox.errors import ToolboxError
from toolbox.exporters import export as exports
from toolbox.exporters.export import check_target
from toolbox.testing.material import make_image
from toolbox.utils.export_formats import save_processor
from toolbox.utils.pool import TokenPool

# peft asks transformers for a property that transformers 5 is renaming
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "intermediate_size": 70}
REGISTERS = {**TINY, "num_register_tokens": 2}
GATED = {**TINY, "use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
HF = {key: value for key, value in TINY.items() if key != "intermediate_size"}
HF_SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
HF_CONV = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}
TIMM = {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
DINO = {**TIMM, "mlp_ratio": 70.5 / 32, "global_pool": "token"}


def hf(kind, size=32, **arch):
    return lambda: HFVision(name=None, size=size, arch={"model_type": kind, **arch})


def of_timm(name, size=32, **arch):
    return lambda: Timm(name, size=size, weights=False, arch=arch)


BACKBONES = {
    "vit": lambda: ViT(name=None, arch=REGISTERS, size=32),
    "vit gated": lambda: ViT(name=None, arch=GATED, size=48, pos_embed_rescale=2.0, drop_path=0.1),
    "vit timm": of_timm("vit_small_patch16_dinov3_qkvb", **DINO, num_reg_tokens=2),
    "vit gated timm": of_timm("vit_small_plus_patch16_dinov3", size=48, **DINO, num_reg_tokens=0),
    "convnext": lambda: ConvNeXt(name=None, arch=CONVNEXT, size=64, drop_path=0.1),
    "convnext timm": of_timm("convnext_tiny", size=64, dims=[8, 16, 24, 32], depths=[1, 1, 2, 1]),
    "hf dinov2": hf("dinov2", **HF),
    "hf vit": hf("vit", **TINY),
    "hf vit at another size": hf("vit", size=48, **TINY, image_size=32),
    "hf beit": hf("beit", **TINY),
    "hf mae": hf("vit_mae", **TINY),
    "hf clip": hf("clip_vision_model", **TINY),
    "hf siglip": hf("siglip_vision_model", **TINY),
    "hf swin": hf("swin", size=64, **HF_SWIN),
    "hf convnext": hf("convnext", size=64, **HF_CONV),
    "timm vit": of_timm("vit_tiny_patch16_224", **TIMM),
    "timm gap": of_timm("vit_medium_patch16_reg4_gap_256", **TIMM),
    "timm siglip": of_timm("vit_base_patch16_siglip_224", **TIMM),
    "timm beit": of_timm("beit_base_patch16_224", **TIMM),
    "timm dinov2": of_timm("vit_small_patch14_reg4_dinov2", **TIMM),
    "timm swin": of_timm("swin_tiny_patch4_window7_224", size=64, embed_dim=8, depths=[1, 1, 2, 1], window_size=2),
    "timm convnext": of_timm("convnext_atto", size=64, depths=[1, 1, 2, 1], dims=[8, 8, 16, 16]),
    "timm resnet": of_timm("test_resnet", size=64),
}
FEW = ["vit", "vit timm", "convnext", "convnext timm", "hf dinov2", "timm vit"]
LORA = ["vit", "vit gated timm", "convnext", "hf siglip", "timm vit", "convnext timm"]


def scattered(module, seed=0):
    """The module with every tensor moved to where it matters: biases, layer scales, running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return module.eval()


def made(kind):
    torch.manual_seed(0)
    return scattered(BACKBONES[kind]())


def embedder(kind, pool="cls", head=None, tune=None):
    """A model with a trained look: every tensor, those of an adapter too, is moved."""
    torch.manual_seed(0)
    model = Embedder(BACKBONES[kind](), pool, head)
    model.connect(4)
    if tune is not None:
        tune.apply(model.backbone)
    return scattered(model)


def write(model, folder, **options):
    return exports.export(
        model,
        folder,
        origin={"checkpoint": "run/checkpoint-1", "step": 1},
        **{"merge": False, "onnx": False, "log": lambda text: None, **options},
    )


def predicted(model, pixels):
    with torch.no_grad():
        return model(Batch.example({"image": pixels}), "predict")


def pixels_for(backbone, count=3, seed=5):
    size = backbone.preprocess().size
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def readme(folder, picture):
    """The variables after the Python in a folder's README was run as it stands, but for the two paths."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    code = code.replace('root = "."', f"root = {str(folder)!r}").replace('"picture.jpg"', repr(str(picture)))
    return run_lines(code.splitlines())


def plain(names):
    return {path.relative_to(names).as_posix() for path in names.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_library_alone_gives_the_same_tokens(kind, tmp_path):
    backbone = made(kind)
    pixels = pixels_for(backbone)
    exported = backbone.export(tmp_path)
    found = run_lines([*exported.imports, *exported.load, *exported.tokens], folder=str(tmp_path), pixels=pixels)
    with torch.no_grad():
        features = backbone(pixels)
    torch.testing.assert_close(found["tokens"], features.tokens, rtol=1e-6, atol=1e-6)
    assert exported.prefix == features.prefix
    assert not type(found["model"]).__module__.startswith("toolbox")


@pytest.mark.parametrize("kind", ["vit", "vit gated", "convnext"])
def test_auto_model_gives_the_same_state_dict(kind, tmp_path):
    backbone = made(kind)
    write(Embedder(backbone), tmp_path / "out")
    theirs = AutoModel.from_pretrained(tmp_path / "out").eval()
    own = backbone.model.state_dict()
    assert own.keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, own[key]) for key, tensor in theirs.state_dict().items())
    pixels = pixels_for(backbone)
    with torch.no_grad():
        out = theirs(pixel_values=pixels)
        assert torch.equal(out.pooler_output, backbone(pixels).tokens[:, 0])


def test_plain_attention_is_exact_where_the_library_is_asked_for_it(tmp_path):
    torch.manual_seed(0)
    backbone = scattered(ViT(name=None, arch=REGISTERS, size=32, attention="eager"))
    backbone.export(tmp_path)
    pixels = pixels_for(backbone)
    theirs = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.equal(theirs(pixel_values=pixels).last_hidden_state, backbone(pixels).tokens)


@pytest.mark.parametrize("kind", ["vit timm", "convnext timm", "timm vit", "timm resnet"])
def test_timm_gives_its_own_embedding(kind, tmp_path):
    backbone = made(kind)
    write(Embedder(backbone), tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = pixels_for(backbone)
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels), backbone(pixels).tokens[:, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", FEW)
def test_the_toolbox_reads_its_own_exports(kind, tmp_path):
    backbone = made(kind)
    write(Embedder(backbone), tmp_path / "out")
    other = {"vit timm": [ViT], "convnext timm": [ConvNeXt]}.get(kind, [])  # which reads timm's folders too
    for component in (type(backbone), *other):
        again = component(str(tmp_path / "out"), size=backbone.preprocess().size[0]).eval()
        again.load_weights()
        pixels, exact = pixels_for(backbone), 1e-6 if component is type(backbone) else 1e-5
        with torch.no_grad():
            torch.testing.assert_close(again(pixels).tokens, backbone(pixels).tokens, rtol=exact, atol=exact)
        ours, theirs = backbone.preprocess(), again.preprocess()
        assert (theirs.size, theirs.interpolation) == (ours.size, ours.interpolation)
        assert (*theirs.mean, *theirs.std) == pytest.approx((*ours.mean, *ours.std))


@pytest.mark.parametrize("kind", FEW)
def test_pictures_of_the_size_become_the_same_pixels(kind, tmp_path):
    model = embedder(kind)
    write(model, tmp_path / "out")
    preprocess = model.backbone.preprocess()
    make_image(preprocess.size, seed=1).save(tmp_path / "exact.png")
    found = readme(tmp_path / "out", tmp_path / "exact.png")
    with Image.open(tmp_path / "exact.png") as picture:
        ours = preprocess.finish(preprocess.collate([preprocess(picture)]))
    torch.testing.assert_close(found["pixels"], ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["embedding"], predicted(model, ours)["embeddings"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("crop", [1.0, 0.8])
@pytest.mark.parametrize("kind", ["vit", "timm vit"])
def test_larger_pictures_are_cut_alike(kind, crop, tmp_path):
    model = embedder(kind)
    model.backbone.crop = crop
    write(model, tmp_path / "out")
    preprocess = model.backbone.preprocess()
    across = torch.linspace(0, 255, 120)[None, :].expand(80, -1)
    down = torch.linspace(0, 255, 80)[:, None].expand(-1, 120)
    smooth = torch.stack([across, down, (across + down) / 2], dim=-1).byte().numpy()
    Image.fromarray(smooth).save(tmp_path / "large.png")
    found = readme(tmp_path / "out", tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as picture:
        ours = preprocess.finish(preprocess.collate([preprocess(picture)]))
    squashed = preprocess.finish(preprocess.collate([preprocess(Image.fromarray(smooth).resize((32, 32)))]))
    assert (found["pixels"] - ours).abs().max() < 0.1
    assert (squashed - ours).abs().max() > 0.2
    assert ("0.8 of the sides" in (tmp_path / "out" / "README.md").read_text()) == (crop < 1)


@pytest.mark.parametrize(
    ("pool", "head"),
    [
        ("cls", None),
        ("mean", Projection(6)),
        ("cls+mean", Projection(6, layers=3, hidden=10, norm="layer", dropout=0.1)),
        ("gem", Projection(6, layers=2, norm="batch", bias=False)),
        ("last", BNNeck()),
        ("cls", BNNeck(5)),
        ("tokens", Projection(6)),
        (TokenPool("tokens", keep=3), Projection(6)),
    ],
)
def test_the_readme_computes_the_embedding(pool, head, tmp_path):
    model = embedder("vit", pool, head)
    found = write(model, tmp_path / "out")
    assert found.keys() == {"backbone", "embedding"}
    make_image((32, 32), seed=1).save(tmp_path / "a.png")
    names = readme(tmp_path / "out", tmp_path / "a.png")
    expected = predicted(model, names["pixels"])["embeddings"]
    torch.testing.assert_close(names["embedding"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(names["embedding"].norm(dim=1), torch.ones(1))
    assert (tmp_path / "out" / "head.safetensors").exists() == bool(
        list(model.head.parameters()) if head else pool == "gem"
    )


@pytest.mark.parametrize("head", [Linear(), Linear(norm="batch", dropout=0.5), MLP(hidden=5)])
def test_the_readme_computes_the_logits_of_a_classifier(head, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = Classifier(BACKBONES["vit"](), "cls+mean", head)
    model.connect(4)
    scattered(model)
    found = write(model, tmp_path / "out")
    assert found.keys() == {"backbone", "embedding", "logits"}
    make_image((32, 32), seed=1).save(tmp_path / "a.png")
    names = readme(tmp_path / "out", tmp_path / "a.png")
    expected = predicted(model, names["pixels"])
    for name, key in (("embedding", "embeddings"), ("logits", "logits")):
        torch.testing.assert_close(names[name], expected[key], rtol=0, atol=1e-5)
    assert names["logits"].shape == (1, 4)
    assert "`logits`, (B, C), are the classifier's" in (tmp_path / "out" / "README.md").read_text()
    lines = Classifier.in_plain_torch
    for wrong, said in ((["logits = x.flip(1)"], "logits in plain torch differ"), ([], "give no logits")):
        monkeypatch.setattr(Classifier, "in_plain_torch", lambda self, wrong=wrong: [*lines(self)[:-1], *wrong])
        with pytest.raises(ToolboxError, match=said):
            write(model, tmp_path / "wrong")
        assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("kind", LORA)
def test_peft_alone_loads_an_adapter_on_its_base(kind, tmp_path):
    model = embedder(kind, "mean", tune=BackboneTuning("lora", rank=2, dropout=0.1))
    pixels = pixels_for(model.backbone)
    with torch.no_grad():
        expected = model.backbone(pixels).tokens
        with model.backbone.adapter.off():
            bare = model.backbone(pixels).tokens
        assert torch.equal(model.backbone(pixels).tokens, expected)  # it is back
    assert (expected - bare).abs().max() > 1e-3
    out = tmp_path / "out"
    write(model, out)
    assert {"base/config.json", "base/model.safetensors"} <= plain(out)
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= plain(out)
    assert not any("lora" in key for key in load_file(out / "base" / "model.safetensors"))
    base = (
        timm.create_model(f"local-dir:{out / 'base'}", pretrained=True)
        if "timm" in kind
        else AutoModel.from_pretrained(out / "base")
    )
    theirs = made(kind)
    theirs.model = peft.PeftModel.from_pretrained(base, out / "adapter").get_base_model().eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels).tokens, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", LORA)
def test_merged_adapters_are_one_plain_folder(kind, tmp_path):
    model = embedder(kind, "mean", tune=BackboneTuning("lora", rank=2))
    pixels = pixels_for(model.backbone)
    with torch.no_grad():
        expected = model.backbone(pixels).tokens
    write(model, tmp_path / "out", merge=True)
    assert plain(tmp_path / "out") <= {
        "README.md",
        "config.json",
        "model.safetensors",
        "export.json",
        "preprocessor_config.json",
    }
    exported = made(kind).export(tmp_path / "other")  # for its lines
    lines = [*exported.imports, *exported.load, *exported.tokens]
    found = run_lines(lines, folder=str(tmp_path / "out"), pixels=pixels)
    torch.testing.assert_close(found["tokens"], expected, rtol=0, atol=1e-4)  # rounding, see the next test


@pytest.mark.parametrize("kind", LORA)
def test_merging_is_exact_but_for_rounding(kind):
    model = embedder(kind, "mean", tune=BackboneTuning("lora", rank=2)).double()
    pixels = pixels_for(model.backbone).double()
    with torch.no_grad():
        before = model.backbone(pixels).tokens
        model.backbone.adapter.merge()
        torch.testing.assert_close(model.backbone(pixels).tokens, before, rtol=0, atol=1e-12)
    assert model.backbone.adapter is None
    assert not any("lora" in name for name in model.backbone.state_dict())


class TwoTowers(Model):
    def __init__(self, left, right):
        super().__init__()
        self.left, self.right, self.scale = left, right, nn.Parameter(torch.ones(()))

    @property
    def inputs(self):
        return {"picture": self.left, "sketch": self.right}

    def predict(self, batch):
        return {name: self.scale * tower(batch.inputs[name]).tokens[:, 0] for name, tower in self.inputs.items()}


def test_several_backbones_have_a_folder_each(tmp_path):
    towers = TwoTowers(made("vit"), made("timm vit"))
    found = write(towers, tmp_path / "out")
    assert found.keys() == {"left", "right"}
    files = plain(tmp_path / "out")
    assert {"left/config.json", "right/config.json", "head.safetensors", "README.md"} <= files
    assert load_file(tmp_path / "out" / "head.safetensors").keys() == {"scale"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## left" in text
    assert "## right" in text
    assert "TwoTowers has several backbones" in text
    pixels = pixels_for(towers.left)
    theirs = AutoModel.from_pretrained(tmp_path / "out" / "left").eval()
    with torch.no_grad():
        assert torch.equal(theirs(pixel_values=pixels).last_hidden_state, towers.left(pixels).tokens)


class Odd(Head):
    def connect(self, in_dim, classes=None):
        self.in_dim, self.out_dim, self.weight = in_dim, 2, nn.Parameter(torch.ones(in_dim, 2))

    def forward(self, x):
        return x @ self.weight


def test_a_head_without_a_plain_form_leaves_the_tokens(tmp_path):
    found = write(embedder("vit", "cls", Odd()), tmp_path / "out")
    assert found.keys() == {"backbone"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Odd does not say what it is in plain torch" in text
    assert load_file(tmp_path / "out" / "head.safetensors").keys() == {"head.weight"}


# ---------------------------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A public model in the cache of the Hub, and no network."""
    from huggingface_hub import constants
    from transformers import AutoConfig

    from toolbox.utils import hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "explain_unreachable", lambda *_: pytest.fail("the network was asked"))
    repository = tmp_path / "cache" / "models--someone--tiny"
    model = scattered(AutoModel.from_config(AutoConfig.for_model("dinov2", **HF, image_size=32)))
    model.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "snapshots" / ("0" * 40) / "preprocessor_config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return "someone/tiny"


def test_a_public_base_is_named_and_not_copied(cached, tmp_path):
    backbone = HFVision(cached, size=32)
    backbone.load_weights()
    BackboneTuning("lora", rank=2).apply(backbone)
    for name, parameter in backbone.named_parameters():
        if ".lora_" in name:
            nn.init.constant_(parameter, 0.1)
    write(Embedder(backbone), tmp_path / "out")
    files = plain(tmp_path / "out")
    assert not any(name.startswith("base/model") for name in files)
    assert "base/preprocessor_config.json" in files
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == cached
    assert (
        "Dinov2Model.from_pretrained('someone/tiny', trust_remote_code=False)"
        in (tmp_path / "out" / "README.md").read_text()
    )
    write(Embedder(backbone), tmp_path / "merged", merge=True)
    assert "model.safetensors" in plain(tmp_path / "merged")


def test_released_weights_are_named_by_their_public_names(tmp_path):
    with torch.device("meta"):
        found = {
            "facebook/dinov3-vits16-pretrain-lvd1689m": ViT("vits16"),
            "facebook/dinov3-convnext-tiny-pretrain-lvd1689m": ConvNeXt(),
            "vit_small_patch16_dinov3_qkvb.lvd1689m": Timm("vit_small_patch16_dinov3_qkvb.lvd1689m", size=224),
            "vit_small_patch14_dinov2.lvd142m": Timm("vit_small_patch14_dinov2.lvd142m", size=28),
        }
    for name, backbone in found.items():
        exported = backbone.export(tmp_path / name, as_base=True)
        assert exported.hub == name
        assert name in exported.load[0]
        assert not list((tmp_path / name).glob("*.safetensors"))
        licensed = any("DINOv3 License" in note for note in exported.notes)
        assert licensed == isinstance(backbone, ViT | ConvNeXt)
        stated = any("'dinov3-license'" in note for note in exported.notes)
        assert stated == (name == "vit_small_patch16_dinov3_qkvb.lvd1689m")


def test_random_weights_are_under_no_licence_of_others(tmp_path):
    assert not any("DINOv3 License" in note for note in made("vit").export(tmp_path).notes)


class Whole(Embedder):
    """A model that transformers knows whole: the mean of its tokens would be the default, and is not what it gives."""

    lines = ['outputs = {"embeddings": F.normalize(model(inputs["image"]).last_hidden_state[:, 0], dim=-1)}']

    def export(self, folder):
        if self.backbone.preprocess().size != (32, 32):
            raise ValueError("transformers cannot describe this size")
        self.backbone.model.save_pretrained(folder)
        return ExportedModel(
            library="transformers",
            imports=["import torch.nn.functional as F", "from transformers import AutoModel"],
            load=["model = AutoModel.from_pretrained(folder).eval()"],
            outputs=self.lines,
            usage=["tokens = model(pixels).last_hidden_state"],
            notes=["It is small."],
        )


def whole(tune=None):
    torch.manual_seed(0)
    model = Whole(ViT(name=None, arch=TINY, size=32), "cls")
    model.connect(4)
    if tune is not None:
        tune.apply(model.backbone)
    return scattered(model)


@pytest.mark.parametrize("tune", [None, BackboneTuning("lora", rank=2)])
def test_a_model_that_writes_itself(tune, tmp_path):
    model, said = whole(tune), []
    expected = predicted(model, pixels_for(model.backbone))["embeddings"]
    found = write(model, tmp_path / "out", classes=["a", "b"], log=said.append)
    assert found.keys() == {"embeddings"}
    assert plain(tmp_path / "out") == {"config.json", "model.safetensors", "README.md", "export.json", "classes.json"}
    text = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "from run/checkpoint-1, step 1",
        "model = AutoModel",
        "tokens = model(pixels)",
        "It is small.",
        "2 classes",
    ):
        assert part in text
    assert any("is merged" in line for line in said) == (tune is not None)
    lines = [*model.export(tmp_path / "again").imports, *model.export(tmp_path / "again").load, *Whole.lines]
    given = run_lines(lines, folder=str(tmp_path / "out"), inputs={"image": pixels_for(model.backbone)})["outputs"]
    torch.testing.assert_close(given["embeddings"], expected, rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["library"] == "transformers"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['outputs = {"embeddings": -model(inputs["image"]).pooler_output}'], "The export is wrong: embeddings by"),
        (['outputs = {"tokens": inputs["image"]}'], "its lines give tokens, and the model embeddings"),
        (["outputs = {}"], "its lines give nothing"),
        (["tokens = model(inputs)"], "transformers cannot use what the model wrote"),
        (["pass"], "transformers cannot use what the model wrote"),
    ],
)
def test_what_a_model_writes_is_compared(lines, said, tmp_path, monkeypatch):
    monkeypatch.setattr(Whole, "lines", lines)
    with pytest.raises(ToolboxError, match=said):
        write(whole(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_says_what_its_library_cannot_describe(tmp_path):
    model = Whole(ViT(name=None, arch=TINY, size=48), "cls")
    with pytest.raises(ToolboxError, match="model: transformers cannot describe this size"):
        write(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ToolboxError, match="There is no adapter to merge"):
        write(whole(), tmp_path / "out", merge=True)


# ------------------------------------------------------------------------------------------------- the whole command


@pytest.fixture
def weights(tmp_path):
    return save_weights(tmp_path / "weights")


@pytest.fixture
def trained(toy, weights, tmp_path):
    """`trained(tune)`: the folder of a run of two steps on pretrained weights."""

    def train(tune="dict(mode='full')", more=()):
        options = ["train_cfg.max_steps=2", "train_cfg.val_interval=2", "evaluate_before=False"]
        config = toy([vit(weights, tune), *options, "optim_wrapper.optimizer.lr=0.05", *more])
        toolbox.train(config, out=tmp_path / "run")
        return tmp_path / "run"

    return train


def export(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments) -> str:
    assert export(*arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["dict(mode='full')"],
        ["dict(mode='frozen')"],
        ["dict(mode='lora',rank=2)"],
        ["dict(mode='lora',rank=2)", "--merge"],
    ],
)
def test_a_run_is_exported(trained, tmp_path, capsys, options):
    run_folder = trained(options[0])
    assert export(run_folder, tmp_path / "out", *options[1:]) == 0
    said = capsys.readouterr().out
    assert f"Exporting {run_folder / 'checkpoint-2'}, step 2" in said
    assert "Compared tokens of backbone by transformers: largest difference" in said
    assert "Compared embeddings in plain torch: largest difference" in said
    make_image((16, 16), seed=1).save(tmp_path / "a.png")
    ours = toolbox.load(run_folder, device="cpu").encode_image(tmp_path / "a.png")
    found = readme(tmp_path / "out", tmp_path / "a.png")
    torch.testing.assert_close(found["embedding"], ours, rtol=0, atol=1e-5)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["checkpoint"] == "run/checkpoint-2"
    assert record["differences"]["embedding"] < 1e-5
    assert "DINOv3 License" in (tmp_path / "out" / "README.md").read_text()
    assert not list(tmp_path.glob(".*"))


def test_a_run_folder_means_what_was_tested(trained, tmp_path, capsys):
    run_folder = trained(more=["train_cfg.wise_ft=dict(alphas=[0.5,1.0])"])
    assert export(run_folder, tmp_path / "out") == 0
    assert f"Exporting {run_folder / 'wise_ft'}" in capsys.readouterr().out
    mixed = load_file(run_folder / "wise_ft" / "model.safetensors")
    theirs = AutoModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(x, mixed[f"backbone.model.{key}"]) for key, x in theirs.items() if x.numel())


def test_frozen_weights_that_moved(trained, weights, tmp_path, capsys):
    run_folder = trained("dict(mode='lora',rank=2)")
    weights.rename(tmp_path / "moved")
    assert "does not exist" in refused(capsys, run_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    option = f"model.backbone.name={tmp_path / 'moved'}"
    assert export(run_folder, tmp_path / "out", "--cfg-options", option) == 0
    other = save_weights(tmp_path / "other", seed=4)
    said = refused(capsys, run_folder, tmp_path / "o", "--cfg-options", f"model.backbone.name={other}")
    assert "are not those that the checkpoint was trained on" in said


def test_what_is_there_is_never_lost(trained, tmp_path, capsys):
    run_folder, out = trained(), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    assert "is not empty, and holds no earlier export" in refused(capsys, run_folder, out)
    assert "is not empty" in refused(capsys, run_folder, out, "--overwrite")
    assert plain(out) == {"thesis.txt"}
    (out / "thesis.txt").unlink()
    assert export(run_folder, out) == 0  # an empty folder is as good as none
    before = (out / "export.json").stat().st_mtime_ns
    assert "give --overwrite" in refused(capsys, run_folder, out)
    assert (out / "export.json").stat().st_mtime_ns == before
    assert export(run_folder, out, "--overwrite") == 0
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(capsys, run_folder, tmp_path / "file")
    assert "Nothing can be written to" in refused(capsys, run_folder, tmp_path / "file" / "below")
    assert "Nothing can be written to" in refused(capsys, run_folder, "/proc/exported")


def test_bad_input(trained, toy, tmp_path, capsys):
    assert "does not exist" in refused(capsys, tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "is no checkpoint" in refused(capsys, tmp_path / "empty", tmp_path / "out")
    run_folder = trained()
    assert "no adapter to merge" in refused(capsys, run_folder, tmp_path / "out", "--merge")
    config = toy(["train_cfg.max_steps=2", "train_cfg.val_interval=2", "evaluate_before=False"])
    toolbox.train(config, out=tmp_path / "toy")
    said = refused(capsys, tmp_path / "toy", tmp_path / "out")
    assert "model.backbone: Patches has no export: it belongs to no library that could load it." in said
    assert not (tmp_path / "out").exists()


def test_a_wrong_export_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    model = embedder("vit", "mean", Projection(4))
    save, lines = model.backbone.model.save_pretrained, Projection.in_plain_torch

    def spoiled(folder):
        with torch.no_grad():
            model.backbone.model.get_parameter("norm.weight").add_(0.01)
        save(folder)

    monkeypatch.setattr(Projection, "in_plain_torch", lambda self, name: [*lines(self, name), "x = x.flip(1)"])
    with pytest.raises(toolbox.ToolboxError, match="embeddings in plain torch differ by up to"):
        write(model, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(model.backbone.model, "save_pretrained", spoiled)
    with pytest.raises(toolbox.ToolboxError, match="tokens of backbone by transformers differ by up to"):
        write(model, tmp_path / "out")
    monkeypatch.setattr(model.backbone.model, "save_pretrained", lambda folder: None)
    with pytest.raises(toolbox.ToolboxError, match="transformers cannot load what was exported of backbone"):
        write(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "write_readme", full)
    with pytest.raises(toolbox.ToolboxError, match="No space left on device") as caught:
        write(embedder("vit"), tmp_path / "out")
    assert "--work-dir" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_export_leaves_nothing(trained, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\nfrom toolbox.exporters import export\nfrom toolbox.cli.export import main\n"
        "def slow(*_, **__):\n    print('half', flush=True)\n    time.sleep(60)\n"
        "export.write_readme = slow\nsys.exit(main(sys.argv[1:]))\n"
    )
    plugin = Path(__file__).parent / "toy_plugin.py"
    job = ForkedPython(script, trained(), tmp_path / "out", "--plugin", plugin)
    assert "half\n" in job.lines()
    assert list(tmp_path.glob(".out.*.partial"))
    os.kill(job.pid, signal.SIGTERM)
    code, _, said = job.end(50)  # it would sleep for longer
    assert code == 143, said
    assert not list(tmp_path.glob(".out*"))
    assert not (tmp_path / "out").exists()


def test_processors_are_read_by_transformers(tmp_path):
    backbone = made("vit")
    backbone.export(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert processor(images=[make_image((70, 50), seed=0)], return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)


def test_encoders_that_take_blue_first_are_not_exported(tmp_path):
    with pytest.raises(ValueError, match="it takes BGR images, and none of transformers' plain processors does that"):
        save_processor(tmp_path, ImagePreprocess((32, 32), (0.0,) * 3, (1.0,) * 3, channels="BGR"))
    assert not list(tmp_path.iterdir())


def test_checking_a_target_writes_nothing(tmp_path):
    check_target(tmp_path / "a" / "b", overwrite=False)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------------- ONNX


SLOW_KINDS = [
    pytest.param(kind, marks=pytest.mark.slow) for kind in ("convnext", "vit timm", "hf dinov2", "timm convnext")
]


@pytest.mark.parametrize("kind", ["vit", *SLOW_KINDS])
def test_onnx_gives_the_same_for_any_number_of_images(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    tune = BackboneTuning("lora", rank=2) if kind == "vit" else None
    model = embedder(kind, "mean", Projection(6), tune)
    said = []
    pixels = pixels_for(model.backbone, count=5)
    expected = predicted(model, pixels)["embeddings"]
    found = write(model, tmp_path / "out", onnx=True, log=said.append)
    assert any("embeddings of 3 images by onnxruntime: largest difference" in line for line in said)
    assert found["onnx embeddings 3"] < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    given = session.run(["embeddings"], {"image": pixels.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-5)
    assert ("adapter/adapter_config.json" in plain(tmp_path / "out")) == (tune is not None)


def test_absent_packages_are_named(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = refused(capsys, trained(), tmp_path / "out", "--onnx")
    assert "python -m pip install onnx onnxscript onnxruntime" in said
    assert not (tmp_path / "out").exists()
