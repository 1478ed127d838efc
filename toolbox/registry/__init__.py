"""From installed plugins to objects: discover, list, find, suggest, resolve, build. Imports nothing heavy."""

from toolbox.registry.build import SLOT_KEYS, build, expand_home
from toolbox.registry.catalog import Catalog, Entry, add_local, catalog, swap_catalog
from toolbox.registry.checkout import uninstalled
from toolbox.registry.commands import CommandEntry
from toolbox.registry.discovery import Plugin, discover
from toolbox.registry.local import load_local
from toolbox.registry.provenance import provenance
from toolbox.registry.signature import Parameter, parameters

__all__ = [
    "SLOT_KEYS",
    "Catalog",
    "CommandEntry",
    "Entry",
    "Parameter",
    "Plugin",
    "add_local",
    "build",
    "catalog",
    "discover",
    "expand_home",
    "load_local",
    "parameters",
    "provenance",
    "swap_catalog",
    "uninstalled",
]
