"""The example plugin, as a stranger would use it: built, installed, listed, checked; and its page in docs/."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fresh_environment import FreshEnvironment
from PIL import Image
from safetensors.torch import load_file

import toolbox
from toolbox.testing import check_component, check_plugin, isolated_catalog

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "third_party"


def test_the_page_shows_the_files():
    text = (ROOT / "docs" / "write_a_plugin.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^\*\*`([^`]+)`\*\*\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    files = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text(encoding="utf-8")
        for path in EXAMPLE.rglob("*")
        if path.suffix in (".py", ".toml") and path.stat().st_size
    }
    assert set(blocks) == set(files)
    for name, content in files.items():
        assert blocks[name] == content, f"docs/write_a_plugin.md shows another {name}"


def test_the_page_lists_what_commands_may_use():
    page = (ROOT / "docs" / "write_a_plugin.md").read_text(encoding="utf-8")
    assert [name for name in toolbox._FOR_COMMANDS if f"`{name}" not in page] == []


def test_the_example_keeps_the_contracts(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    with isolated_catalog("toolbox_acme.plugin"):
        check_plugin("acme")
        check_component("acme.PatchMixer", dim=16, depth=2)
        check_component("acme.PatchMixer", dim=16, depth=2, mixer={"type": "acme.TokenMean"})
        check_component("acme.Angular")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """`stranger(*arguments)` runs Python in an environment with wheels of the toolbox and what the recipe needs."""
    plugins = ("glyphs", "retrieval")
    requirements = ["vision-encoder-toolbox", *(f"vision-encoder-toolbox-{name}" for name in plugins), "toolbox-acme"]
    environment = FreshEnvironment(tmp_path_factory.mktemp("stranger"), requirements, [EXAMPLE])

    def run(*arguments):
        return environment.python(*arguments)

    run.site, run.folder = environment.site, environment.folder
    return run


@pytest.mark.slow
def test_the_installed_wheel_is_listed(stranger):
    import_path = stranger("-c", "import toolbox, toolbox_acme; print(toolbox.__file__, toolbox_acme.__file__)")
    assert all(path.startswith(str(stranger.site)) for path in import_path.split())
    record = json.loads(stranger(ROOT / "tools" / "list_components.py", "--json"))
    names = {c["fullname"]: c["distribution"] for c in record["components"] if c["namespace"] == "acme"}
    assert names == dict.fromkeys(
        ["acme.PatchMixer", "acme.Angular", "acme.TokenMLP", "acme.TokenMean"], "toolbox-acme"
    )
    assert ("token_mixer", "acme") in [(kind["name"], kind["namespace"]) for kind in record["kinds"]]
    assert "mixer: TokenMixer | None = None" in stranger(ROOT / "tools" / "list_components.py", "patchmixer")
    assert "find_similar     print the images of a folder" in stranger("-m", "toolbox", "--help")
    assert "patch: int = 4" in stranger(ROOT / "tools" / "list_components.py", "patchmixer")


@pytest.mark.slow
def test_the_installed_wheel_keeps_the_contracts(stranger):
    own = EXAMPLE / "pyproject.toml"
    output = stranger("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-c", own, EXAMPLE / "tests")
    assert "6 passed" in output


@pytest.mark.slow
def test_the_installed_wheel_ships_its_recipe(stranger):
    """`tools/train.py acme:patchmixer_glyphs` starts from here: the name leads to a file inside the wheel."""
    code = "from toolbox.registry import get_catalog; print(*get_catalog().config_dirs()['acme'][0].glob('*.py'))"
    folder = stranger.site / "toolbox_acme" / "configs"
    names = ("patchmixer_glyphs.py", "token_mean_glyphs.py")
    assert sorted(stranger("-c", code).split()) == [str(folder / name) for name in names]


@pytest.mark.slow
def test_the_installed_recipe_trains_and_its_checkpoint_is_judged(stranger):
    recipe = "acme:patchmixer_glyphs"
    small = [
        "train_cfg.max_steps=4",
        "train_cfg.val_interval=4",
        "train_dataloader.num_workers=0",
        "train_dataloader.sampler=dict(type='retrieval.PK',classes=4,per_class=2)",
        "val_dataloader.num_workers=0",
        "val_evaluator.0.ks=[1]",
        "test_dataloader=None",
        "test_evaluator=None",
        "model.backbone.dim=16",
    ]
    work = stranger.folder / "trained by name"
    stranger(ROOT / "tools" / "train.py", recipe, "--work-dir", work, "--device", "cpu", "--cfg-options", *small)
    results = json.loads((work / "train_results.json").read_text())
    assert results["steps"] == 4
    manifest = json.loads((work / "best" / "manifest.json").read_text())
    assert manifest["step"] == 4
    assert manifest["plugins"].keys() == {"acme", "core", "glyphs", "retrieval"}
    acme = manifest["plugins"]["acme"]
    assert (acme["distribution"], acme["version"]) == ("toolbox-acme", "0.1.0")
    assert "criterion.log_scale" in load_file(work / "best" / "model.safetensors"), "a loss's parameter is not saved"
    judged = stranger(ROOT / "tools" / "test.py", recipe, work, "--json", "--device", "cpu", "--cfg-options", *small)
    assert json.loads(judged) == results["after"]
    assert 0 <= results["after"]["recall@1"] <= 1
    stranger(
        ROOT / "tools" / "train.py", "acme:token_mean_glyphs", "--check", "--device", "cpu", "--cfg-options", *small
    )
    images = stranger.folder / "images"
    images.mkdir()
    for shade in (0, 120, 250):
        Image.new("RGB", (32, 32), (shade,) * 3).save(images / f"{shade}.png")
    found = stranger("-m", "toolbox", "find_similar", work, images / "120.png", images, "--top", "2").splitlines()
    assert len(found) == 2
    assert found[0] == f"1.000  {images / '120.png'}"
