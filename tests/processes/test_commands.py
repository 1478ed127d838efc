"""Commands that evaluate end well in several processes, and give what one process gives."""

from __future__ import annotations

import json
from pathlib import Path

import group
import pytest
import runs

HERE = Path(__file__).parent
TOOLS = HERE.parent.parent / "tools"
PLUGINS = ["--plugin", str(HERE.parent / "toy_plugin.py"), "--plugin", str(HERE / "processes_plugin.py")]


def command(size: int, folder: Path, tool: str, *arguments: object) -> list[str]:
    """What each of some processes writes to standard output; all must end well."""
    by_torchrun = {"TORCHELASTIC_RUN_ID": "test"} if size > 1 else {}
    ends = group.Group(size, TOOLS / f"{tool}.py", *arguments, cwd=folder, environment=by_torchrun).end(120)
    assert [code for code, _, _ in ends] == [0] * size, ends
    return [said for _, said, _ in ends]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    arguments = [runs.RECIPE, *PLUGINS, "--work-dir", "run", "--device", "cpu"]
    command(1, folder, "train", *arguments, "--cfg-options", "train_cfg.max_steps=4")
    return folder


def test_an_evaluation_is_written_once(trained):
    numbers = {}
    for size in (1, 2):
        out = f"evaluated-{size}"
        said = command(size, trained, "test", runs.RECIPE, "run/last", *PLUGINS, "--device", "cpu", "--out", out)
        assert ["Report: " in text for text in said] == [True] + [False] * (size - 1)
        numbers[size] = json.loads((trained / out / "test_results.json").read_text())["metrics"]
    assert numbers[1] == pytest.approx(numbers[2], abs=1e-6)


def test_features_are_extracted_once(trained):
    options = ["--cfg-options", "model.backbone.tune=dict(mode='frozen')", "train_dataloader.augment=None"]
    options += ["features=dict(dtype='fp32')"]
    said = command(2, trained, "extract", runs.RECIPE, *PLUGINS, "--device", "cpu", *options)
    assert "items computed, 0 found" in said[0]
    assert not said[1]
    assert "0 items computed" in command(1, trained, "extract", runs.RECIPE, *PLUGINS, "--device", "cpu", *options)[0]
