"""docs/architecture.md stays short and names files that exist; docs/decisions is indexed and dated."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from unit_tests import WHOLE_FIXTURES, WHOLE_IMPORTS

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DECISIONS = ROOT / "docs" / "decisions"
INDEX = DECISIONS / "README.md"


def test_the_architecture_fits_on_a_few_screens():
    assert len(ARCHITECTURE.splitlines()) <= 150


def test_files_of_the_architecture_exist():
    """Those of the drawing and of the table of questions, each of whose rows names one at least."""
    drawing = re.search(r"^```\n(.*?)^```$", ARCHITECTURE, re.MULTILINE | re.DOTALL)[1]
    questions = ARCHITECTURE.partition("## Which file")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in questions.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`([\w/.]+\.\w+)`", row) for row in rows]
    assert all(named)
    assert len(named) > 40
    files = {*re.findall(r"[\w/]+\.py\b", drawing), *(name for names in named for name in names)}
    assert sorted(name for name in files if not any((ROOT / top / name).is_file() for top in ("", "toolbox"))) == []


def test_every_decision_page_is_in_the_index():
    linked = set(re.findall(r"\]\((\w+\.md)\)", INDEX.read_text(encoding="utf-8")))
    assert linked == {page.name for page in DECISIONS.glob("*.md")} - {INDEX.name}


def test_every_decision_is_dated():
    pages = sorted(DECISIONS.glob("*.md"))
    assert pages
    for page in pages:
        sections = page.read_text(encoding="utf-8").split("\n## ")[1:]
        assert page == INDEX or sections, f"{page.name} holds no decision"
        for section in sections:
            title, _, rest = section.partition("\n")
            assert re.match(r"\n\*20\d\d-\d\d-\d\d · [0-9a-f]{7}\b.*\*\n", rest), f"{page.name}: {title} has no date"


def test_the_fast_loop_trains_nothing_and_starts_no_process():
    """What `make check` runs follows from imports and fixtures; what trains or starts a process must be left out."""
    whole, kept = re.compile(r"\bsubprocess\.|\btoolbox\.train\(|\bapi\.train\(|\bmain\(\["), 0
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if path == Path(__file__) or WHOLE_IMPORTS.search(text := path.read_text(encoding="utf-8")):
            continue
        kept += 1
        for node in ast.parse(text).body:
            fixtures = {argument.arg for argument in node.args.args} if isinstance(node, ast.FunctionDef) else set()
            if fixtures.isdisjoint(WHOLE_FIXTURES):
                assert not whole.search(ast.get_source_segment(text, node)), f"{path.name}:{node.lineno}"
    assert 15 < kept < 60
