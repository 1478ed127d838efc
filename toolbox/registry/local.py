"""Plugins that are no installed package: a file or a module beside your recipe."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from toolbox.errors import ToolboxError
from toolbox.registry.discovery import Plugin, load_plugin


def load_local(path_or_module: str) -> Plugin:
    """The plugin of `--plugin my_file.py` or of `plugins = ['my_module']` in a recipe.

    - `path_or_module`: a Python file (it ends in .py or holds a path separator), or the name of an importable
      module; modules in the current folder are importable.

    Its namespace is the module's attribute `namespace` if it has one, else `derive_namespace` of its name. The file's
    folder joins sys.path, so that `target="my_file:MyLoss"` and its neighbours can be imported, also in the worker
    processes of a data loader. Nothing is raised: the plugin carries its error.
    """
    path_or_module = os.path.expanduser(path_or_module)
    is_file = path_or_module.endswith(".py") or "/" in path_or_module or os.sep in path_or_module
    name = Path(path_or_module).stem if is_file else derive_namespace(path_or_module)
    plugin = Plugin(name, path=os.path.abspath(path_or_module) if is_file else path_or_module)
    load_module = partial(_import_file, Path(plugin.path)) if is_file else partial(_import_module, path_or_module)
    return load_plugin(plugin, load_module, may_rename=True)


def derive_namespace(module_name: str) -> str:
    """The last part of a module's name; of a module called `plugin` its package's: `toolbox_acme.plugin` is `acme`."""
    package, _, last = module_name.rpartition(".")
    return package.rpartition(".")[2].removeprefix("toolbox_") if last == "plugin" and package else last


def _import_file(path: Path) -> ModuleType:
    if path.is_dir():
        raise ToolboxError(f"{path} is a folder.", hint="Name the Python file in it that holds the hooks.")
    if not path.is_file():
        raise ToolboxError(f"there is no file {path}.")
    name = path.stem
    if not name.isidentifier():
        raise ToolboxError(f"{path.name} is no module name.", hint="Letters, digits and _ only, please.")
    loaded = sys.modules.get(name)
    spec = loaded.__spec__ if loaded is not None else find_spec(name)
    origin = getattr(loaded, "__file__", None) or getattr(spec, "origin", None)
    if spec is not None and (origin is None or not os.path.exists(origin) or not os.path.samefile(origin, path)):
        raise ToolboxError(f"{path.name} would hide the module {name!r} ({origin}).", hint="Rename the file.")
    if loaded is not None:
        return loaded
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    file_spec = spec_from_file_location(name, path)
    if file_spec is None or file_spec.loader is None:
        raise ToolboxError(f"{path.name} is no Python file.", hint="Its name ends in .py.")
    module = sys.modules[name] = module_from_spec(file_spec)
    try:
        file_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ToolboxError(
                f"there is no module {name!r} to import.", hint="For a file, give its path: my_plugin.py."
            ) from error
        raise
