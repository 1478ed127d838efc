"""The kinds of components: those of toolbox.base, and those that plugins declare."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pkgutil import resolve_name
from typing import Any

from toolbox.errors import ToolboxError
from toolbox.plugin import KINDS, Kind
from toolbox.registry.discovery import Plugin, describe_error
from toolbox.registry.messages import list_names, suggest_nearest

CORE_KINDS = tuple(Kind(name, f"toolbox.base:{name.capitalize()}", "") for name in KINDS)


class Kinds:
    """The kinds that components may be of.

    - `plugins`: those whose kinds are known beside the built-in ones.
    - `names`: all kinds, the built-in ones first.
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._declared: dict[str, list[tuple[Kind, Plugin | None]]] = {kind.name: [(kind, None)] for kind in CORE_KINDS}
        for plugin in plugins:
            for kind in plugin.kinds:
                self._declared.setdefault(kind.name, []).append((kind, plugin))
        self.names = list(self._declared)

    def list_declared(self) -> list[tuple[Kind, Plugin]]:
        """The kinds of plugins, each with its owner; a name that is declared twice is there twice."""
        return [(kind, owner) for owners in self._declared.values() for kind, owner in owners if owner is not None]

    def describe_conflicts(self) -> dict[str, str]:
        """{kind: why it cannot be used} of those that several plugins declare, all of them named."""
        owners = {name: [owner.owner for _, owner in pairs if owner] for name, pairs in self._declared.items()}
        return {
            name: f"the kind {name!r} is declared by {' and by '.join(several)}"
            for name, several in owners.items()
            if len(several) > 1
        }

    def check(self, name: str, where: str = "") -> None:
        """Raise ToolboxError for a kind that nobody declares, with the nearest, or that several plugins declare."""
        if name not in self._declared:
            hint = suggest_nearest(name, self.names) or list_names("Kinds", self.names)
            raise ToolboxError(f"there is no kind {name!r}.", where=where, hint=hint)
        owners = [owner for _, owner in self._declared[name] if owner is not None]
        if len(self._declared[name]) > 1:
            hint = f"Uninstall one, or leave it out: TOOLBOX_PLUGINS=-{owners[-1].namespace}"
            raise ToolboxError(f"{self.describe_conflicts()[name]}.", where=where, hint=hint)

    def import_base(self, name: str, where: str = "") -> type:
        """The abstract class of a kind, imported now. Raises ToolboxError as `check` does, or when it is no class."""
        self.check(name, where)
        [(kind, owner)] = self._declared[name]
        try:
            return _import_kind(kind)
        except Exception as error:
            source = f"of {owner.owner} " if owner else ""
            message = f"the kind {name!r} {source}cannot be imported: {describe_error(error)}."
            raise ToolboxError(message, where=where) from error

    def find_by_class(self, cls: type) -> str | None:
        """The kind whose abstract class `cls` is or inherits from, None for any other class; the nearest base wins."""
        for base in cls.__mro__:
            if base.__module__.startswith("toolbox.base.") and base.__name__.lower() in KINDS:
                return base.__name__.lower()
            package = base.__module__.partition(".")[0]
            for kind, _ in self.list_declared():
                module = kind.target.partition(":")[0]
                # A module that is not loaded, of another package, cannot hold `base`: no import is needed.
                if (module in sys.modules or module.partition(".")[0] == package) and _has_class(kind, base):
                    return kind.name
        return None

    def find_by_class_name(self, class_name: str) -> str | None:
        """The kind whose abstract class has this name, for annotations that exist as text alone."""
        kinds = (kind for owners in self._declared.values() for kind, _ in owners)
        return next((kind.name for kind in kinds if re.split("[:.]", kind.target)[-1] == class_name), None)


def _import_kind(kind: Kind) -> type:
    value: Any = resolve_name(kind.target)
    if not isinstance(value, type):
        raise TypeError(f"{kind.target} is no class")
    return value


def _has_class(kind: Kind, cls: type) -> bool:
    try:
        return _import_kind(kind) is cls
    except Exception:  # reported where the kind is used
        return False
