"""Whether what was written gives the toolbox's numbers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from toolbox.errors import ToolboxError

TOLERANCE = 1e-4
"""The largest difference that passes, relative to the largest number that is compared, or to 1."""


def compare(what: str, ours: Tensor, theirs: Tensor | None, log: Callable[[str], None]) -> float:
    """The largest difference. Raises ToolboxError above `TOLERANCE`."""
    if theirs is None:
        raise ToolboxError(f"The export is wrong: its lines give no {what}.")
    if ours.shape != theirs.shape:
        raise ToolboxError(f"The export is wrong: {what} have shape {tuple(theirs.shape)}, not {tuple(ours.shape)}.")
    difference = float((ours - theirs).abs().max())
    allowed = TOLERANCE * max(1.0, float(ours.abs().max()))
    if not difference <= allowed:  # NaN is no agreement
        raise ToolboxError(
            f"The export is wrong: {what} differ by up to {difference:.2g} from the toolbox's, and {allowed:.2g} is "
            f"allowed.",
            hint="Nothing was left behind. Other versions of the library may agree.",
        )
    log(f"Compared {what}: largest difference {difference:.2g} (allowed: {allowed:.2g})")
    return difference
