"""The command: what it lists, what it shows of one component, and its exit codes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import discovery
from toolbox.cli.list_components import main
from toolbox.registry import build, get_catalog, swap_catalog

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("fake_plugins", Path(__file__).with_name("fake_plugins.py"))
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)


@pytest.fixture(autouse=True)
def own_catalog(monkeypatch):
    monkeypatch.delenv("TOOLBOX_PLUGINS", raising=False)
    old = swap_catalog(None)
    yield
    swap_catalog(old)


@pytest.fixture
def odd_site(tmp_path, monkeypatch):
    """A broken plugin, a conflict, one for another interface, and a component whose requirement is missing."""
    monkeypatch.syspath_prepend(str(tmp_path))
    source = fake.module("'loss', 'L', 'm:L', 'needs what is not there', ('no_such_library',)")
    fake.install(tmp_path, "bad-dist", "bad", "import no_such_module")
    fake.install(tmp_path, "one-dist", "twice", source)
    fake.install(tmp_path, "two-dist", "twice", source)
    fake.install(tmp_path, "future-dist", "future", source, group="toolbox.v2")
    fake.install(tmp_path, "needy-dist", "needy", source)


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_component_a_line(capsys):
    code, out, _ = run(capsys)
    lines = out.splitlines()
    assert code == 0
    for entry in get_catalog().entries:
        [line] = [line for line in lines if line.split()[1] == entry.fullname]
        assert line.split()[0] == entry.kind
        assert entry.summary in line
        assert f"{entry.plugin.distribution} {entry.plugin.version}" in line
    kinds = [line.split()[0] for line in lines if line.split()[1] in {e.fullname for e in get_catalog().entries}]
    assert len([k for k, following in zip(kinds, [*kinds[1:], None], strict=True) if k != following]) == len(set(kinds))
    assert not any(character in out for character in "│─\033")


def test_what_cannot_be_used_comes_last(capsys, odd_site):
    code, out, _ = run(capsys)
    assert code == 0
    states = [line.split()[0] for line in out.splitlines()]
    first = states.index("broken")
    assert set(states[first:]) <= {"broken", "conflict", "interface", "disabled", "uninstalled", "problem"}
    assert states.count("conflict") == 2
    [broken] = [line for line in out.splitlines() if line.startswith("broken")]
    assert "bad-dist 1.0" in broken
    assert "No module named 'no_such_module'" in broken
    [future] = [line for line in out.splitlines() if line.startswith("interface")]
    assert "targets interface 2, this toolbox has 1" in future
    [needy] = [line for line in out.splitlines() if "needy.L" in line]
    assert needy.endswith("needs no_such_library: pip install no_such_library")


def test_strict_fails_on_what_is_broken(capsys, odd_site):
    assert run(capsys, "--strict")[0] == 1


def test_strict_passes_here(capsys):
    assert [plugin.reason for plugin in get_catalog().plugins if plugin.error] == []
    assert run(capsys, "--strict")[0] == 0


def test_a_mistake_in_the_switch_is_a_line(capsys, monkeypatch):
    monkeypatch.setenv("TOOLBOX_PLUGINS", "-glyfs,-losses")
    code, out, _ = run(capsys, "--strict")
    assert code == 1
    assert "problem   TOOLBOX_PLUGINS  no installed plugin is called 'glyfs'." in out
    assert "\ndisabled  losses" in out
    assert "losses.SupCon" not in out


def test_kind(capsys):
    code, out, _ = run(capsys, "--kind", "loss", "losses")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} == {"loss"}
    code, out, err = run(capsys, "--kind", "los")
    assert (code, out) == (2, "")
    assert "Did you mean 'loss'?" in err


def test_json_is_a_stable_schema(capsys, odd_site):
    record = json.loads(run(capsys, "--json")[1])
    assert set(record) == {"interface", "components", "plugins", "kinds", "commands", "uninstalled", "problems"}
    assert record["interface"] == 1
    assert set(record["components"][0]) == {
        "kind",
        "fullname",
        "namespace",
        "name",
        "summary",
        "target",
        "requires",
        "missing",
        "install",
        "distribution",
        "version",
    }
    assert set(record["plugins"][0]) == {"namespace", "distribution", "version", "path", "state", "error"}
    states = {plugin["namespace"]: plugin["state"] for plugin in record["plugins"]}
    assert states.items() >= {"core": "ready", "bad": "broken", "twice": "conflict", "future": "interface"}.items()
    one = json.loads(run(capsys, "--json", "retrieval.PK")[1])
    assert {"kind", "fullname", "arguments", "doc", "snippet", "target"} <= set(one)
    assert set(one["arguments"][0]) == {"name", "type", "required", "default", "kind", "doc"}


@pytest.mark.parametrize("name", ["retrieval.PK", "PK", "pk", "RETRIEVAL.pk"])
def test_one_component_in_full(capsys, name):
    code, out, _ = run(capsys, name)
    assert code == 0
    assert out.startswith("retrieval.PK  (sampler)")
    assert "toolbox_retrieval.pk:PK" in out
    assert "  classes: int  (required)\n      different classes in a batch." in out
    assert "  short_classes: 'repeat' | 'drop' | 'error' = 'repeat'" in out
    assert "sampler=dict(type='retrieval.PK', classes=1, per_class=1)" in out


def test_snippets_can_be_pasted():
    """Every component's snippet is Python; those that need no data can be built as they are."""
    from toolbox.cli.show_component import make_component_record

    built = 0
    for entry in get_catalog().entries:
        if entry.missing:
            continue  # nothing can be shown of a class that cannot be imported
        snippet = make_component_record(get_catalog(), entry)["snippet"]
        config = eval(snippet.partition("=")[2].strip(), {"dict": dict})
        config = config[0] if isinstance(config, list) else config
        assert config["type"] == entry.fullname
        if entry.kind not in ("model", "backbone", "dataset"):
            build(config, entry.kind)
            built += 1
    assert built >= 10
    entry = get_catalog().get("losses.CrossBatchMemory")
    assert "losses.SupCon" in make_component_record(get_catalog(), entry)["snippet"]  # as its docstring says


