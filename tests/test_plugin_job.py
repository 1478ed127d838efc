"""A whole job from a plugin: its model, kind, data, metric, recipe, command and user class, and no line in the core."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import toolbox
from toolbox.cli.main import main
from toolbox.registry import swap_catalog
from toolbox.testing import check_plugin

_spec = importlib.util.spec_from_file_location("fake_plugins", Path(__file__).with_name("fake_plugins.py"))
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

FILES = {
    "__init__.py": "",
    "plugin.py": """
        from pathlib import Path
        from toolbox.plugin import Command, Component, Kind, hookimpl

        @hookimpl
        def toolbox_components():
            here = "fake_gauge"
            return [
                Component("model", "Gauge", f"{here}.model:Gauge", "how bright an image is"),
                Component("readout", "Linear", f"{here}.readouts:Linear", "one number from features"),
                Component("dataset", "Greys", f"{here}.data:Greys", "plain grey images"),
                Component("metric", "MeanError", f"{here}.data:MeanError", "mean absolute error"),
            ]

        @hookimpl
        def toolbox_kinds():
            return [Kind("readout", "fake_gauge.readouts:Readout", "from features to one number")]

        @hookimpl
        def toolbox_commands():
            return [Command("measure", "fake_gauge.commands.measure:main", "print how bright images are")]

        @hookimpl
        def toolbox_config_dirs():
            return [str(Path(__file__).parent / "configs")]
    """,
    "readouts.py": """
        from abc import ABC, abstractmethod
        from torch import nn

        class Readout(ABC):
            '''From features to one number; no module of torch by itself.'''
            @abstractmethod
            def layer(self, dim: int) -> nn.Module:
                '''The layer for features of this width.'''

        class Linear(Readout):
            '''One linear layer.

            - `bias`: whether it has one.
            '''
            def __init__(self, bias: bool = True):
                self.bias = bias
            def layer(self, dim):
                return nn.Linear(dim, 1, self.bias)
    """,
    "model.py": """
        from toolbox.base import Backbone, Model
        from fake_gauge.readouts import Readout

        class Gauge(Model):
            '''A number for each image.

            - `backbone`: reads the image.
            - `readout`: from its mean token to the number.
            '''
            user_class = "fake_gauge.user:Meter"

            def __init__(self, backbone: Backbone, readout: Readout):
                super().__init__()
                self.backbone, self.read = backbone, readout.layer(backbone.dim)
            @property
            def inputs(self):
                return {"image": self.backbone}
            def loss(self, batch):
                return {"loss": (self.predict(batch)["value"] - batch.labels / 255).square().mean()}
            def predict(self, batch):
                return {"value": self.read(self.backbone(batch.inputs["image"]).tokens.mean(1))[:, 0]}
    """,
    "user.py": """
        from toolbox.base import LoadedModel
        from toolbox.utils.image_list import ImageList

        class Meter(LoadedModel):
            '''Measures how bright images are.'''
            def measure(self, images):
                '''A number for each image.'''
                return [value for outputs in self.run(ImageList(images)) for value in outputs["value"].tolist()]
    """,
    "data.py": """
        import torch
        from PIL import Image
        from toolbox.base import Dataset, Metric, gather

        class Greys(Dataset):
            '''Grey images, their brightness as labels.'''
            def __init__(self, count: int = 16):
                self.labels = [(37 * i) % 256 for i in range(count)]
            def __len__(self):
                return len(self.labels)
            def __getitem__(self, index):
                shade = self.labels[index]
                return {"image": Image.new("RGB", (16, 16), (shade,) * 3), "label": shade, "id": index}

        class MeanError(Metric):
            '''Mean absolute error.'''
            better = "less"
            def reset(self):
                self.errors = []
            def update(self, outputs, batch):
                self.errors.append((outputs["value"] - batch.labels / 255).abs())
            def compute(self):
                return {"error": gather(torch.cat(self.errors)).mean().item()}
    """,
    "commands/__init__.py": "",
    "commands/measure.py": """
        import toolbox

        def main(argv):
            parser = toolbox.new_command_parser("measure", "Print how bright images are.")
            parser.add_argument("model")
            parser.add_argument("images", nargs="+")
            arguments = parser.parse_args(argv)
            meter = toolbox.load(arguments.model, device="cpu")
            if not hasattr(meter, "measure"):
                raise toolbox.ToolboxError(f"{arguments.model} does not measure.", hint="Give a run of gauge:grey.")
            for path, value in zip(arguments.images, meter.measure(arguments.images), strict=True):
                print(f"{path} {value:.6f}")
            return 0
    """,
    "configs/grey.py": '''
        """Learn how bright an image is."""
        model = dict(type='gauge.Gauge', backbone=dict(type='toy.Patches', dropout=0.0),
                     readout=dict(type='gauge.Linear'))
        train_dataloader = dict(dataset=dict(type='gauge.Greys'), batch_size=8, num_workers=0)
        val_dataloader = dict(dataset=dict(type='gauge.Greys', count=8), batch_size=8, num_workers=0)
        val_evaluator = [dict(type='gauge.MeanError')]
        optim_wrapper = dict(optimizer=dict(type='core.AdamW', lr=0.01, weight_decay=0.0))
        train_cfg = dict(max_steps=40, val_interval=20)
        env_cfg = dict(device='cpu')
    ''',
}


@pytest.fixture
def gauge(tmp_path, monkeypatch):
    """The job, installed as a distribution that only this test sees."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("TOOLBOX_PLUGINS", raising=False)
    before, old = set(sys.modules), swap_catalog(None)
    for folder in ("", "commands", "configs"):
        (tmp_path / "fake_gauge" / folder).mkdir(parents=True, exist_ok=True)
    files = {f"fake_gauge/{name}": text for name, text in FILES.items()}
    fake.install(tmp_path, "gauge-dist", "gauge", "", module_name="fake_unused", files=files)
    entry_points = "[toolbox.v1]\ngauge = fake_gauge.plugin\n"
    (tmp_path / "gauge_dist-1.0.dist-info" / "entry_points.txt").write_text(entry_points)
    yield ["--plugin", str(Path(__file__).with_name("toy_plugin.py"))]
    swap_catalog(old)
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def test_a_job_is_a_plugin(gauge, capsys):
    assert main(["train", "gauge:grey", *gauge, "--check"]) == 0
    assert main(["train", "gauge:grey", *gauge, "--work-dir", "run"]) == 0
    results = json.loads(Path("run/train_results.json").read_text())
    assert results["after"]["error"] < results["before"]["error"] / 2

    meter = toolbox.load("run", device="cpu")
    assert type(meter).__module__ == "fake_gauge.user"
    greys = toolbox.build(dict(type="gauge.Greys", count=8))
    errors = [
        abs(value - label / 255)
        for value, label in zip(meter.measure([greys[index]["image"] for index in range(8)]), greys.labels, strict=True)
    ]
    assert sum(errors) / 8 == pytest.approx(results["best"]["metrics"]["error"], rel=1e-4)
    assert repr(meter).startswith("<Meter run, step ")
    with pytest.raises(toolbox.ToolboxError, match="The model reads 'image', and an item has label"):
        next(meter.run([{"label": 1}]))

    for shade in (10, 240):
        Image.new("RGB", (16, 16), (shade,) * 3).save(f"{shade}.png")
    capsys.readouterr()
    assert main(["measure", "run", "10.png", "240.png"]) == 0
    dark, light = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines())
    assert dark + 0.5 < light
    assert [dark, light] == pytest.approx(meter.measure(["10.png", "240.png"]), abs=1e-5)

    check_plugin("gauge")
    assert main(["list-components", "--kind", "readout"]) == 0
    assert "gauge.Linear" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "  measure          print how bright images are" in capsys.readouterr().out
    assert main(["recipes"]) == 0
    assert "gauge:grey" in capsys.readouterr().out


def test_what_users_do_wrong_with_it(gauge, capsys):
    """One message and exit code 2, as of the toolbox's own parts."""
    cases = {
        "model.readout.type=gauge.Linaer": "Did you mean 'gauge.Linear'?",
        "model.readout.bais=True": "Did you mean 'bias'?",
        "model.readout.type=core.AdamW": "'core.AdamW' is an optimizer, and model.readout.type expects a readout.",
        "model.readout=None": "model.readout: It must not be None. Readouts: gauge.Linear.",
    }
    for override, said in cases.items():
        assert main(["train", "gauge:grey", *gauge, "--check", "--cfg-options", override]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    assert main(["measure", "absent.py", "10.png"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["mesure", "absent.py"]) == 2
    assert "Did you mean 'measure'?" in capsys.readouterr().err
