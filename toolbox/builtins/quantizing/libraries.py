"""The libraries behind quantisation: imported without what their imports say and do beside.

bitsandbytes looks for code on the Hugging Face Hub while it is imported, where the package `kernels` is installed and
the CPU has AVX512-BF16. Nothing here needs that code, and a run that computes otherwise with it would not repeat.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from types import ModuleType

LEAST = {"bitsandbytes": (0, 46), "torchao": (0, 15)}
"""The oldest versions with the functions that are used here."""


def is_installed(name: str) -> bool:
    """Whether a library can be imported; it is not."""
    return importlib.util.find_spec(name) is not None


def before_peft() -> None:
    """Import what peft would import for any adapter: both libraries, where they are installed."""
    for name in LEAST:
        if is_installed(name):
            with suppress(ImportError, OSError, RuntimeError), _silence():
                importlib.import_module(f"{name}.utils")


def import_bitsandbytes() -> ModuleType:
    """The module. Raises ValueError, with the command that mends it, where it is absent or too old."""
    return _import("bitsandbytes")


def import_torchao() -> ModuleType:
    """The module `torchao.quantization`. Raises ValueError where torchao is absent or too old."""
    _import("torchao")
    with _silence():
        import torchao.quantization

    return torchao.quantization


def _import(name: str) -> ModuleType:
    if not is_installed(name):
        raise ValueError(f"{name} is not installed. Try: pip install {name}")
    version, least = metadata.version(name), LEAST[name]
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < least:
        required = ".".join(map(str, least))
        raise ValueError(f"{name} {version} is too old. Try: pip install -U '{name}>={required}'")
    try:
        with _silence():
            return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{name} {version} cannot be imported: {error}. Try: pip install --force-reinstall {name}"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Within, nothing is logged below errors, and `kernels` counts as not installed."""
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None: it cannot be imported
    hidden, disabled = modules.get("kernels"), logging.root.manager.disable
    modules["kernels"] = None
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        if hidden is None:
            del modules["kernels"]
        else:
            modules["kernels"] = hidden
