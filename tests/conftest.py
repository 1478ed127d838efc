"""Fixtures for tests of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption("--unit", action="store_true", help="only tests of parts of the core: no whole run, no process")


def pytest_ignore_collect(collection_path, config):
    """With `--unit`, leave out files with such imports, and the folders of tests of several processes and faults."""
    from unit_tests import WHOLE_IMPORTS

    if not config.getoption("--unit", default=False) or collection_path == HERE:
        return None
    if collection_path.suffix != ".py" or collection_path.parent != HERE:
        return True
    return True if WHOLE_IMPORTS.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(config, items):
    """With `--unit`, leave out tests whose fixtures give them a whole run or a command."""
    from unit_tests import WHOLE_FIXTURES

    if config.getoption("--unit", default=False):
        whole = [item for item in items if not WHOLE_FIXTURES.isdisjoint(item.fixturenames)]
        config.hook.pytest_deselected(items=whole)
        items[:] = [item for item in items if item not in whole]


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_flush_to_disk():
    """Files reach the disk when the system likes: no test cuts the power, and a run flushes forty times."""
    import os

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """`toy(overrides) -> recipe`: the toy recipe, run in an empty folder."""
    from toolbox.config import load_config
    from toolbox.registry import add_local, get_catalog

    if "toy" not in {plugin.namespace for plugin in get_catalog().plugins}:
        add_local([str(HERE / "toy_plugin.py")])
    monkeypatch.chdir(tmp_path)
    return lambda overrides=(): load_config(HERE / "toy_recipe.py", overrides)


@pytest.fixture
def command(tmp_path):
    """`command(name, *arguments) -> CompletedProcess`: a command of tools/ in an empty folder."""
    from forked_python import run_python

    def run(name, *arguments):
        return run_python(HERE.parent / "tools" / f"{name}.py", *arguments, cwd=tmp_path)

    return run
