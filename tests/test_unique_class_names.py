"""Names of classes: each stands for one class of the toolbox and its plugins."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_class_name_is_used_once():
    places: dict[str, list[str]] = {}
    for path in [*ROOT.glob("toolbox/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(places) > 200
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
