"""The accuracy of linear probes: of all heads where one is chosen, of the chosen head elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, Curve, Dataset, Metric, ReportItem, Table, get_dist_info
from toolbox.plugin import Problem
from toolbox.utils.accumulators import check_labelled
from toolbox_classification.intervals import estimate_item_interval, estimate_repeat_interval
from toolbox_classification.probe_names import PREFIX, select_grid


class ProbeAccuracy(Metric):
    """Accuracy of a linear probe (`classification.Probe`).

    - `choose`: True on the validation set: every head is evaluated, and the best of them is chosen. False on a test
      set: the head that the validation set chose is evaluated, and no other one, since the accuracy of the best of many
      heads on the test set would be too high.

    Reads the outputs "linear/INPUT/RATE" or "linear", (B, repeats) classes, and the labels.

    With `choose`, `compute` gives "linear", the best head's accuracy, and "linear/INPUT/RATE", that of each head, all
    of them means over repeats. Else it gives "linear", that of the chosen head; "linear_low" and "linear_high", within
    which it would be for other test items (95 %, bootstrap over items); and of several repeats "linear_std" and
    "linear_repeats_low" and "linear_repeats_high", within which it would be if training were repeated (95 %, Student's
    t). Every process gets the same numbers, for any number of processes. Raises ValueError without labels.
    """

    def __init__(self, choose: bool = False):
        self.choose = choose
        self.reset()

    def reset(self) -> None:
        self._right: dict[str, Tensor] = {}  # how often each repeat was right
        self._levels: dict[str, Tensor] = {}  # for how many items 0, 1, ... all repeats were right
        self._items = 0
        self._numbers: dict[str, float] = {}

    def check(self, dataset: Dataset) -> list[Problem]:
        return check_labelled("Accuracy", dataset)

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        if select_grid(outputs) if self.choose else PREFIX in outputs:
            return []
        if select_grid(outputs):
            metric = "classification.ProbeAccuracy(choose=True)"
            message = f"No head is chosen yet: the validation set, evaluated by {metric}, chooses."
            return [Problem(message, hint="Train first; on the validation set set choose=True.")]
        names = ", ".join(sorted(outputs))
        message = f"classification.ProbeAccuracy reads what classification.Probe gives, and this model gives {names}."
        return [Problem(message)]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        labels = batch.labels
        if labels is None:
            raise ValueError("accuracy needs labels, and this batch has none: use a labelled dataset")
        names = [name for name in outputs if name.startswith(f"{PREFIX}/")] if self.choose else [PREFIX]
        self._items += len(labels)
        right = torch.stack([outputs[name] for name in names]) == labels.to(outputs[names[0]].device)[:, None]
        for name, by_repeat in zip(names, right, strict=True):
            levels = torch.bincount(by_repeat.sum(dim=1), minlength=by_repeat.shape[1] + 1)
            self._right[name] = self._right.get(name, 0) + by_repeat.sum(dim=0)
            self._levels[name] = self._levels.get(name, 0) + levels

    def compute(self) -> dict[str, float]:
        items, right, levels = self._merge()
        if not items:
            raise ValueError("classification.ProbeAccuracy saw no item at all")
        shares = {name: [count / items for count in counts] for name, counts in right.items()}
        means = {name: sum(values) / len(values) for name, values in shares.items()}
        if self.choose:
            self._numbers = {PREFIX: max(means.values())} | means
            return self._numbers
        numbers = {PREFIX: means[PREFIX]}
        numbers[f"{PREFIX}_low"], numbers[f"{PREFIX}_high"] = estimate_item_interval(levels[PREFIX])
        if len(shares[PREFIX]) > 1:
            numbers[f"{PREFIX}_std"] = torch.tensor(shares[PREFIX]).double().std().item()
            low, high = estimate_repeat_interval(shares[PREFIX])
            numbers |= {f"{PREFIX}_repeats_low": low, f"{PREFIX}_repeats_high": high}
        self._numbers = numbers
        return numbers

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        return make_grid_report_items(self._numbers)

    def _merge(self) -> tuple[int, dict[str, list[int]], dict[str, list[int]]]:
        """The counts of all processes: items, then those of each head. Whole numbers add up in any order."""
        right = {name: counts.tolist() for name, counts in self._right.items()}
        levels = {name: counts.tolist() for name, counts in self._levels.items()}
        if get_dist_info()[1] == 1:
            return self._items, right, levels
        parts: list = [None] * get_dist_info()[1]
        dist.all_gather_object(parts, (self._items, right, levels))
        items = [part[0] for part in parts]
        return sum(items), _add_counts([part[1] for part in parts]), _add_counts([part[2] for part in parts])


def _add_counts(parts: Iterable[dict[str, list[int]]]) -> dict[str, list[int]]:
    """{name: the sums of the counts}, where not every part has every name."""
    sums: dict[str, list[int]] = {}
    for part in parts:
        for name, counts in part.items():
            sums[name] = [a + b for a, b in zip(sums.get(name, [0] * len(counts)), counts, strict=True)]
    return sums


def make_grid_report_items(numbers: Mapping[str, float]) -> list[ReportItem]:
    """Report items of the accuracy of every head: lines over the learning rate and a table; [] without a grid."""
    grid = select_grid(numbers)
    if not grid:
        return []
    inputs, rates = list(dict.fromkeys(part for part, _ in grid)), sorted({rate for _, rate in grid})
    lines = {part: [(rate, grid[part, rate]) for rate in rates] for part in inputs}
    rows = [[f"{rate:g}", *(grid[part, rate] for part in inputs)] for rate in rates]
    note = "On the validation set, mean over repeats; the best is chosen, of equals the one with the lowest rate."
    return [
        Curve("Linear probes by learning rate", lines, "learning rate", "accuracy", log_x=True, note=note),
        Table("Linear probes", ["rate", *inputs], rows, note),
    ]
