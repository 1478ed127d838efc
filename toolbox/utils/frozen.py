"""A backbone that stays as it is, for models that say so themselves."""

from __future__ import annotations

from toolbox.base import Backbone, Tune


class FrozenBackbone(Tune):
    """Nothing of the backbone trains: what a recipe says by `tune=dict(mode="frozen")`."""

    mode = "frozen"

    def apply(self, backbone: Backbone) -> None:
        backbone.freeze()
