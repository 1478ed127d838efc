"""All components by name: list them, find them, suggest the nearest, and turn a name into its class."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any
from warnings import warn

from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import Component, Device
from toolbox.registry.checkout import IN_REPOSITORY, find_uninstalled, format_install_command, list_unusable
from toolbox.registry.commands import CommandEntry, list_commands
from toolbox.registry.discovery import CORE, Plugin, add_plugin, check_kinds, describe_error, discover
from toolbox.registry.kinds import Kinds
from toolbox.registry.local import load_local
from toolbox.registry.messages import add_article, list_names, suggest_nearest

# Where the name to install is not the name to import.
_PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}


@dataclass(frozen=True)
class ComponentEntry:
    """One component of the catalog.

    - `kind`, `name`, `target`, `summary`, `requires`, `default`: as in `toolbox.plugin.Component`.
    - `namespace`: the plugin's; `fullname` is `namespace.Name`, what a recipe says.
    - `missing`: those of `requires` that cannot be found here (looked for, not imported).
    - `plugin`: the plugin it belongs to.
    """

    kind: str
    namespace: str
    name: str
    target: str
    summary: str
    requires: tuple[str, ...]
    missing: tuple[str, ...]
    plugin: Plugin
    default: bool = False

    @property
    def fullname(self) -> str:
        return f"{self.namespace}.{self.name}"

    @property
    def install(self) -> str:
        """The command that installs what is missing, "" if nothing is."""
        return "pip install " + " ".join(_PACKAGES.get(name, name) for name in self.missing) if self.missing else ""


class Catalog:
    """The components of a list of plugins.

    - `plugins`: all of them, usable or not.
    - `kinds`: the kinds of components, those that plugins declare included.
    - `entries`: the components of the usable ones, by kind, namespace and name.
    - `problems`: what is wrong with TOOLBOX_PLUGINS.
    """

    def __init__(self, plugins: Iterable[Plugin], problems: Iterable[Problem] = ()) -> None:
        self._loaded: list[Plugin] = list(plugins)
        self.problems: list[Problem] = list(problems)
        self._update()

    def _update(self) -> None:
        # From what was loaded each time: a plugin that comes later may declare the kind that an earlier one needs.
        self.plugins: list[Plugin] = check_kinds(self._loaded)
        self.kinds = Kinds(self.plugins)
        entries = [_make_entry(plugin, c) for plugin in self.plugins for c in plugin.components]
        entries.sort(key=lambda e: (self.kinds.names.index(e.kind), e.namespace != "core", e.namespace, e.name))
        self.entries: list[ComponentEntry] = entries
        self._by_name = {entry.fullname: entry for entry in entries}

    def add(self, plugin: Plugin) -> None:
        """Add a plugin; a namespace that another one holds makes both unusable."""
        self._loaded = add_plugin(self._loaded, plugin)
        self._update()

    def find(self, kind: str | None = None) -> list[ComponentEntry]:
        """The entries of `kind`, None for all. Raises ToolboxError for a kind that is unknown or declared twice."""
        if kind is not None:
            self.kinds.check(kind)
        return [entry for entry in self.entries if kind in (None, entry.kind)]

    def default(self, kind: str | None) -> str | None:
        """The full name of what a dict without `type` means where `kind` is expected; None where it means nothing."""
        return next((entry.fullname for entry in self.entries if entry.default and entry.kind == kind), None)

    def plugin(self, namespace: str, *, hint: str = "") -> Plugin:
        """The usable plugin of `namespace`. Raises ToolboxError that says why there is none.

        - `hint`: what to try where no plugin has such a namespace, nor one that is near.
        """
        owners = [plugin for plugin in self.plugins if plugin.namespace == namespace]
        for plugin in owners:
            if plugin.state == "ready":
                return plugin
        for plugin in sorted(owners, key=lambda p: ("broken", "conflict", "disabled", "interface").index(p.state)):
            raise _explain_unusable(plugin) from plugin.error
        raise self._explain_unknown(namespace, hint)

    def get(self, fullname: str, kind: str | None = None, *, where: str = "") -> ComponentEntry:
        """The entry called `fullname`, without an import.

        - `kind`: what the place expects, None for anything.
        - `where`: the key path in the recipe, for messages.

        Raises ToolboxError with a suggestion: no such name, a bare name, another kind, an unusable plugin (its
        original exception chained), a requirement that is not installed.
        """
        try:
            return self._get(fullname, kind, where)
        except ToolboxError as error:
            problem = error.problems[0]
            if problem.where or not where:
                raise
            raise ToolboxError(problem.message, where=where, hint=problem.hint) from error.__cause__

    def _get(self, fullname: str, kind: str | None, where: str) -> ComponentEntry:
        if not isinstance(fullname, str) or not fullname:
            raise ToolboxError(f"a component is called 'namespace.Name', not {fullname!r}.")
        namespace, dot, name = fullname.partition(".")
        if not dot or not name or not namespace or "." in name:
            message = f"{fullname!r} does not name a component; that takes the form 'namespace.Name'."
            raise ToolboxError(message, hint=self._suggest(fullname, kind))
        entry = self._by_name.get(fullname)
        if entry is None:
            plugin = self.plugin(namespace, hint=self._suggest(fullname, kind))
            names = [e.fullname for e in self.entries if (e.plugin is plugin if kind is None else e.kind == kind)]
            hint = self._suggest(fullname, kind) or list_names(f"Of kind {kind} there are" if kind else "It has", names)
            raise ToolboxError(f"the plugin {namespace!r} has no component {name!r}.", hint=hint)
        if kind is not None and entry.kind != kind:
            expects = f"{where} expects {add_article(kind)}" if where else f"{add_article(kind)} is expected here"
            hint = list_names(f"Of kind {kind} there are", [e.fullname for e in self.entries if e.kind == kind])
            raise ToolboxError(f"{fullname!r} is {add_article(entry.kind)}, and {expects}.", hint=hint)
        self.kinds.check(entry.kind)
        if entry.missing:
            what = ", ".join(map(repr, entry.missing))
            raise ToolboxError(f"{fullname!r} needs {what}, which is not installed.", hint=f"Try: {entry.install}")
        return entry

    def resolve(self, fullname: str, kind: str | None = None, *, where: str = "") -> type:
        """The class called `fullname`, imported now and checked against the abstract class of its kind.

        Raises ToolboxError as `get` does, and when the class cannot be imported, is no subclass or is abstract; the
        original exception is chained.
        """
        entry = self.get(fullname, kind, where=where)
        return _import_class(entry, self.kinds.import_base(entry.kind, where), where)

    def commands(self) -> list[CommandEntry]:
        """The sub-commands of the console command, the core's first; also those that cannot run, with their `error`."""
        return list_commands(self.plugins)

    def command(self, name: str) -> CommandEntry:
        """The usable command called `name`. Raises ToolboxError with the nearest, or with why it cannot run."""
        commands = self.commands()
        candidates = [command for command in commands if command.name == name]
        for command in sorted(candidates, key=lambda command: bool(command.error)):
            command.check()
            return command
        names = [command.name for command in commands]
        hint = suggest_nearest(name, names) or list_names("Commands", names)
        if unusable := list_unusable({plugin.namespace: plugin.state for plugin in self.plugins}):
            hint += f" Or a plugin brings it that cannot be used here: {', '.join(unusable)}."
        raise ToolboxError(f"there is no command {name!r}.", hint=hint)

    def device(self, requested: str) -> Device | None:
        """The first plugin's answer for `requested` ("auto", "cpu", "cuda:1" ...); `core` is asked last.

        Raises ToolboxError when a plugin refuses the request (its ValueError) or fails to answer.
        """
        for plugin in reversed(self._list_ready()):
            try:
                answer = plugin.hook.toolbox_device(requested=requested)
            except ValueError as error:  # a refusal with its reason, e.g. an absent GPU
                raise ToolboxError(str(error)) from error
            except Exception as error:
                raise ToolboxError(
                    f"{_describe_failure(plugin)} toolbox_device({requested!r}): {describe_error(error)}"
                ) from error
            if answer is not None:
                return answer
        return None

    def check_config(self, config: dict[str, Any], dry_run: Any = None) -> list[Problem]:
        """Problems that the plugins find in a whole recipe; a check that itself fails is a problem too.

        - `dry_run`: the recipe's, for the checks that take one; None for those that take none.
        """
        problems: list[Problem] = []
        for plugin in self._list_ready():
            hook = plugin.hook.toolbox_check_config
            if all(("dry_run" in check.argnames) != (dry_run is not None) for check in hook.get_hookimpls()):
                continue
            try:
                for answer in hook(config=config, dry_run=dry_run):
                    problems += answer
            except Exception as error:
                problems.append(Problem(f"{_describe_failure(plugin)} toolbox_check_config: {describe_error(error)}"))
        return problems

    def config_dirs(self) -> dict[str, list[Path]]:
        """{namespace: the folders of recipes that the plugin ships}; a warning names plugins that cannot say."""
        return self._call_for_paths("toolbox_config_dirs")

    def foreign_key_files(self) -> dict[str, list[Path]]:
        """{namespace: the tables of foreign keys that the plugin ships}; a warning names plugins that cannot say."""
        return self._call_for_paths("toolbox_foreign_keys")

    def _call_for_paths(self, hook: str) -> dict[str, list[Path]]:
        paths: dict[str, list[Path]] = {}
        for plugin in self._list_ready():
            try:
                answers = [Path(path) for answer in getattr(plugin.hook, hook)() for path in answer]
            except Exception as error:
                warn(f"{_describe_failure(plugin)} {hook}: {describe_error(error)}", RuntimeWarning, stacklevel=3)
                continue
            if answers:
                paths[plugin.namespace] = answers
        return paths

    def _list_ready(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.state == "ready"]

    def _suggest(self, text: str, kind: str | None) -> str:
        """Did you mean ...? Of the expected kind first; the same name elsewhere before a name that is merely near.

        What is a namespace now may be a part of an older name: core.RetrievalRecall leads to retrieval.Recall.
        """
        namespace, _, name = text.lower().rpartition(".")
        for entries in ([e for e in self.entries if kind in (None, e.kind)], self.entries):
            if same := [e.fullname for e in entries if name in (e.name.lower(), f"{e.namespace}{e.name}".lower())]:
                same.sort(key=lambda fullname: not fullname.startswith(f"{namespace}."))
                return f"Did you mean {' or '.join(map(repr, same[:1] if namespace else same[:3]))}?"
            fullnames = {e.name.lower(): e.fullname for e in entries if not namespace or e.namespace == namespace}
            if near := difflib.get_close_matches(name, fullnames, n=1, cutoff=0.6):
                return f"Did you mean {fullnames[near[0]]!r}?"
        return ""

    def _explain_unknown(self, namespace: str, hint: str) -> ToolboxError:
        message = f"there is no plugin {namespace!r} here."
        for folder in find_uninstalled():
            if namespace in folder.namespaces:
                return ToolboxError(message, hint=f"It is in this checkout, not installed. Try: {folder.command}")
        if namespace in IN_REPOSITORY:
            where = f"It is {CORE}-{namespace}, of the toolbox's repository."
            return ToolboxError(message, hint=f"{where} Try there: {format_install_command(namespace)}")
        names = sorted({plugin.namespace for plugin in self.plugins})
        return ToolboxError(message, hint=suggest_nearest(namespace, names) or hint or list_names("Plugins", names))


