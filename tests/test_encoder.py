"""`toolbox.load` and what it returns: names of models, kinds of images, what it says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import toolbox
from toolbox.errors import ToolboxError
from toolbox.loading import load_model

ROOT = Path(__file__).parent.parent
SHORT = ["train_cfg.max_steps=2", "env_cfg.device=cpu", "evaluate_features=False", "evaluate_before=False"]
TINY_VIT = [
    "model.backbone.arch=dict(hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32,"
    "image_size=32,patch_size=16)"
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from toolbox.config import load_config
    from toolbox.registry import add_local, get_catalog

    if "toy" not in {plugin.namespace for plugin in get_catalog().plugins}:
        add_local([str(ROOT / "tests/toy_plugin.py")])
    folder = tmp_path_factory.mktemp("encoder") / "run"
    toolbox.train(load_config(ROOT / "tests/toy_recipe.py", SHORT), out=folder)
    return folder


@pytest.fixture(scope="module")
def encoder(run):
    return toolbox.load(run, device="cpu")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)


def test_each_kind_of_image_is_the_same_image(encoder, pixels, tmp_path):
    pictures = [Image.fromarray(one) for one in pixels]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = encoder.encode_image(pictures)
    assert expected.shape == (3, encoder.dim) == (3, 8)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    names, mixed = [str(path) for path in paths], [pictures[0], pixels[1], tensor[2]]
    for images in (paths, names, np.array(names), pixels, list(pixels), tensor, list(tensor), iter(pictures), mixed):
        assert torch.equal(encoder.encode_image(images), expected)
    for one in (pictures[0], paths[0], str(paths[0]), pixels[0], tensor[0]):
        assert torch.allclose(encoder.encode_image(one), expected[:1], atol=1e-6)
    gray = pixels[0, :, :, 0]
    for image in (gray, gray[..., None], torch.from_numpy(gray)[None]):
        assert torch.equal(encoder.encode_image(image), encoder.encode_image(Image.fromarray(gray)))
    opaque = np.concatenate([pixels[0], np.full((20, 24, 1), 255, np.uint8)], axis=2)
    assert torch.allclose(encoder.encode_image(opaque), expected[:1], atol=1e-6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
def test_a_picture_with_a_broken_orientation_is_encoded_as_its_file_is(encoder, pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels[0]).save(path, exif=b"garbage")
    with Image.open(path) as picture:
        assert torch.equal(encoder.encode_image(picture), encoder.encode_image(path))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "the list is empty"),
        ((), "the list is empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), "the list is empty"),
        (None, "A NoneType is no image"),
        (3, "A int is no image"),
        ({"a": 1}, "A dict is no image"),
        ([None], "Image 0 is a NoneType"),
        (np.zeros((3, 8, 9), np.uint8), r"Image 0 has shape \(3, 8, 9\) and uint8: an array is \(H, W, 3\)"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), r"shape \(8, 9, 3\).*a tensor is \(3, H, W\)"),
        ([np.zeros((8, 8, 3))], r"float64: an array is \(H, W, 3\), of uint8"),
        ([torch.zeros(3, 8, 8)], "float32"),
        ([torch.zeros(3, 0, 8, dtype=torch.uint8)], "shape"),
        (Path(__file__).parent, "is a folder, and an encoder takes images"),
    ],
)
def test_what_is_no_image_is_named(encoder, images, said):
    with pytest.raises(ToolboxError, match=said):
        encoder.encode_image(images)


def test_it_says_what_it_is(encoder, run):
    text = repr(encoder)
    for part in ("Patches", "dim=8", "step=2", "classes=16", "device=cpu", "precision=fp32", str(run)):
        assert part in text
    assert encoder.classes[:2] == ["class 0", "class 1"]
    assert encoder.step == 2


def test_progress_is_shown_where_it_is_asked_for(encoder, pixels, capsys):
    encoder.encode_image(pixels, batch_size=2)
    assert capsys.readouterr() == ("", "")
    encoder.encode_image(pixels, batch_size=2, progress=True)
    assert "3/3" in capsys.readouterr().err


def test_a_backbone_is_loaded_by_its_folder(tmp_path, pixels):
    """As `embed` does it: the pooled features of the weights as they come."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(0)
    net = DINOv3ViTModel(
        DINOv3ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    )
    net.save_pretrained(tmp_path / "weights")
    (tmp_path / "weights" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "DINOv3ViTImageProcessorFast", "image_mean": [0.485, 0.456, 0.406],'
        ' "image_std": [0.229, 0.224, 0.225], "size": {"height": 32, "width": 32}, "resample": 2}'
    )
    found = toolbox.load(tmp_path / "weights", device="cpu", overrides={"model.backbone.size": 32})
    assert (found.mode, found.dim, found.classes, found.step) == ("baseline", 16, None, None)
    assert found.encode_image(pixels).shape == (3, 16)
    assert "ViT" in repr(found)
    assert not hasattr(found, "classify")
    both = toolbox.load(tmp_path / "weights", device="cpu", overrides=["model.backbone.size=32", "model.pool=cls+mean"])
    assert both.dim == 32


def test_an_id_without_its_weights_says_the_steps(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ToolboxError, match=r"not on this machine.*HF_HUB_OFFLINE(.|\n)*hf download"):
        toolbox.load("vits16")


