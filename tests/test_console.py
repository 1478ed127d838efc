"""The console command: its sub-commands, what `--help` costs, and how messages word it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from test_import_cost import heavy_after

from toolbox.cli.main import COMMANDS, main
from toolbox.errors import PROGRAM, command_line

ROOT = Path(__file__).parents[1]


def test_every_command_has_a_short_script_in_tools():
    scripts = {path.stem: path.read_text() for path in (ROOT / "tools").glob("*.py")}
    assert scripts.keys() == COMMANDS.keys()
    for name, text in scripts.items():
        assert len(text.splitlines()) <= 15, name
        assert f'main(["{name}", *sys.argv[1:]])' in text


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
    assert "There is no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert "list_components" in capsys.readouterr().err
    assert main([]) == 2


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
    assert command_line("train") == worded


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
