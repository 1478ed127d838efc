"""One component in full: what its constructor takes, what it means, and a snippet to paste into a recipe."""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from typing import Any

from toolbox.registry.catalog import Catalog, ComponentEntry
from toolbox.registry.signature import EMPTY, Parameter, accepts, describe, read_parameters

# How the slot of a kind is written in a recipe; {} is the component.
SLOTS = {
    "model": "model = {}",
    "metric": "val_evaluator = [{}]",
    "schedule": "param_scheduler = {}",
    "hook": "custom_hooks = [{}]",
}


def make_component_record(installed: Catalog, entry: ComponentEntry) -> dict[str, Any]:
    """All there is to say of a component, as JSON values. Raises ToolboxError when its class cannot be imported."""
    cls = installed.resolve(entry.fullname)
    arguments = read_parameters(cls)
    return {
        "kind": entry.kind,
        "fullname": entry.fullname,
        "summary": entry.summary,
        "target": entry.target,
        "requires": list(entry.requires),
        "distribution": entry.plugin.distribution,
        "version": entry.plugin.version,
        "path": entry.plugin.path,
        "doc": inspect.getdoc(cls) or "",
        "arguments": [
            {
                "name": argument.name,
                "type": describe(argument.annotation),
                "required": argument.required,
                "default": None if argument.required else repr(argument.default),
                "kind": argument.kind_of_component,
                "doc": argument.doc,
            }
            for argument in arguments
        ],
        "snippet": SLOTS.get(entry.kind, f"{entry.kind}={{}}").format(
            _write_call(installed, entry, arguments, depth=0)
        ),
    }


def format_component(record: dict[str, Any], terminal: bool) -> str:
    """The record as text; bold headings on a terminal."""

    def heading(text: str) -> str:
        return f"\033[1m{text}\033[0m" if terminal else text

    source = f"{record['distribution']} {record['version']}" if record["distribution"] else record["path"]
    lines = [heading(record["fullname"]) + f"  ({record['kind']})  {record['summary']}"]
    lines += [f"{record['target']}  from {source}"]
    if record["doc"]:
        lines += ["", *_drop_bullets(record["doc"], [argument["name"] for argument in record["arguments"]])]
    lines += ["", heading("in a recipe"), f"  {record['snippet']}"]
    lines += ["", heading("arguments" if record["arguments"] else "no arguments")]
    for argument in record["arguments"]:
        default = "  (required)" if argument["required"] else f" = {argument['default']}"
        lines.append(f"  {argument['name']}: {argument['type']}{default}")
        lines += textwrap.wrap(argument["doc"], 108, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _drop_bullets(document: str, names: list[str]) -> list[str]:
    """The lines of a docstring less the bullets of the arguments, which are shown one by one."""
    kept: list[str] = []
    inside = False
    for line in document.splitlines():
        if bullet := re.match(r"- `(\w+)`", line):
            inside = bullet[1] in names
        elif inside and not line.startswith(" "):
            inside = False
        if not inside and (line.strip() or (kept and kept[-1])):
            kept.append(line.rstrip())
    return kept


def _write_call(installed: Catalog, entry: ComponentEntry, arguments: list[Parameter], depth: int) -> str:
    """A component as a recipe writes it, every required argument set to a value of its type."""
    parts = [f"{item.name}={_write_example(installed, item, depth)}" for item in arguments if item.required]
    return f"dict({', '.join([f'type={entry.fullname!r}', *parts])})"


def _write_example(installed: Catalog, argument: Parameter, depth: int) -> str:
    """A value that fits an argument; of components the one that its docstring names, else the first of its kind."""
    kind = argument.kind_of_component
    if kind is not None:
        usable = [entry for entry in installed.find(kind) if not entry.missing]
        if not usable or depth == 3:
            return "dict(type='...')"
        named = [entry for entry in usable if entry.fullname in argument.doc]
        named.sort(key=lambda entry: argument.doc.index(entry.fullname))
        candidates = named or [entry for entry in usable if entry.namespace != "core"] or usable
        inner = _write_call(
            installed, candidates[0], read_parameters(installed.resolve(candidates[0].fullname)), depth + 1
        )
        return {"list": f"[{inner}]", "dict": f"dict(name={inner})"}.get(argument.container, inner)
    annotation = argument.annotation
    if annotation is EMPTY or isinstance(annotation, str):
        return "..."
    for option in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(option) is typing.Literal:
            return repr(typing.get_args(option)[0])
    for type_, text in ((bool, "True"), (int, "1"), (float, "0.1"), (str, f"'{argument.name}'")):
        if accepts(annotation, type_):
            return text
    origin = typing.get_origin(annotation) or annotation
    return {list: "[1]", tuple: "(1,)", dict: "dict()"}.get(origin, "...")
