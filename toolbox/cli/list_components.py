"""The command `list_components`: what is installed, what is broken, and how one component is used."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from typing import Any

from toolbox.cli.common import new_parser, run_command
from toolbox.cli.show_component import format_component, make_component_record
from toolbox.errors import ToolboxError
from toolbox.registry.catalog import Catalog, ComponentEntry, add_local, get_catalog
from toolbox.registry.checkout import find_uninstalled
from toolbox.registry.commands import CommandEntry
from toolbox.registry.discovery import INTERFACE

ORDER = ("broken", "conflict", "interface", "disabled")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 `--strict` found something, 2 the request was wrong."""
    try:
        options = _make_parser().parse_args(argv)
    except SystemExit as exit:
        return int(exit.code or 0)
    return run_command(lambda: _list_components(options))


def find_entries(installed: Catalog, name: str, kind: str | None = None) -> list[ComponentEntry]:
    """The entries that `name` means: one component (full or bare, upper and lower case alike), or all of a namespace.

    Raises ToolboxError when it means nothing here, or several components.
    """
    entries = installed.find(kind)
    lowered = name.lower()
    hits = [e for e in entries if name in (e.fullname, e.name)]
    hits = hits or [e for e in entries if lowered in (e.fullname.lower(), e.name.lower())]
    if len(hits) > 1:
        raise ToolboxError(f"{name!r} may be {' or '.join(e.fullname for e in hits)}.", hint="Give the full name.")
    if not hits and "." not in name and any(plugin.namespace == name for plugin in installed.plugins):
        return [e for e in entries if e.plugin is installed.plugin(name)]
    if not hits and "." not in name:
        near = difflib.get_close_matches(lowered, {e.name.lower(): e for e in entries}, n=1)
        hint = f"Did you mean {next(e.fullname for e in entries if e.name.lower() == near[0])!r}?" if near else ""
        what = f"{kind} is" if kind else "component and no plugin is"
        raise ToolboxError(f"no {what} called {name!r} here.", hint=hint or "Without a NAME, all are listed.")
    return hits or [installed.get(name, kind)]


def _list_components(options: argparse.Namespace) -> int:
    local = add_local(options.plugin)
    installed = get_catalog()
    code = 2 if any(plugin.error for plugin in local) else 0
    commands = [command.try_import() for command in installed.commands()] if options.strict else installed.commands()
    states = [plugin.state for plugin in installed.plugins] + [command.state for command in commands]
    bad = not {"broken", "conflict"}.isdisjoint(states) or installed.problems
    code = code or (1 if options.strict and (bad or installed.kinds.describe_conflicts()) else 0)

    entries = (
        installed.find(options.kind) if options.name is None else find_entries(installed, options.name, options.kind)
    )
    if options.name is not None and len(entries) == 1 and options.name != entries[0].namespace:
        record = make_component_record(installed, entries[0])
        print(json.dumps(record, indent=2) if options.json else format_component(record, sys.stdout.isatty()))
    elif options.json:
        print(json.dumps(_make_record(installed, entries, commands), indent=2))
    else:
        unusable = _list_unusable(installed, commands) if options.name is None else []
        if sys.stdout.isatty():
            _print_rich(entries, unusable)
        else:
            print("\n".join(_format_lines(entries, unusable)))
    return code


def _make_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "list_components",
        "List the components that recipes can name, or show how one of them is used.",
        epilog="Exit codes: 0 done, 1 --strict found something broken, 2 the request was wrong.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a component (dinov3.ViT or vit) or a plugin (dinov3)")
    parser.add_argument("--kind", metavar="K", help=f"only this kind: {', '.join(get_catalog().kinds.names)}")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--strict", action="store_true", help="import all commands; exit with 1 if something is broken")
    parser.add_argument("--plugin", action="append", default=[], metavar="PATH", help="also a local file or module")
    return parser


