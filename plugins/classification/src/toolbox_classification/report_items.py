"""The report items of accuracy: a table of the classes, the confusions, and the surest mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from toolbox.base import Dataset, Example, Gallery, Matrix, Outcomes, ReportItem, Table
from toolbox.utils.class_names import list_super_classes, make_class_namer
from toolbox_classification.predictions import Predictions

MOST_CLASSES = 50
MOST_CONFUSIONS = 20
MOST_DRAWN = 25
MOST_EXAMPLES = 24


def make_report_items(predictions: Predictions, dataset: Dataset, left_out: list[int]) -> list[ReportItem]:
    """Report items of a classifier's predictions.

    - `dataset`: the one that the predictions are of; `left_out`: the K of top-K without a number.
    """
    name = make_class_namer(dataset)
    confusions = ClassConfusions(predictions)
    report_items = [
        make_class_table(predictions, confusions, name, left_out),
        confusions.matrix(name),
        confusions.table(name),
        list_surest_mistakes(predictions, name),
        make_outcomes(predictions, dataset),
    ]
    return [report_item for report_item in report_items if report_item is not None]


class ClassConfusions:
    """Pairs (class, class that was predicted for its items), most frequent first."""

    def __init__(self, predictions: Predictions) -> None:
        self.classes = predictions.classes
        self.sizes = torch.bincount(predictions.labels, minlength=predictions.classes)
        wrong = ~predictions.right
        pairs = torch.stack([predictions.labels[wrong], predictions.predicted[wrong]], dim=1)
        pairs, times = pairs.unique(dim=0, return_counts=True)
        order = times.argsort(descending=True, stable=True)
        self.pairs, self.times = pairs[order], times[order]

    def matrix(self, name: Callable[[int], str]) -> Matrix | None:
        """The confusion matrix, as shares of the items of each class."""
        chosen, note = list(range(self.classes)), ""
        if self.classes > MOST_DRAWN:
            # in which a class takes part, as the right or as the wrong one
            mistakes = torch.zeros(self.classes, dtype=torch.long)
            mistakes.index_add_(0, self.pairs.flatten(), self.times.repeat_interleave(2))
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
        for (label, predicted), times in zip(self.pairs.tolist(), self.times.tolist(), strict=True):
            if label in place and predicted in place:
                counts[place[label], place[predicted]] = times
        shares = (counts / self.sizes[chosen].clamp(min=1)[:, None]).tolist()
        names = [name(label) for label in chosen]
        note = f"Shares of the items of a class, a row each.{note}"
        return Matrix("Confusion", names, list(names), shares, x="predicted", y="class", note=note)

    def table(self, name: Callable[[int], str]) -> Table | None:
        """The most frequent confusions."""
        pairs, counts = self.pairs[:MOST_CONFUSIONS].tolist(), self.times[:MOST_CONFUSIONS].tolist()
        rows = [
            [name(label), name(predicted), times, times / int(self.sizes[label])]
            for (label, predicted), times in zip(pairs, counts, strict=True)
        ]
        if not rows:
            return None
        note = f"The {len(rows)} most frequent of {len(self.pairs):,}." if len(self.pairs) > len(rows) else ""
        columns = ["class", "predicted instead", "items", "share of the class"]
        return Table("Most frequent confusions", columns, rows, note)


def make_class_table(
    predictions: Predictions, confusions: ClassConfusions, name: Callable[[int], str], left_out: list[int]
) -> Table:
    """A table of all classes, the worst first."""
    classes = predictions.classes
    right = torch.bincount(predictions.labels[predictions.right], minlength=classes).tolist()
    sizes, wrong_classes = confusions.sizes.tolist(), dict(reversed(confusions.pairs.tolist()))  # the most frequent
    accuracies = {label: right[label] / sizes[label] for label in range(classes) if sizes[label]}
    present = sorted(accuracies, key=lambda label: accuracies[label])
    rows = [
        [name(label), sizes[label], accuracies[label], name(wrong_classes[label]) if label in wrong_classes else None]
        for label in present[:MOST_CLASSES]
    ]
    notes = ["The worst first."]
    if len(present) > len(rows):
        notes = [f"The worst {len(rows)} of {len(present):,} classes; {len(present) - len(rows):,} are left out."]
    if absent := classes - len(present):
        notes.append(f"{absent:,} more have no item here.")
    notes += [f"There is no top{k}: it would be 1 for any answer among {classes} classes." for k in left_out]
    return Table("By class", ["class", "items", "accuracy", "most often predicted instead"], rows, " ".join(notes))


def list_surest_mistakes(predictions: Predictions, name: Callable[[int], str]) -> Gallery | None:
    """Wrong predictions, the most confident first."""
    wrong = torch.nonzero(~predictions.right)[:, 0]
    if not len(wrong) or not predictions.indices:
        return None
    order = wrong[predictions.confidence[wrong].argsort(descending=True, stable=True)][:MOST_EXAMPLES].tolist()
    examples = []
    for row in order:
        label, predicted = name(int(predictions.labels[row])), name(int(predictions.predicted[row]))
        note = f"is {label}, predicted {predicted} with {float(predictions.confidence[row]):.2f}"
        examples.append(Example(predictions.indices[row], [], note))
    note = f"The wrong predictions with the highest confidence, of {len(wrong):,} wrong ones."
    return Gallery("Surest mistakes", examples, note)


def make_outcomes(predictions: Predictions, dataset: Dataset) -> Outcomes:
    """Whether each item is predicted right."""
    ids = [str(name) for name in predictions.names]
    right = predictions.right.long().tolist()
    return Outcomes("right answers", ids, right, list_super_classes(dataset, predictions.indices), mean="top1")