_current: Catalog | None = None


def get_catalog(refresh: bool = False) -> Catalog:
    """The catalog of this process, made on first use; `refresh` looks at the installed plugins again."""
    global _current
    if _current is None or refresh:
        _current = Catalog(*discover())
    return _current


def swap_catalog(new: Catalog | None) -> Catalog | None:
    """Put `new` in the place of this process's catalog and return the old one; for tests."""
    global _current
    old, _current = _current, new
    return old


def add_local(paths_or_modules: Iterable[str]) -> list[Plugin]:
    """Load unpackaged plugins into this process's catalog; they are returned, those with an `error` included."""
    plugins = [load_local(item) for item in paths_or_modules]
    for plugin in plugins:
        get_catalog().add(plugin)
    checked = {(plugin.namespace, plugin.path): plugin for plugin in get_catalog().plugins}
    return [plugin if plugin.error else checked.get((plugin.namespace, plugin.path), plugin) for plugin in plugins]


def _make_entry(plugin: Plugin, component: Component) -> ComponentEntry:
    return ComponentEntry(
        component.kind,
        plugin.namespace,
        component.name,
        component.target,
        component.summary,
        requires=tuple(component.requires),
        missing=tuple(name for name in component.requires if not _is_installed(name.partition(".")[0])),
        plugin=plugin,
        default=component.default,
    )


