"""The console command: its sub-commands, what `--help` costs, and how messages word it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from test_import_cost import heavy_after

from toolbox.cli.main import main
from toolbox.errors import PROGRAM, format_command
from toolbox.registry import Catalog, discover, get_catalog, swap_catalog

ROOT = Path(__file__).parents[1]
OURS = ("core", "retrieval", "classification")
COMMANDS = {entry.name: entry.summary for entry in get_catalog().commands() if entry.plugin.namespace in OURS}
_spec = importlib.util.spec_from_file_location("fake_plugins", Path(__file__).with_name("fake_plugins.py"))
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

PLUGIN = """
from toolbox.plugin import Command, hookimpl

@hookimpl
def toolbox_commands():
    return [
        Command("weigh_runs", "fake_weigh:main", "weighs runs"), Command("lost", "fake_lost:main", "is not there"),
        Command("train", "fake_weigh:main", "trains otherwise"),
    ]
"""
CODE = """
from toolbox.errors import ToolboxError

def main(arguments):
    if "--wrong" in arguments:
        raise ToolboxError("That is too heavy.", hint="Leave something out.")
    print("weighed", *arguments)
    return 3
"""


def test_every_command_has_a_short_script_in_tools():
    scripts = {path.stem: path.read_text() for path in (ROOT / "tools").glob("[!_]*.py")}
    assert scripts.keys() == COMMANDS.keys() | {"benchmark"}
    assert "from benchmarks.command import main" in scripts["benchmark"]  # no command: only a checkout has benchmarks
    assert len(scripts.pop("benchmark").splitlines()) <= 15
    for name, text in scripts.items():
        assert len(text.splitlines()) <= 15, name
        assert f'    run_command("{name}")\n' in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as exit:
        sys.exit(main([name.replace("_", "-"), "--help"]))
    assert exit.value.code == 0
    assert f"usage: {PROGRAM} {name}" in capsys.readouterr().out


def test_help_lists_all_and_imports_nothing_heavy(capsys):
    assert main(["--help"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert all(summary in lines[name] for name, summary in COMMANDS.items())
    code = "from toolbox.cli.main import main; import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): "
    assert heavy_after(code + "main(['--help'])") == set()


def test_a_command_that_is_not_there(capsys):
    assert main(["trian"]) == 2
    assert "there is no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert "list_components" in capsys.readouterr().err
    assert main([]) == 2


def test_a_command_whose_plugin_is_not_there(monkeypatch, capsys):
    old = swap_catalog(None)
    try:
        monkeypatch.setenv("TOOLBOX_PLUGINS", "-classification")
        assert main(["predict"]) == 2
        assert "a plugin brings it that cannot be used here: classification (disabled)." in capsys.readouterr().err
        monkeypatch.delenv("TOOLBOX_PLUGINS")
        plugins = [plugin for plugin in discover()[0] if plugin.namespace != "classification"]
        swap_catalog(Catalog(plugins, []))
        assert main(["predict"]) == 2
        assert "classification (not installed: pip install ./plugins/classification)." in capsys.readouterr().err
    finally:
        swap_catalog(old)


def test_commands_of_plugins_are_listed_and_run(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    fake.install(tmp_path, "weights", "weights", PLUGIN, files={"fake_weigh.py": CODE})
    old = swap_catalog(None)
    try:
        assert main(["--help"]) == 0
        said = capsys.readouterr().out
        assert "weigh_runs       weighs runs" in said
        assert "lost             (broken: its module 'fake_lost' does not exist)" in said
        assert "train            (conflict: the command 'train' belongs to the toolbox" in said
        assert main(["weigh-runs", "a", "-b"]) == 3
        assert capsys.readouterr().out == "weighed a -b\n"
        assert main(["weigh_runs", "--wrong"]) == 2
        assert capsys.readouterr().err == "That is too heavy. Leave something out.\n"
        assert main(["lost"]) == 2
        assert "the command 'lost' of weights 1.0" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["train", "--help"])
        assert "--work-dir" in capsys.readouterr().out
    finally:
        swap_catalog(old)


def test_python_m_toolbox_is_the_same(tmp_path):
    run = [sys.executable, "-m", "toolbox"]
    shown = subprocess.run([*run, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.startswith(f"{PROGRAM} ")
    refused = subprocess.run([*run, "test"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "usage: python -m toolbox test" in refused.stderr


@pytest.mark.parametrize(
    ("started", "worded"),
    [
        ("tools/embed.py", "python tools/train.py"),
        (str(ROOT / "tools" / "embed.py"), f"python {ROOT / 'tools' / 'train.py'}"),
        ("/opt/env/bin/vision-encoder-toolbox", "vision-encoder-toolbox train"),
        (str(ROOT / "toolbox" / "__main__.py"), "python -m toolbox train"),
        ("/opt/lib/ipykernel_launcher.py", "vision-encoder-toolbox train"),
        ("elsewhere/tools/x.py", "vision-encoder-toolbox train"),
        ("", "vision-encoder-toolbox train"),
    ],
)
def test_messages_word_a_command_as_it_was_started(started, worded, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [started])
    assert format_command("train") == worded


def test_messages_leave_the_wording_to_one_function():
    """Texts that a user may read name no script of a checkout; docstrings may."""
    for file in [*(ROOT / "toolbox").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]:
        source = file.read_text(encoding="utf-8")
        if "tools/" not in source:
            continue
        tree = ast.parse(source)
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        named = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents
        ]
        assert [text for text in named if "tools/" in text and ".py" in text] == [], file


def test_commands_say_first_what_they_do_with_which_data_model_and_device(toy, capsys):
    from toolbox.config import load_config

    recipe = str(Path(__file__).with_name("toy_recipe.py"))
    assert toy()
    short = ["--device", "cpu", "--cfg-options", "train_cfg.max_steps=3", "train_cfg.val_interval=3"]
    assert main(["train", recipe, "--work-dir", "run", *short]) == 0
    task = "toy.Noise, with {}.Embedder (toy.Patches), on cpu"
    task = task.format(load_config(recipe).model.type.partition(".")[0])
    assert capsys.readouterr().out.splitlines()[0] == f"Training toy_recipe: {task}, into run"
    assert main(["test", recipe, "run", *short]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"Evaluating run: {task}"
    assert main(["embed", "run", "out.npz", "--split", "val", "--device", "cpu", "--num-workers", "0"]) == 0
    assert capsys.readouterr().out.startswith("Embedding 64 images of val of run with run, step 3, in fp32 on cpu")
