"""A catalog that holds what a test says and nothing that happens to be installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType

from toolbox.registry.catalog import Catalog, swap_catalog
from toolbox.registry.discovery import CORE, Plugin, load_plugin
from toolbox.registry.local import derive_namespace, load_local


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
    catalog = Catalog([])
    if core:
        builtins = "toolbox.builtins.plugin"
        catalog.add(load_plugin(Plugin("core", distribution=CORE, path=builtins), partial(import_module, builtins)))
    for item in plugin_modules:
        if isinstance(item, str) and item.endswith(".py"):
            catalog.add(load_local(item))
            continue
        name = item if isinstance(item, str) else item.__name__
        plugin = Plugin(derive_namespace(name), path=name)
        load_module = partial(import_module, name) if isinstance(item, str) else lambda module=item: module
        catalog.add(load_plugin(plugin, load_module, may_rename=True))
    old = swap_catalog(catalog)
    try:
        yield catalog
    finally:
        swap_catalog(old)