@cache
def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # one that is broken counts as absent, and is named as that
        return False


def _import_class(entry: ComponentEntry, base: type, where: str) -> type:
    module_name, _, path = entry.target.partition(":")
    source = f"{entry.fullname!r} of {entry.plugin.owner}"
    try:
        module = import_module(module_name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        what = f"its module {module_name!r} does not exist" if absent else describe_error(error)
        raise ToolboxError(f"{source} cannot be imported: {what}.", where=where) from error
    try:
        value: Any = attrgetter(path)(module)
    except AttributeError as error:
        hint = suggest_nearest(error.name or path, [name for name in dir(error.obj) if name[0] != "_"])
        message = f"{source} cannot be imported: {module_name!r} has no {error.name!r}."
        raise ToolboxError(message, where=where, hint=hint) from error
    if not (isinstance(value, type) and issubclass(value, base)):
        raise ToolboxError(
            f"{source} is declared as {add_article(entry.kind)}, but {entry.target} is no subclass of "
            f"{'toolbox.base' if base.__module__.startswith('toolbox.base.') else base.__module__}.{base.__name__}.",
            where=where,
        )
    if inspect.isabstract(value):
        lacks = ", ".join(sorted(getattr(value, "__abstractmethods__", ())))
        raise ToolboxError(f"{source} cannot be used: {entry.target} does not implement {lacks}.", where=where)
    return value


def _explain_unusable(plugin: Plugin) -> ToolboxError:
    if plugin.state == "broken":
        return ToolboxError(f"the plugin {plugin.namespace!r} of {plugin.owner} is broken: {plugin.reason}.")
    if isinstance(plugin.error, ToolboxError):
        problem = plugin.error.problems[0]
        of_plugin = "" if plugin.state == "conflict" else f"the plugin {plugin.namespace!r} of {plugin.owner}: "
        return ToolboxError(of_plugin + problem.message + ("." if of_plugin else ""), hint=problem.hint)
    return ToolboxError(f"the plugin {plugin.namespace!r} of {plugin.owner} cannot be used: {plugin.reason}.")


def _describe_failure(plugin: Plugin) -> str:
    return f"the plugin {plugin.namespace!r} of {plugin.owner} failed in"
