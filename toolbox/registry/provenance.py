"""Which code a checkpoint was made with: distribution, version and a hash of the sources of each plugin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from toolbox.registry.catalog import get_catalog
from toolbox.registry.discovery import Plugin


def get_provenance(namespaces: Iterable[str]) -> dict[str, dict[str, str]]:
    """{namespace: distribution, version and `sources`, the SHA-256 of its Python files}; kept in checkpoints.

    The files are those of the plugin's package; of `core`, those below toolbox/builtins and toolbox/utils. Raises
    ToolboxError for a namespace without a usable plugin.
    """
    plugins = [get_catalog().plugin(namespace) for namespace in sorted(set(namespaces))]
    return {
        plugin.namespace: {
            "distribution": plugin.distribution,
            "version": plugin.version,
            "sources": _hash_sources(plugin),
        }
        for plugin in plugins
    }


def _hash_sources(plugin: Plugin) -> str:
    if plugin.module is None:
        raise ValueError(f"the plugin {plugin.namespace!r} is not loaded")
    file, name = Path(plugin.path), plugin.module.__name__
    if "." not in name:
        folder, files = file.parent, [file] if file.name != "__init__.py" else file.parent.rglob("*.py")
    elif name.startswith("toolbox."):  # the built-in plugin, with what it shares with others
        folder = file.parents[1]
        files = [*file.parent.rglob("*.py"), *(folder / "utils").rglob("*.py")]
    else:
        depth = name.count(".") - 1 if file.name != "__init__.py" else name.count(".")
        folder = file.parent.parents[depth - 1] if depth else file.parent
        files = folder.rglob("*.py")
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
