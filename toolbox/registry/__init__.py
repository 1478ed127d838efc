"""From installed plugins to objects: discover, list, find, suggest, resolve, build. Imports nothing heavy."""

from toolbox.registry.build import SLOT_KEYS, build, expand_home
from toolbox.registry.catalog import Catalog, ComponentEntry, add_local, get_catalog, swap_catalog
from toolbox.registry.checkout import find_uninstalled
from toolbox.registry.commands import CommandEntry
from toolbox.registry.discovery import Plugin, discover
from toolbox.registry.local import load_local
from toolbox.registry.provenance import get_provenance
from toolbox.registry.signature import Parameter, read_parameters

__all__ = [
    "SLOT_KEYS",
    "Catalog",
    "CommandEntry",
    "ComponentEntry",
    "Parameter",
    "Plugin",
    "add_local",
    "build",
    "discover",
    "expand_home",
    "find_uninstalled",
    "get_catalog",
    "get_provenance",
    "load_local",
    "read_parameters",
    "swap_catalog",
]
