"""Sub-commands of the console command: which there are, and why some cannot run; imported when they run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

from toolbox.errors import ToolboxError
from toolbox.registry.discovery import Plugin, describe_error


@dataclass(frozen=True)
class CommandEntry:
    """One sub-command.

    - `name`, `target`, `summary`: as in `toolbox.plugin.Command`.
    - `plugin`: the plugin that it comes from.
    - `error`: why it cannot run, "" where no reason is known.
    - `state`: "ready", "conflict" (several plugins, or the core and a plugin, have the name) or "broken".
    """

    name: str
    target: str
    summary: str
    plugin: Plugin
    error: str = ""
    state: str = "ready"

    def check(self) -> None:
        """Raise ToolboxError with `error`, if there is one."""
        if self.state == "conflict":
            raise ToolboxError(f"{self.error}.")
        if self.error:
            raise ToolboxError(f"the command {self.name!r} of {self.plugin.owner} is broken: {self.error}.")

    def try_import(self) -> CommandEntry:
        """Import its module; returns this entry, with the `error` of the import where there is one."""
        if self.error or self.plugin.namespace == "core":
            return self
        try:
            self.load()
        except ToolboxError as error:
            return replace(self, error=describe_error(error.__cause__ or error), state="broken")
        return self

    def load(self) -> Callable[[Sequence[str]], int]:
        """The function behind it, imported now: it takes the list of arguments and returns the exit code.

        Raises ToolboxError where it cannot be imported, with the original exception chained.
        """
        self.check()
        try:
            function: Any = resolve_name(self.target)
            if not callable(function):
                raise TypeError(f"{self.target} is no function")
        except Exception as error:
            message = f"the command {self.name!r} of {self.plugin.owner} is broken: {describe_error(error)}."
            raise ToolboxError(message) from error
        return function


def list_commands(plugins: Iterable[Plugin]) -> list[CommandEntry]:
    """The commands of `plugins`, the core's first, then by name; each with the `error` that keeps it from running."""
    declared = [(command, plugin) for plugin in plugins for command in plugin.commands]
    owners: dict[str, list[Plugin]] = {}
    for command, plugin in declared:
        owners.setdefault(command.name, []).append(plugin)
    entries = []
    for command, plugin in declared:
        entry = CommandEntry(command.name, command.target, command.summary, plugin)
        if plugin.namespace != "core":
            if clash := _describe_clash(command.name, owners[command.name]):
                entry = replace(entry, error=clash, state="conflict")
            elif problem := _find_problem(command.target.partition(":")[0]):
                entry = replace(entry, error=problem, state="broken")
        entries.append(entry)
    return sorted(entries, key=lambda entry: "" if entry.plugin.namespace == "core" else entry.name)


def _describe_clash(name: str, owners: list[Plugin]) -> str:
    """Why a plugin's command `name` cannot run, where others have the name too."""
    if len(owners) == 1:
        return ""
    theirs = [owner for owner in owners if owner.namespace != "core"]
    listed = " and by ".join(owner.owner for owner in theirs)
    if len(theirs) < len(owners):
        return f"the command {name!r} belongs to the toolbox; it is declared by {listed}, too"
    return (
        f"the command {name!r} is declared by {listed}; uninstall one, or set TOOLBOX_PLUGINS=-{theirs[-1].namespace}."
    )


def _find_problem(module: str) -> str:
    """Why `module` could not be imported, as far as can be seen without importing it; "" if nothing is seen."""
    try:
        spec = _find_spec(module)
        if spec is None:
            return f"its module {module!r} does not exist"
        read_source = getattr(spec.loader, "get_source", None)
        source = read_source(spec.name) if read_source else None
        for name in _list_imports(ast.parse(source or "", spec.origin or module)):
            if find_spec(name) is None:
                return f"its module {module!r} imports {name!r}, which is not installed"
    except (ImportError, SyntaxError, ValueError) as error:
        return describe_error(error)
    return ""


def _find_spec(module: str) -> ModuleSpec | None:
    """The spec of a module, its packages not being imported."""
    first, *rest = module.split(".")
    spec = find_spec(first)
    for part in rest:
        if spec is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations or [])
    return spec


def _list_imports(tree: ast.Module) -> list[str]:
    """The top-level packages that a module imports unconditionally."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module.partition(".")[0])
    return names
