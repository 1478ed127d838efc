"""Names of classes, files and folders: each class name stands for one class, and no word that was replaced is back."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

REPLACED_CLASSES = {
    *("Answered", "Answers", "Board", "Classified", "Confused", "Draws", "Embedded", "EvalSet", "Fetch", "Finding"),
    *("Fitted", "Known", "Learned", "LeftOut", "Likeliest", "Listed", "Mined", "Mute", "Named", "Paired", "Pictures"),
    *("Place", "Prepared", "Projected", "Seen", "Shelf", "Shown", "Silent", "Skipping", "Solved", "Step", "Store"),
    *("Team", "Told", "Turns", "Watch"),
}
"""Names of classes that another one replaced: a class is a noun of the field."""

REPLACED_FILES = {
    *("checking", "conclude", "exporting", "findings", "judge", "judging", "learn", "making", "objective", "prepare"),
    *("reading", "represent", "saving", "say", "shelf", "store", "storing", "team", "tell", "updating", "validated"),
}
"""Names of modules and folders that another one replaced."""


def list_files() -> list[Path]:
    """The files of the repository, without those that git ignores."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone")
    return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def list_classes() -> dict[str, list[str]]:
    """{name of a class: the files that define one}, of the toolbox and its plugins."""
    places: dict[str, list[str]] = {}
    for path in [*ROOT.glob("toolbox/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(places) > 200
    return places


def test_a_class_name_is_used_once():
    assert {name: paths for name, paths in list_classes().items() if len(paths) > 1} == {}


def test_no_class_has_a_name_that_was_replaced():
    assert {name: paths for name, paths in list_classes().items() if name.lstrip("_") in REPLACED_CLASSES} == {}


def test_no_file_or_folder_has_a_name_that_was_replaced():
    files = list_files()
    assert len(files) > 500
    words = {path: {part.partition(".")[0] for part in path.parts} for path in files}
    assert [str(path) for path, names in words.items() if names & REPLACED_FILES] == []


def test_no_file_is_called_after_the_documents_that_the_project_began_with():
    assert [str(path) for path in list_files() if "seed" in path.stem.split("_")] == []
