"""`Config` and `ConfigDict` of mmengine, imported so that several processes may start at once on a fresh machine.

mmengine imports yapf, which keeps its parsed grammar in the user's cache folder. yapf renames that file into its place
before it is written out, so a process that starts at the same time, or after a full disk, reads a part of it. Here
the grammar is then built and written again.
"""

from __future__ import annotations

import functools
import importlib
import pickle
from unittest import mock

try:
    importlib.import_module("mmengine.config")
except (EOFError, pickle.UnpicklingError):
    driver = importlib.import_module("yapf_third_party._ylib2to3.pgen2.driver")
    with mock.patch.object(driver, "load_grammar", functools.partial(driver.load_grammar, force=True)):
        importlib.import_module("mmengine.config")

from mmengine.config import Config, ConfigDict

__all__ = ["Config", "ConfigDict"]
