"""The accuracy of linear probes: of all of them where one is chosen, of the chosen one where it is judged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, Curve, Dataset, Metric, ReportItem, Table, world
from toolbox.plugin import Problem
from toolbox.utils.accumulators import check_labelled
from toolbox_classification.intervals import over_items, over_repeats
from toolbox_classification.probe_names import PREFIX, grid_of


class ProbeAccuracy(Metric):
    """The share of items whose class a linear probe (`classification.Probe`) tells.

    - `choose`: True on the validation set: every head is judged, and the best of them is the choice. False on a test
      set: the head that the validation set chose is judged, and no other one, since the best of many heads on the test
      set would be a number too good.

    Reads the outputs "linear/INPUT/RATE" or "linear", (B, repeats) classes, and the labels.

    `compute` gives, where heads are chosen, "linear", the best head's accuracy, and "linear/INPUT/RATE", that of each,
    all of them means over repeats. Else "linear", that of the chosen head; "linear_low" and "linear_high", within which
    it would be for other test items (95 %, bootstrap over items); and of several repeats "linear_std" and
    "linear_repeats_low" and "linear_repeats_high", within which it would be if training were repeated (95 %, Student's
    t). Every process gets the same numbers, for any number of processes. Raises ValueError without labels.
    """

    def __init__(self, choose: bool = False):
        self.choose = choose
        self.reset()

    def reset(self) -> None:
        self._right: dict[str, Tensor] = {}  # how often each repeat was right
        self._levels: dict[str, Tensor] = {}  # how many items 0, 1, ... all repeats knew
        self._items = 0
        self._numbers: dict[str, float] = {}

    def check(self, dataset: Dataset) -> list[Problem]:
        return check_labelled("Accuracy", dataset)

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        if grid_of(outputs) if self.choose else PREFIX in outputs:
            return []
        if grid_of(outputs):
            judge = "classification.ProbeAccuracy(choose=True)"
            message = f"No head is chosen yet: the validation set, judged by {judge}, chooses."
            return [Problem(message, hint="Train first; on the validation set set choose=True.")]
        given = ", ".join(sorted(outputs))
        message = f"classification.ProbeAccuracy reads what classification.Probe gives, and this model gives {given}."
        return [Problem(message)]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        labels = batch.labels
        if labels is None:
            raise ValueError("accuracy needs labels, and this batch has none: use a labelled dataset")
        names = [name for name in outputs if name.startswith(f"{PREFIX}/")] if self.choose else [PREFIX]
        self._items += len(labels)
        right = torch.stack([outputs[name] for name in names]) == labels.to(outputs[names[0]].device)[:, None]
        for name, here in zip(names, right, strict=True):
            levels = torch.bincount(here.sum(dim=1), minlength=here.shape[1] + 1)
            self._right[name] = self._right.get(name, 0) + here.sum(dim=0)
            self._levels[name] = self._levels.get(name, 0) + levels

    def compute(self) -> dict[str, float]:
        items, right, levels = self._merged()
        if not items:
            raise ValueError("classification.ProbeAccuracy saw no item at all")
        shares = {name: [count / items for count in counts] for name, counts in right.items()}
        means = {name: sum(values) / len(values) for name, values in shares.items()}
        if self.choose:
            self._numbers = {PREFIX: max(means.values())} | means
            return self._numbers
        numbers = {PREFIX: means[PREFIX]}
        numbers[f"{PREFIX}_low"], numbers[f"{PREFIX}_high"] = over_items(levels[PREFIX])
        if len(shares[PREFIX]) > 1:
            numbers[f"{PREFIX}_std"] = torch.tensor(shares[PREFIX]).double().std().item()
            low, high = over_repeats(shares[PREFIX])
            numbers |= {f"{PREFIX}_repeats_low": low, f"{PREFIX}_repeats_high": high}
        self._numbers = numbers
        return numbers

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        return grid_report_items(self._numbers)

    def _merged(self) -> tuple[int, dict[str, list[int]], dict[str, list[int]]]:
        """What all processes saw: items, and the counts of each head. Whole numbers, so in any order."""
        own = self._items, *({name: v.tolist() for name, v in of.items()} for of in (self._right, self._levels))
        if world()[1] == 1:
            return own
        parts: list = [None] * world()[1]
        dist.all_gather_object(parts, own)
        merged: list[dict[str, list[int]]] = [{}, {}]
        for _, *counts in parts:
            for into, of in zip(merged, counts, strict=True):
                for name, values in of.items():
                    into[name] = [a + b for a, b in zip(into.get(name, [0] * len(values)), values, strict=True)]
        return sum(part[0] for part in parts), *merged


def grid_report_items(numbers: Mapping[str, float]) -> list[ReportItem]:
    """The accuracy of every head, as lines over the learning rate and as a table; nothing where there is no grid."""
    grid = grid_of(numbers)
    if not grid:
        return []
    inputs, rates = list(dict.fromkeys(part for part, _ in grid)), sorted({rate for _, rate in grid})
    lines = {part: [(rate, grid[part, rate]) for rate in rates] for part in inputs}
    rows = [[f"{rate:g}", *(grid[part, rate] for part in inputs)] for rate in rates]
    note = "On the validation set, mean over repeats; the best one is chosen, of equals the one that learns slowest."
    return [
        Curve("Linear probes by learning rate", lines, "learning rate", "accuracy", log_x=True, note=note),
        Table("Linear probes", ["rate", *inputs], rows, note),
    ]
