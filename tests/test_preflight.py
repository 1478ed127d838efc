"""Checks before a run: a list over one dry run, to which plugins may add."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from toolbox import api
from toolbox.preflight.preflight import CHECKS, MEASUREMENTS

CHECKER = """
from toolbox.errors import Problem
from toolbox.plugin import hookimpl

@hookimpl
def toolbox_check_config(config{argument}):
    if config.get("work_dir") != __name__:  # another test's: a plugin that was loaded stays
        return []
    with open(__name__ + ".txt", "a") as file:
        file.write("called\\n")
    {body}
"""


@pytest.mark.parametrize(
    ("argument", "body", "message"),
    [
        (
            ", dry_run",
            'return [Problem(f"{type(dry_run.model).__name__} of {sorted(dry_run.datasets)}", "model")]',
            "Embedder of ['train', 'val']",
        ),
        ("", 'return [Problem(f"seed {config.get(\'randomness\')}", "model")]', "seed {'seed': 3}"),
        (", dry_run", "1 / dry_run.data_problems", "toolbox_check_config: ZeroDivisionError"),
    ],
)
def test_a_plugin_checks_the_recipe_or_its_dry_run_once(toy, argument, body, message):
    file = Path(f"checker_{len(body)}.py")
    file.write_text(CHECKER.format(argument=argument, body=body))
    problems = api.check_config(toy([f"plugins=['{file}']", "randomness.seed=3", f"work_dir={file.stem}"]))
    assert any(message in problem.message for problem in problems), problems
    assert file.with_suffix(".txt").read_text() == "called\n"


def test_every_check_says_what_it_looks_for():
    checks = [*CHECKS, *MEASUREMENTS]
    assert len({check.__name__ for check in checks}) == len(checks) > 20
    assert all(check.__doc__ for check in checks)


def test_data_are_opened_and_the_structure_is_built_once_before_it_gets_weights(toy, monkeypatch):
    import toy_plugin

    import toolbox
    from toolbox.engine import assemble

    opened, built = [], []
    open_data, build = toy_plugin.Noise.__init__, assemble.build_structure

    @functools.wraps(open_data)
    def count_data(self, *arguments, **options):
        opened.append(options.get("seed"))
        open_data(self, *arguments, **options)

    monkeypatch.setattr(toy_plugin.Noise, "__init__", count_data)
    monkeypatch.setattr(assemble, "build_structure", lambda *given: built.append(1) or build(*given))
    monkeypatch.setattr("toolbox.preflight.dry_run.build_structure", assemble.build_structure)
    toolbox.train(toy(["train_cfg.max_steps=2"]), out="w")
    assert len(opened) == 2  # training and validation
    assert len(built) == 2  # on the meta device, and with weights
