"""Installed distributions made of nothing but files, for tests of discovery."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

_number = itertools.count()


def module(components: str = "", body: str = "") -> str:
    """The source of a plugin module; `components` are the arguments of one or several Component, a line each."""
    lines = [f"Component({line.strip()})," for line in components.strip().splitlines()]
    return "\n".join(
        [
            "from toolbox.plugin import Component, hookimpl",
            textwrap.dedent(body),
            "@hookimpl",
            "def toolbox_components():",
            f"    return [{' '.join(lines)}]",
        ]
    )


def install(
    folder: Path,
    distribution: str,
    namespace: str,
    source: str,
    *,
    version: str = "1.0",
    group: str = "toolbox.v1",
    kind: str = "dist-info",
    module_name: str = "",
    files: dict[str, str] | None = None,
) -> str:
    """Write a distribution with one plugin into `folder` (on sys.path); returns the name of its module.

    - `kind`: "dist-info" or "egg-info".
    - `files`: further files beside the module, {relative path: text}.
    """
    name = module_name or f"fake_{namespace}_{next(_number)}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    for path, text in (files or {}).items():
        (folder / path).write_text(textwrap.dedent(text))
    info = folder / f"{distribution.replace('-', '_')}-{version}.{kind}"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / ("METADATA" if kind == "dist-info" else "PKG-INFO")).write_text(metadata)
    (info / "entry_points.txt").write_text(f"[{group}]\n{namespace} = {name}\n")
    (info / "RECORD").write_text(f"{name}.py,,\n")
    return name
