"""Every kind of run on a second device that refuses tensors of mixed devices, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from forked_python import run_python

WORKER = Path(__file__).parent / "strict_device" / "worker.py"


def run(kind: str) -> dict[str, str]:
    """What went wrong in each case, by name; empty for one that passed."""
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch takes no device that is written in Python")
    done = run_python(WORKER, kind, timeout=1500)
    found = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("CASE ")]
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: error for name, _, error in found}


def check(errors: dict[str, str], least: int) -> None:
    assert len(errors) >= least
    wrong = {name: error for name, error in errors.items() if error}
    assert not wrong, "\n\n".join(f"== {name}\n{error[-3000:]}" for name, error in wrong.items())


def test_recipes_run_on_a_strict_device_and_give_the_numbers_of_the_processor():
    check(run("fast"), 20)


@pytest.mark.slow
def test_more_recipes_run_on_a_strict_device():
    check(run("slow"), 12)