def test_names_that_mean_nothing_or_too_much(capsys, tmp_path, monkeypatch):
    assert run(capsys, "no_such_thing_at_all")[0] == 2
    code, _, err = run(capsys, "projektion")
    assert code == 2
    assert "Did you mean 'core.Projection'?" in err
    code, _, err = run(capsys, "dinov3.vitt")
    assert code == 2
    assert "'dinov3.ViT'" in err
    monkeypatch.syspath_prepend(str(tmp_path))
    fake.install(tmp_path, "acme-dist", "acme", fake.module("'sampler', 'PK', 'm:PK', 's'"))
    swap_catalog(None)
    code, _, err = run(capsys, "pk")
    assert code == 2
    assert "'pk' may be acme.PK or retrieval.PK" in err or "'pk' may be retrieval.PK or acme.PK" in err
    assert run(capsys, "--no-such-option")[0] == 2
    assert run(capsys, "--help")[0] == 0


def test_a_component_that_cannot_be_imported(capsys, odd_site):
    code, _, err = run(capsys, "needy.L")
    assert code == 2
    assert "pip install no_such_library" in err
    code, _, err = run(capsys, "bad")
    assert code == 2
    assert "is broken" in err


def test_a_local_plugin_is_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_listed.py").write_text(fake.module("'loss', 'Mine', 'my_listed:Mine', 'my own'"))
    code, out, _ = run(capsys, "--plugin", "my_listed.py")
    assert code == 0
    assert "my_listed.Mine" in out
    sys.modules.pop("my_listed")
    code, out, _ = run(capsys, "--plugin", "no_such_file.py")
    assert code == 2
    assert "there is no file" in out


def test_a_terminal_gets_a_table(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys)
    assert code == 0
    assert "retrieval.Embedder" in out
    assert "──" in out


def shell(*arguments, **options):
    command = [sys.executable, str(ROOT / "tools" / "list_components.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_script(tmp_path):
    done = shell("pk", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "retrieval.PK" in done.stdout
    assert len((ROOT / "tools" / "list_components.py").read_text().splitlines()) <= 15
    piped = subprocess.run(
        f"'{sys.executable}' '{ROOT}/tools/list_components.py' | head -1", shell=True, capture_output=True, text=True
    )
    assert piped.stderr == ""
    assert len(piped.stdout.splitlines()) == 1


def test_the_script_without_the_toolbox(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "tools" / "list_components.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "make venv" in done.stderr


def test_the_benchmark_measures_the_command():
    result = discovery.run(pairs=1)
    assert result["torch_imported"] is False
    assert 0 < result["interpreter_seconds"] < result["seconds"] < 5
    assert result["promise"] == 0.3
    with pytest.raises(ValueError, match="at least 1"):
        discovery.run(pairs=0)
