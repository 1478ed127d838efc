"""The first import on a machine: mmengine's yapf keeps a cache file that another process may not have finished."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "from toolbox.config import Config; print(Config(dict(a=1)).a)"


def run_import(cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder has another variable")
def test_an_unfinished_grammar_in_the_cache_is_written_again(tmp_path):
    assert run_import(tmp_path).stdout == "1\n"
    grammars = sorted(tmp_path.rglob("*.pickle"))
    assert grammars, "yapf keeps no grammar in XDG_CACHE_HOME any more: toolbox.config.mmengine_config can go"
    whole = [grammar.read_bytes() for grammar in grammars]
    for size in (0, 1, 4096):
        for grammar, content in zip(grammars, whole, strict=True):
            grammar.write_bytes(content[:size])
        result = run_import(tmp_path)
        assert (result.stdout, result.stderr) == ("1\n", "")
        assert [grammar.read_bytes() for grammar in grammars] == whole
