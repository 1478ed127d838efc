"""Data for runs of several processes."""

from __future__ import annotations

from toy_plugin import Noise

from toolbox.plugin import Component, hookimpl

namespace = "processes"


@hookimpl
def toolbox_components():
    return [Component("dataset", "Asked", f"{__name__}:Asked", "noise of which some items are queries")]


class Asked(Noise):
    """Every third item is a query, the others are the gallery."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "role": "gallery" if index % 3 else "query"}
