"""A catalog that holds what a test says and nothing that happens to be installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from types import ModuleType

from toolbox.registry.catalog import Catalog, swap_catalog
from toolbox.registry.declarations import read_declarations
from toolbox.registry.discovery import CORE, Plugin, catch_plugin_error
from toolbox.registry.local import default_namespace, load_local


@contextmanager
def isolated_catalog(*plugin_modules: ModuleType | str, core: bool = True) -> Iterator[Catalog]:
    """Within the block, `toolbox.registry.get_catalog()` holds `core` and the given plugins only.

        @pytest.fixture
        def catalog():
            with isolated_catalog("toolbox_acme.plugin") as catalog:
                yield catalog

    - `plugin_modules`: modules, names of modules, or Python files that implement the hooks. A module's namespace is
      its attribute `namespace`, else its name; of `toolbox_acme.plugin` that is `acme`.
    - `core`: whether the built-in components are there too.
    """
    names = [("core", "toolbox.builtins.plugin", CORE)] if core else []
    catalog = Catalog([_load_plugin(import_name, namespace, owner) for namespace, import_name, owner in names])
    for item in plugin_modules:
        catalog.add(load_local(item) if isinstance(item, str) and item.endswith(".py") else _load_plugin(item))
    old = swap_catalog(catalog)
    try:
        yield catalog
    finally:
        swap_catalog(old)


def _load_plugin(item: ModuleType | str, namespace: str = "", owner: str = "") -> Plugin:
    name = item if isinstance(item, str) else item.__name__
    guess = default_namespace(name)
    plugin = Plugin(namespace or guess, distribution=owner, path=name)

    def load() -> Plugin:
        module = import_module(item) if isinstance(item, str) else item
        space = namespace or getattr(module, "namespace", guess)
        path = getattr(module, "__file__", None) or name
        return replace(plugin, namespace=space, path=path, module=module, **read_declarations(space, module))

    return catch_plugin_error(load, plugin)
