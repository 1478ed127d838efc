"""Plugin folders beside the toolbox in a checkout, compared with what is installed."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from toolbox.plugin import GROUP

# The namespaces that the toolbox's own repository holds; a hint may name these and no others.
IN_REPOSITORY = ("dinov3", "encoders", "losses", "datasets", "glyphs", "retrieval", "classification")


@dataclass(frozen=True)
class PluginFolder:
    """A plugin folder that the environment does not reflect.

    - `path`: the folder; `distribution`: the project it holds; `namespaces`: what it would declare.
    - `reason`: "not installed", or what differs from the installed metadata.
    - `command`: the command that installs it, or the file to mend.
    """

    path: Path
    distribution: str
    namespaces: tuple[str, ...]
    reason: str
    command: str


def find_uninstalled(root: Path | None = None) -> list[PluginFolder]:
    """Plugin folders of the checkout that are not installed, or whose entry points differ from the installed ones.

    - `root`: the checkout, default the one that this toolbox runs from; without one the answer is empty.
    """
    root = root or Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return []
    folders = []
    for file in [root / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml"))]:
        try:
            project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
            name = project["name"]
        except (OSError, ValueError, KeyError) as error:
            reason = f"its pyproject.toml cannot be read: {type(error).__name__}: {error}"
            folders.append(PluginFolder(file.parent, file.parent.name, (), reason, f"mend {file}"))
            continue
        declared = dict(project.get("entry-points", {}).get(GROUP, {}))
        if declared and (reason := _describe_difference(name, declared)):
            folders.append(PluginFolder(file.parent, name, tuple(declared), reason, _format_command(file.parent)))
    return folders


def format_install_command(namespace: str) -> str:
    """How to install one of the repository's own plugins."""
    return f"pip install ./plugins/{namespace}"


def list_unusable(states: Mapping[str, str]) -> list[str]:
    """The repository's own plugins that are not ready, each with why; `states`: those of the installed ones."""
    return [
        f"{namespace} ({states.get(namespace) or 'not installed: ' + format_install_command(namespace)})"
        for namespace in IN_REPOSITORY
        if states.get(namespace) != "ready"
    ]


def _describe_difference(name: str, declared: dict[str, str]) -> str:
    try:
        metadata = distribution(name)
    except PackageNotFoundError:
        return "not installed"
    installed = {entry.name: entry.value for entry in metadata.entry_points if entry.group == GROUP}
    if installed == declared:
        return ""
    changed = sorted(key for key in {*installed, *declared} if installed.get(key) != declared.get(key))
    return f"installed with other entry points ({', '.join(changed)})"


def _format_command(folder: Path) -> str:
    relative = os.path.relpath(folder)
    path = str(folder) if relative.startswith("..") else "." if relative == "." else f"./{Path(relative).as_posix()}"
    return f"pip install {path}" if re.fullmatch(r"[\w./+-]+", path) else f'pip install "{path}"'
