"""Recipes: load, override, validate, complete, dump."""

from mmengine.config import Config

from toolbox.config.load import changed, dump, load_config, load_plugins, namespaces_of, places_of, to_dict
from toolbox.config.metric_arguments import set_metric_arguments
from toolbox.config.recipes import find_recipe, is_shipped, list_recipes
from toolbox.config.validate import complete, validate

__all__ = [
    "Config",
    "changed",
    "complete",
    "dump",
    "find_recipe",
    "is_shipped",
    "list_recipes",
    "load_config",
    "load_plugins",
    "namespaces_of",
    "places_of",
    "set_metric_arguments",
    "to_dict",
    "validate",
]
