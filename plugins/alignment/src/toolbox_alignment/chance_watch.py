"""A warning where an alignment does not begin to learn."""

from __future__ import annotations

from toolbox.base import Hook, Run
from toolbox_alignment.dual_encoder import DualEncoder


class ChanceWatch(Hook):
    """Warns once when a loss is still at its chance level after a share of the run, and says what was found.

    A loss that does not move is what trainers of dual encoders report most. The causes that can be seen are named:
    texts that repeat within batches, nothing that trains on one side, a learning rate of 0, a scale at its limit.

    - `after`: the share of the run's steps after which it looks, above 0 and at most 1.
    - `margin`: how far below the chance level a loss must be, as a share of it.

    Reads what alignment.DualEncoder logs, so it looks when a step is logged. Raises ValueError for other values.
    """

    def __init__(self, after: float = 0.1, margin: float = 0.02):
        if not 0 < after <= 1 or not 0 <= margin < 1:
            raise ValueError(f"after={after} and margin={margin} are shares: try after=0.1, margin=0.02.")
        self.after, self.margin = after, margin
        self.has_looked = False

    def after_log(self, run: Run, values: dict[str, float]) -> None:
        if self.has_looked or run.step < self.after * run.steps or "loss" not in values:
            return
        self.has_looked = True
        stuck = [
            name
            for name in values
            if name.startswith("chance") and _get_loss(name, values) > (1 - self.margin) * values[name]
        ]
        if not stuck:
            return
        pairs = [(_name_loss(name), _get_loss(name, values), values[name]) for name in stuck]
        listed = ", ".join(f"{name} {loss:.3f}, chance {chance:.3f}" for name, loss, chance in pairs)
        causes = self._list_causes(run, values)
        run.warn(
            f"After {run.step} of {run.steps} steps the loss is at its chance level ({listed}). "
            + (" ".join(causes) if causes else "No cause was seen: try `train --overfit 64`, or another learning rate.")
        )

    def _list_causes(self, run: Run, values: dict[str, float]) -> list[str]:
        causes = []
        if isinstance(run.model, DualEncoder):
            for side, towers in (("vision", run.model.vision), ("text", run.model.text)):
                for name, tower in towers.items():
                    if not any(parameter.requires_grad for parameter in tower.parameters()):
                        causes.append(f"Nothing of model.{side}.{name} trains: give it a head, or tune its backbone.")
        if values.get("repeated_texts", 0) > 0.5:
            share = values["repeated_texts"]
            causes.append(f"{share:.0%} of the rows have a text that returns in their batch, so little is told apart.")
        if values.get("lr", 1.0) == 0:
            causes.append("The learning rate is 0.")
        if any(name.startswith("scale") and value > 99 for name, value in values.items()):
            causes.append("The scale is at its limit: lower the learning rate of model.criterion.")
        return causes

    def state_dict(self) -> dict[str, bool]:
        return {"has_looked": self.has_looked}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        self.has_looked = state["has_looked"]


def _name_loss(chance: str) -> str:
    return "loss" + chance.removeprefix("chance")


def _get_loss(chance: str, values: dict[str, float]) -> float:
    return values.get(_name_loss(chance), float("-inf"))
