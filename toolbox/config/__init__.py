"""Recipes: load, override, validate, complete, dump."""

from toolbox.config.load import changed, dump, find_recipe, load_config, load_plugins, places_of, to_dict
from toolbox.config.validate import complete, validate

__all__ = [
    "changed",
    "complete",
    "dump",
    "find_recipe",
    "load_config",
    "load_plugins",
    "places_of",
    "to_dict",
    "validate",
]
