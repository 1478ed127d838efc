"""Entry points -> plugins. A plugin that fails is a value that carries its error, never a crash.

pluggy's own `load_setuptools_entrypoints` is not used: one failing plugin ends it, and of two plugins
with one name it silently skips the second.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, distributions
from types import ModuleType
from typing import Any

import pluggy

from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import GROUP, KINDS, Command, Component, Kind
from toolbox.registry.declarations import read_declarations
from toolbox.registry.messages import list_names

VARIABLE = "TOOLBOX_PLUGINS"
CORE = "vision-encoder-toolbox"
INTERFACE = int(GROUP.rpartition("v")[2])


@dataclass(frozen=True)
class Plugin:
    """One plugin, usable or not.

    - `namespace`: the name of its entry point, the part before the dot in `namespace.Name`.
    - `distribution`, `version`: the installed package that declares it; "" and "" for a local file.
    - `path`: the file of its module; of a plugin that was not imported, its metadata folder.
    - `components`, `kinds`, `commands`: what it offers; empty unless `state` is "ready".
    - `error`: the exception that makes it unusable, the original one with its traceback; None if usable.
    - `state`: "ready", "broken", "conflict" (two owners of one namespace), "interface" (made for another
      version of the toolbox's plugin interface) or "disabled" (by TOOLBOX_PLUGINS).
    - `module_name`: the module that its entry point names.
    - `module`: the imported plugin module, None where it was not imported.
    - `hook`: pluggy's relay onto this plugin's hooks alone, None unless `state` is "ready".
    """

    namespace: str
    distribution: str = ""
    version: str = ""
    path: str = ""
    components: tuple[Component, ...] = ()
    kinds: tuple[Kind, ...] = ()
    commands: tuple[Command, ...] = ()
    error: BaseException | None = None
    state: str = "ready"
    module_name: str = ""
    module: ModuleType | None = field(default=None, repr=False, compare=False)
    hook: Any = field(default=None, repr=False, compare=False)

    @property
    def owner(self) -> str:
        """Who it comes from, for messages: `name 1.0 (path)`."""
        return f"{self.distribution} {self.version} ({self.path})" if self.distribution else self.path

    @property
    def reason(self) -> str:
        """Why it is unusable, in one line; "" if it is usable."""
        return "" if self.error is None else describe_error(self.error)


def discover() -> tuple[list[Plugin], list[Problem]]:
    """Every installed plugin, `core` first and the others by namespace, and what is wrong with TOOLBOX_PLUGINS."""
    entries, others, problems = _read_entry_points()
    names = {key for entry in entries for key in (entry.name, _identify_distribution(entry)[0])}
    allows, mistakes = _read_switch(os.environ.get(VARIABLE, ""), names)

    plugins = []
    for namespace in sorted({entry.name for entry in entries}, key=lambda name: (name != "core", name)):
        owners = []
        for entry in (entry for entry in entries if entry.name == namespace):
            if allows(namespace, _identify_distribution(entry)[0]):
                owners.append(entry)
            else:
                error = ToolboxError(f"switched off by {VARIABLE}={os.environ[VARIABLE]}")
                plugins.append(_describe_entry(entry, "disabled", error))
        if namespace == "core":
            plugins += [_refuse_core(_describe_entry(entry, "ready")) for entry in owners if not _is_core(entry)]
            owners = [entry for entry in owners if _is_core(entry)]
        if len(owners) == 1:
            plugins.append(load_plugin(_describe_entry(owners[0], "ready"), partial(import_module, owners[0].module)))
        elif owners:
            plugins += _refuse_all(namespace, [_describe_entry(entry, "conflict") for entry in owners])
    for entry in others:
        target = entry.group.rpartition("v")[2]
        error = ToolboxError(f"targets interface {target}, this toolbox has {INTERFACE}")
        plugins.append(_describe_entry(entry, "interface", error))
    return check_kinds(plugins), problems + mistakes


def check_kinds(plugins: list[Plugin]) -> list[Plugin]:
    """`plugins`, in which those that have a component of a kind that no usable plugin declares are broken."""
    names = [*KINDS, *dict.fromkeys(kind.name for plugin in plugins for kind in plugin.kinds)]
    checked = []
    for plugin in plugins:
        try:
            for component in plugin.components:
                if component.kind not in names:
                    kind = f"the unknown kind {component.kind!r}; kinds: {', '.join(names)}"
                    raise ValueError(f"component {component.name!r} has {kind}")
            checked.append(plugin)
        except ValueError as error:
            checked.append(replace(_strip_declarations(plugin), error=error, state="broken"))
    # A plugin that turns out broken takes the kinds that it declares away from others.
    return checked if checked == plugins else check_kinds(checked)


def describe_error(error: BaseException) -> str:
    """One line: what happened and, for errors of a plugin's own code, the file and line where."""
    if isinstance(error, ToolboxError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_machinery(f.filename)]
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text


def _is_machinery(filename: str) -> bool:
    inside = ("<frozen", os.path.dirname(__file__), os.path.dirname(pluggy.__file__))
    return filename.startswith(inside) or f"importlib{os.sep}" in filename


def _read_entry_points() -> tuple[list[EntryPoint], list[EntryPoint], list[Problem]]:
    """Entry points of this interface, those of others, and unreadable metadata.

    A distribution that is seen twice on sys.path counts once, the first place winning, as with an import. The current
    folder does not count as a place, although Python has it on sys.path in notebooks: a plugin is installed, or named.
    """
    every: dict[str, list[EntryPoint]] = {}
    problems = []
    for distribution in distributions(path=[place for place in sys.path if place]):
        try:
            if "toolbox.v" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            entries = [entry for entry in distribution.entry_points if re.fullmatch(r"toolbox\.v\d+", entry.group)]
        except Exception as error:
            place = str(getattr(distribution, "_path", distribution))
            problems.append(Problem(f"its entry points cannot be read: {describe_error(error)}", place))
            continue
        if entries:
            every.setdefault(_identify_distribution(entries[0])[0], entries)
    usable, others = [], []
    for entries in every.values():
        names = {entry.name for entry in entries if entry.group == GROUP}
        usable += [entry for entry in entries if entry.group == GROUP]
        others += [entry for entry in entries if entry.name not in names]
    return usable, sorted(others, key=lambda entry: (entry.name, entry.group)), problems


def _identify_distribution(entry: EntryPoint) -> tuple[str, str, str]:
    """(normalised name, version, metadata folder); broken metadata is no reason to fail."""
    name, version = "", ""
    with suppress(Exception):
        if entry.dist is not None:
            name, version = entry.dist.name, entry.dist.version
    path = getattr(entry.dist, "_path", None) or (entry.dist.locate_file("") if entry.dist else "")
    name = name or re.split(r"-\d|\.dist-info|\.egg-info", os.path.basename(str(path)))[0]
    return re.sub(r"[-_.]+", "-", name).lower(), version or "?", str(path)


def _read_switch(text: str, names: set[str]) -> tuple[Callable[[str, str], bool], list[Problem]]:
    """The meaning of TOOLBOX_PLUGINS: `a,b` only these, `-a` all but this; namespaces or distribution names."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    denied = {word[1:].strip() for word in words if word.startswith("-")}
    allowed = {word for word in words if not word.startswith("-")}
    hint = list_names("Installed", sorted(names))
    unknown = sorted((denied | allowed) - names - {"core"})
    problems = [Problem(f"no installed plugin is called {word!r}.", VARIABLE, hint) for word in unknown]
    if denied & {"core", CORE}:
        problems.append(Problem("core cannot be switched off.", VARIABLE))

    def allows(namespace: str, distribution: str) -> bool:
        if distribution == CORE:
            return True
        if {namespace, distribution} & denied:
            return False
        return not allowed or bool({namespace, distribution} & allowed)

    return allows, problems


def _describe_entry(entry: EntryPoint, state: str, error: BaseException | None = None) -> Plugin:
    distribution, version, path = _identify_distribution(entry)
    return Plugin(entry.name, distribution, version, path, error=error, state=state, module_name=entry.module)


def load_plugin(plugin: Plugin, load_module: Callable[[], ModuleType], *, may_rename: bool = False) -> Plugin:
    """`plugin` with its module and what that declares, or broken with the exception that either raised.

    - `may_rename`: whether a module's attribute `namespace` takes the place of the plugin's.
    """
    try:
        module = load_module()
        namespace = getattr(module, "namespace", plugin.namespace) if may_rename else plugin.namespace
        path = getattr(module, "__file__", None) or plugin.path
        return replace(plugin, namespace=namespace, path=path, module=module, **read_declarations(namespace, module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit while it is imported
        return replace(plugin, error=error, state="broken")


def _is_core(entry: EntryPoint) -> bool:
    return _identify_distribution(entry)[0] == CORE


def _refuse_core(plugin: Plugin) -> Plugin:
    """Nobody but the toolbox may own `core`: everything else would stop with it."""
    error = ToolboxError(f"the namespace 'core' belongs to {CORE}; it is claimed by {plugin.owner}.")
    return replace(_strip_declarations(plugin), error=error, state="conflict")


def _strip_declarations(plugin: Plugin) -> Plugin:
    return replace(plugin, components=(), kinds=(), commands=(), hook=None)


def _refuse_all(namespace: str, owners: list[Plugin]) -> list[Plugin]:
    error = ToolboxError(
        f"the namespace {namespace!r} is claimed by " + " and by ".join(plugin.owner for plugin in owners) + ".",
        hint=f"Uninstall one, or leave it out: {VARIABLE}=-{owners[-1].distribution}",
    )
    return [replace(_strip_declarations(plugin), error=error, state="conflict") for plugin in owners]


def add_plugin(plugins: list[Plugin], newcomer: Plugin) -> list[Plugin]:
    """`plugins` with `newcomer`; where its namespace has another owner already, both become a conflict."""
    rivals = [p for p in plugins if p.namespace == newcomer.namespace and p.state in ("ready", "broken", "conflict")]
    if any(rival.path == newcomer.path for rival in rivals):
        return plugins
    if not rivals:
        return [*plugins, newcomer]
    if newcomer.namespace == "core":
        return [*plugins, _refuse_core(newcomer)]
    return [p for p in plugins if p not in rivals] + _refuse_all(newcomer.namespace, [*rivals, newcomer])
