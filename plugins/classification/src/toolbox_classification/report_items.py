"""What accuracy shows beyond its numbers: the classes, what they are taken for, and the surest mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolbox.base import Dataset, Example, Gallery, Matrix, Outcomes, ReportItem, Table
from toolbox.utils.class_names import class_namer, super_classes
from toolbox_classification.predictions import Predictions

MOST_CLASSES = 50
MOST_CONFUSIONS = 20
MOST_DRAWN = 25
MOST_EXAMPLES = 24


def describe(answers: Predictions, dataset: Dataset, left_out: list[int]) -> list[ReportItem]:
    """The report items of a classifier's answers.

    - `dataset`: the one that the answers' indices are of; `left_out`: the K of which no number was given.
    """
    name = class_namer(dataset)
    confused = ClassConfusions(answers)
    report_items = [
        class_table(answers, confused, name, left_out),
        confused.matrix(name),
        confused.table(name),
        surest_mistakes(answers, name),
        outcomes(answers, dataset),
    ]
    return [report_item for report_item in report_items if report_item is not None]


class ClassConfusions:
    """Pairs (class, class that its items were taken for), most frequent first."""

    def __init__(self, answers: Predictions) -> None:
        self.classes = answers.classes
        self.sizes = torch.bincount(answers.labels, minlength=answers.classes)
        wrong = ~answers.right
        pairs = torch.stack([answers.labels[wrong], answers.said[wrong]], dim=1)
        pairs, times = pairs.unique(dim=0, return_counts=True)
        order = times.argsort(descending=True, stable=True)
        self.pairs, self.times = pairs[order], times[order]

    def per_class(self) -> Tensor:
        """(C,) in how many mistakes a class takes part, as the right or as the wrong one."""
        mistakes = torch.zeros(self.classes, dtype=torch.long)
        for side in (0, 1):
            mistakes.index_add_(0, self.pairs[:, side], self.times)
        return mistakes

    def instead(self) -> dict[int, int]:
        """{class: what it is most often taken for}."""
        found: dict[int, int] = {}
        for own, said in self.pairs.tolist():
            found.setdefault(own, said)
        return found

    def matrix(self, name: Callable[[int], str]) -> Matrix | None:
        """Which class was taken for which, as shares of its items."""
        chosen, note = list(range(self.classes)), ""
        if self.classes > MOST_DRAWN:
            mistakes = self.per_class()
            first = mistakes.argsort(descending=True, stable=True)[:MOST_DRAWN]
            chosen = sorted(label for label in first.tolist() if mistakes[label])
            note = f" The {len(chosen)} of {self.classes:,} classes with the most confusions."
        if not chosen:
            return None
        place = {label: row for row, label in enumerate(chosen)}
        counts = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
        wrong = torch.zeros(self.classes, dtype=torch.long).index_add_(0, self.pairs[:, 0], self.times)
        for row, label in enumerate(chosen):
            counts[row, row] = self.sizes[label] - wrong[label]
        for (own, said), times in zip(self.pairs.tolist(), self.times.tolist(), strict=True):
            if own in place and said in place:
                counts[place[own], place[said]] = times
        shares = counts / self.sizes[chosen].clamp(min=1)[:, None]
        names = [name(label) for label in chosen]
        return Matrix(
            "Confusion",
            names,
            list(names),
            shares.tolist(),
            x="said",
            y="class",
            note=f"Shares of the items of a class, a row each.{note}",
        )

    def table(self, name: Callable[[int], str]) -> Table | None:
        """The most frequent confusions."""
        rows = [
            [name(own), name(said), times, times / int(self.sizes[own])]
            for (own, said), times in zip(
                self.pairs[:MOST_CONFUSIONS].tolist(), self.times[:MOST_CONFUSIONS].tolist(), strict=True
            )
        ]
        if not rows:
            return None
        note = f"The {len(rows)} most frequent of {len(self.pairs):,}." if len(self.pairs) > len(rows) else ""
        return Table("Most frequent confusions", ["class", "said instead", "items", "share of the class"], rows, note)


def class_table(
    answers: Predictions, confused: ClassConfusions, name: Callable[[int], str], left_out: list[int]
) -> Table:
    """Every class, the worst first."""
    right = torch.bincount(answers.labels[answers.right], minlength=answers.classes).tolist()
    sizes, instead = confused.sizes.tolist(), confused.instead()
    present = sorted((label for label in range(answers.classes) if sizes[label]), key=lambda i: right[i] / sizes[i])
    rows = [
        [name(label), sizes[label], right[label] / sizes[label], name(instead[label]) if label in instead else None]
        for label in present[:MOST_CLASSES]
    ]
    said = ["The worst first."]
    if len(present) > len(rows):
        said = [f"The worst {len(rows)} of {len(present):,} classes; {len(present) - len(rows):,} are left out."]
    if absent := answers.classes - len(present):
        said.append(f"{absent:,} more have no item here.")
    said += [f"There is no top{k}: it would be 1 for any answer among {answers.classes} classes." for k in left_out]
    return Table("By class", ["class", "items", "accuracy", "most often said instead"], rows, " ".join(said))


def surest_mistakes(answers: Predictions, name: Callable[[int], str]) -> Gallery | None:
    """Wrong answers, the most confident first."""
    wrong = torch.nonzero(~answers.right)[:, 0]
    if not len(wrong) or not answers.indices:
        return None
    order = wrong[answers.confidence[wrong].argsort(descending=True, stable=True)][:MOST_EXAMPLES].tolist()
    shown = [
        Example(
            answers.indices[row],
            [],
            f"is {name(int(answers.labels[row]))}, said {name(int(answers.said[row]))} with "
            f"{float(answers.confidence[row]):.2f}",
        )
        for row in order
    ]
    note = f"The wrong answers with the highest confidence, of {len(wrong):,} wrong ones."
    return Gallery("Surest mistakes", shown, note)


def outcomes(answers: Predictions, dataset: Dataset) -> Outcomes:
    """Whether each item is right."""
    ids = [str(name) for name in answers.names]
    right = answers.right.long().tolist()
    return Outcomes("right answers", ids, right, super_classes(dataset, answers.indices), mean="top1")