def _make_record(installed: Catalog, entries: list[ComponentEntry], commands: list[CommandEntry]) -> dict[str, Any]:
    """The schema of `--json`; keys are only ever added."""
    return {
        "interface": INTERFACE,
        "components": [
            {
                "kind": entry.kind,
                "fullname": entry.fullname,
                "namespace": entry.namespace,
                "name": entry.name,
                "summary": entry.summary,
                "target": entry.target,
                "requires": list(entry.requires),
                "missing": list(entry.missing),
                "install": entry.install,
                "distribution": entry.plugin.distribution,
                "version": entry.plugin.version,
            }
            for entry in entries
        ],
        "plugins": [
            {
                "namespace": plugin.namespace,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "path": plugin.path,
                "state": plugin.state,
                "error": plugin.reason,
            }
            for plugin in installed.plugins
        ],
        "kinds": [
            {"name": kind.name, "target": kind.target, "summary": kind.summary, "namespace": owner.namespace}
            for kind, owner in installed.kinds.list_declared()
        ],
        "commands": [
            {
                "name": command.name,
                "target": command.target,
                "summary": command.summary,
                "namespace": command.plugin.namespace,
                "state": command.state,
                "error": command.error,
            }
            for command in commands
        ],
        "uninstalled": [
            {
                "distribution": folder.distribution,
                "namespaces": list(folder.namespaces),
                "path": str(folder.path),
                "reason": folder.reason,
                "command": folder.command,
            }
            for folder in find_uninstalled()
        ],
        "problems": [{"message": p.message, "where": p.where, "hint": p.hint} for p in installed.problems],
    }


def _list_unusable(installed: Catalog, commands: list[CommandEntry]) -> list[tuple[str, str, str]]:
    """(state, who, why) of every plugin, kind and command that cannot be used, and of mistakes in TOOLBOX_PLUGINS."""
    plugins = [plugin for plugin in installed.plugins if plugin.state != "ready"]
    plugins.sort(key=lambda plugin: (ORDER.index(plugin.state), plugin.namespace))
    rows = [(p.state, p.namespace, f"{' '.join(p.reason.split())}  [{p.owner}]") for p in plugins]
    rows += [("conflict", f"kind {name}", why) for name, why in installed.kinds.describe_conflicts().items()]
    rows += [(c.state, f"command {c.name}", f"{c.error}  [{c.plugin.owner}]") for c in commands if c.error]
    rows += [("uninstalled", f.distribution, f"{f.reason}: {f.command}") for f in find_uninstalled()]
    return rows + [
        ("problem", problem.where, f"{problem.message} {problem.hint}".strip()) for problem in installed.problems
    ]


def _format_source(entry: ComponentEntry) -> str:
    return f"{entry.plugin.distribution} {entry.plugin.version}" if entry.plugin.distribution else entry.plugin.path


def _format_missing(entry: ComponentEntry) -> str:
    return f"needs {', '.join(entry.missing)}: {entry.install}" if entry.missing else ""


def _format_lines(entries: list[ComponentEntry], unusable: list[tuple[str, str, str]]) -> list[str]:
    """One component a line: kind, name, summary, distribution and version, what is missing."""
    rows = [
        (entry.kind, entry.fullname, entry.summary, _format_source(entry), _format_missing(entry)) for entry in entries
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
    widths = [max((len(row[i]) for row in unusable), default=0) for i in range(2)]
    return lines + ["  ".join([*map(str.ljust, row[:2], widths), row[2]]) for row in unusable]


def _print_rich(entries: list[ComponentEntry], unusable: list[tuple[str, str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("kind", "name", "summary", "from", box=SIMPLE_HEAD, pad_edge=False)
    table.columns[1].no_wrap = True
    for i, entry in enumerate(entries):
        first = i == 0 or entries[i - 1].kind != entry.kind
        last = i + 1 == len(entries) or entries[i + 1].kind != entry.kind
        summary = Text(entry.summary)
        if entry.missing:
            summary.append(f"\n{_format_missing(entry)}", style="yellow")
        kind = Text(entry.kind if first else "", style="bold")
        table.add_row(kind, Text(entry.fullname, style="cyan"), summary, Text(_format_source(entry)), end_section=last)
    console.print(table)
    for state, who, why in unusable:
        style = "red" if state in ("broken", "conflict", "problem") else "yellow"
        console.print(Text.assemble((f"{state} ", style), (f"{who} ", "bold"), why), soft_wrap=True)
