"""Which tests are unit tests, those that `make check` runs: they call parts of the core, and no whole run or step."""

from __future__ import annotations

import re

WHOLE_IMPORTS = re.compile(
    r"^(import (subprocess|toolbox)$|from toolbox import"
    r"|from toolbox\.(api|cli|config|engine\.trainer|engine\.train_step)\b|from (fresh|forked)_)",
    re.MULTILINE,
)
"""Imports of tests that make whole runs or steps, use commands and recipes, or start processes."""

WHOLE_FIXTURES = {"toy", "command"}
"""Fixtures that give a test a whole run or a command."""
