"""A plugin-based toolbox for vision encoders. Public names are loaded on first use, so importing this is instant."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "ToolboxError": "toolbox.errors",
    "build": "toolbox.api",
    "check_config": "toolbox.api",
    "evaluate": "toolbox.api",
    "export": "toolbox.api",
    "extract": "toolbox.api",
    "list_components": "toolbox.api",
    "load": "toolbox.api",
    "load_config": "toolbox.api",
    "train": "toolbox.api",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'toolbox' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vision-encoder-toolbox")
    except PackageNotFoundError:  # the sources on sys.path, not installed
        return "0+unknown"
