"""The front pages: the same commands in both languages, and nothing named that is not there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|home)/")


def commands(page: Path) -> list[str]:
    """The lines of the fenced blocks, in order, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [re.sub(r"(^|\s+)#.*", "", line).rstrip() for block in blocks for line in block.splitlines()]


def test_both_languages_show_the_same_commands():
    english, chinese = map(commands, READMES)
    assert english == chinese
    assert {"make demo", "make test"} <= set(english)


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_named_files_exist(page):
    named = set(re.findall(r"\b(?:(?:tools|configs)/[\w/]+\.py|docs/\w+\.md)\b", page.read_text(encoding="utf-8")))
    assert named
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_of_links_exist(page):
    links = re.findall(r"\]\(([^)\s:#]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert [
        f"{name}#{anchor}" for name, anchor in links if anchor not in anchors(page.parent / name if name else page)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_are_relative_and_exist(page):
    links = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if link.startswith("/") or not (page.parent / link).exists()] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a copy without git")
def test_tracked_text_is_clean():
    found = []
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content:
            lines = enumerate(content.decode("utf-8", "replace").split("\n"), 1)
            found += [f"{name}:{i}" for i, line in lines if line != line.rstrip() or MACHINE_PATH.search(line)]
    assert found == []
