"""Fixtures for tests of whole runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # tests share helpers by plain imports


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """`toy(overrides) -> recipe`: the toy recipe, run in an empty folder."""
    from toolbox.config import load_config
    from toolbox.registry import add_local, catalog

    if "toy" not in {plugin.namespace for plugin in catalog().plugins}:
        add_local([str(HERE / "toy_plugin.py")])
    monkeypatch.chdir(tmp_path)
    return lambda overrides=(): load_config(HERE / "toy_recipe.py", overrides)


@pytest.fixture
def command(tmp_path):
    """`command(name, *arguments) -> CompletedProcess`: a command of tools/ in an empty folder."""
    import os
    import subprocess

    def run(name, *arguments, cwd=tmp_path, env=None, **options):
        return subprocess.run(
            [sys.executable, str(HERE.parent / "tools" / f"{name}.py"), *map(str, arguments)],
            cwd=cwd, capture_output=True, text=True, timeout=300,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(env or {})}, **options,
        )  # fmt: skip

    return run