@pytest.mark.parametrize("name", ["work_dirs/absent", "no-such-backbone", "configs/absent.py"])
def test_a_name_that_means_nothing_is_told(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ToolboxError, match=r"no checkpoint, no recipe|no such recipe|does not exist") as caught:
        toolbox.load(name)
    assert name in str(caught.value)


def test_a_recipe_is_its_backbone_as_it_comes(run, pixels):
    found = load_model(str(ROOT / "tests/toy_recipe.py"), overrides=["env_cfg.device=cpu"])
    assert (found.mode, found.dim) == ("baseline", 16)
    headless = load_model(str(run), device="cpu", baseline=True)
    assert (headless.mode, headless.dim) == ("baseline", 16)
    assert "without its head" in repr(headless)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (
            "no_such_module:Scorer",
            r"toy.Model cannot be used: its user_class .*No module named",
        ),
        ("toolbox.utils.encoder:Scorer", "has no attribute 'Scorer'"),
        ("toolbox.utils.encoder", "It is 'module:Class'"),
        ("pathlib:Path", "no subclass of toolbox.base.LoadedModel"),
    ],
)
def test_a_user_class_that_cannot_be_used_is_named(named, said):
    from types import SimpleNamespace

    from toolbox.inference.loaded import user_class

    with pytest.raises(ToolboxError, match=said):
        user_class(SimpleNamespace(user_class=named), "toy.Model")


def test_the_version_is_there_and_costs_nothing():
    code = "import sys, toolbox; before = set(sys.modules); print('importlib.metadata' in before, toolbox.__version__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    early, version = done.stdout.split()
    assert early == "False"
    from importlib.metadata import version as installed

    assert version == installed("vision-encoder-toolbox") == toolbox.__version__
    assert "__version__" in dir(toolbox)


def test_messages_name_arguments_and_commands_name_options(tmp_path, monkeypatch):
    """No error of the API tells a user of Python to give a flag; the commands say the same with theirs."""
    import ast

    from toolbox.cli.common import name_options

    flag = r"--(cfg-options|resume|overwrite|work-dir|device|on-bad-item|plugin|precision|merge|onnx|out|page|split)\b"
    files = [ROOT / "toolbox" / name for name in ("api.py", "loading.py", "planning.py")]
    for room in ("engine", "config", "base", "utils", "builtins", "feature_cache", "registry", "report"):
        files += (ROOT / "toolbox" / room).rglob("*.py")
    files += [file for name in ("dinov3", "encoders") for file in (ROOT / "plugins" / name / "src").rglob("*.py")]
    for file in files:
        if file.name in ("launch.py", "yaml_recipe.py", "schema.py", "export_readme.py"):
            continue  # what only a command reaches, and pages
        tree = ast.parse(file.read_text())
        pages = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if id(node) not in pages and "tools/" not in text:
                assert not re.search(flag, text), f"{file}:{node.lineno}: {text}"
    for python, option in (
        ("Set it, e.g. by the override model.backbone.weights=False", "--cfg-options model.backbone.weights=False"),
        ("overrides modle: There is no key 'modle'.", "--cfg-options modle: There"),
        ("Continue it with resume=True, or choose another out folder.", "with --resume, or choose another --work-dir."),
        ("leave them out with skip_bad=True.", "--on-bad-item skip."),
        ("set on_bad_item='skip' in the dataloader", "set on_bad_item='skip' in the dataloader"),
        ("name it yourself: plugins=['a.py', 'b']", "name it yourself: --plugin a.py --plugin b"),
        ("It can do fp32, bf16: precision='fp32'", "bf16: --precision fp32"),
        ("or precision='fp32'; or", "or precision='fp32'; or"),
        ("Try device='cpu'.", "Try --device cpu."),
        ("env_cfg.device='cpu'", "env_cfg.device='cpu'"),
        ("work_dirs/run", "work_dirs/run"),
    ):
        assert option in name_options(python)


def test_an_id_means_the_backbone_that_knows_it_before_one_that_takes_any_name(tmp_path):
    """Though its namespace is the last of the alphabet."""
    from toolbox.loading import find_component
    from toolbox.registry import add_local, swap_catalog

    (tmp_path / "zoo.py").write_text(
        "from toolbox.base import Backbone\n"
        "from toolbox.plugin import Component, hookimpl\n"
        "@hookimpl\n"
        "def toolbox_components(): return [Component('backbone', 'Net', 'zoo:Net', 'one net')]\n"
        "class Net(Backbone):\n"
        "    dim = 4\n"
        "    def __init__(self, name: str = 'resnet18'):\n"
        "        super().__init__()\n"
        "        if name != 'resnet18': raise ValueError(f'no {name}')\n"
        "    def forward(self, inputs, *, layers=1, mask=None): ...\n"
        "    def preprocess(self): ...\n"
        "    def layers(self): return []\n"
    )
    old = swap_catalog(None)
    try:
        assert find_component("resnet18") == "encoders.Timm"
        add_local([str(tmp_path / "zoo.py")])
        assert find_component("resnet18") == "zoo.Net"
        assert find_component("resnet34") == "encoders.Timm"
    finally:
        swap_catalog(old)
        sys.modules.pop("zoo", None)
