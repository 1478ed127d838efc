"""An experiment tracker for a recipe that names none."""

from __future__ import annotations

from toolbox.config.mmengine_config import Config
from toolbox.errors import ToolboxError

TRACKER = "core.Trackio"
"""The hook that needs no account and no server."""


def add_tracker(config: Config, project: str) -> None:
    """Add the hook that logs locally to a loaded recipe. Raises ToolboxError where the recipe has it already."""
    configured = config.get("custom_hooks") or []
    hooks = [configured] if isinstance(configured, dict) else list(configured)
    if any(hook.get("type") == TRACKER for hook in hooks):
        raise ToolboxError(f"The recipe logs with {TRACKER} already.", hint="Leave --track out.")
    config.custom_hooks = [*hooks, {"type": TRACKER, "project": project}]
