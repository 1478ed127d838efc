"""Recipes: load, override, validate, complete, dump."""

from toolbox.config.load import apply_changes, dump, get_places, list_namespaces, load_config, load_plugins, to_dict
from toolbox.config.metric_arguments import set_metric_arguments
from toolbox.config.mmengine_config import Config
from toolbox.config.recipes import find_recipe, is_shipped, list_recipes
from toolbox.config.validate import complete, validate

__all__ = [
    "Config",
    "apply_changes",
    "complete",
    "dump",
    "find_recipe",
    "get_places",
    "is_shipped",
    "list_namespaces",
    "list_recipes",
    "load_config",
    "load_plugins",
    "set_metric_arguments",
    "to_dict",
    "validate",
]
