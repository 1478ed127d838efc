"""The plugin that offers the device "strict", by the hook that a plugin for an NPU would use."""

from __future__ import annotations

import sys
from pathlib import Path

from toolbox.plugin import Device, hookimpl

namespace = "strict"


@hookimpl
def toolbox_device(requested: str) -> Device | None:
    if requested.partition(":")[0] != "strict":
        return None
    sys.path.insert(0, str(Path(__file__).parent))
    import strict

    strict.install()
    return Device("strict", "gloo", precisions=("bf16", "fp16", "fp32"))
