"""Which tests are unit tests, those that `make check` runs: they call parts of the core, and run no whole."""

from __future__ import annotations

import re

WHOLE_IMPORTS = re.compile(
    r"^(import (subprocess|toolbox)$|from toolbox import|from toolbox\.(api|cli|config)\b|from fresh_)", re.M
)
"""Imports of tests that train whole runs, use commands and recipes, or start processes."""

WHOLE_FIXTURES = {"toy", "command"}
"""Fixtures that give a test a whole run or a command."""
