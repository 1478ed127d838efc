"""The folder of an evaluation: whether it may be used."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from toolbox.base.files import check_folder
from toolbox.errors import ToolboxError

FILES = ("config.py", "environment.json", "report_items.json", "test_results.json", "report.html")


def claim_folder(folder: Path) -> bool:
    """Create the folder of an evaluation, or take one that is empty or of an earlier one; True if it is new.

    Raises ToolboxError when it holds anything else, or nothing can be written there.
    """
    hint = "Choose a new or an empty folder with out."
    is_new = not folder.exists()
    try:
        inside = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        others = [name for name in inside if name not in FILES]
        if others or (inside and "test_results.json" not in inside):
            listed = ", ".join((others or inside)[:3]) + (" ..." if len(others or inside) > 3 else "")
            raise ToolboxError(f"{folder} holds something else than an evaluation: {listed}.", hint=hint)
        check_folder(folder, hint=hint)
    except OSError as error:
        raise ToolboxError(f"Nothing can be written to {folder}: {error.strerror or error}.", hint=hint) from error
    return is_new


def release_folder(folder: Path) -> None:
    """Remove the new folder of an evaluation that failed, if nothing is in it."""
    with suppress(OSError):
        folder.rmdir()
