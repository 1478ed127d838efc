"""Classification by logistic regression on the training set's embeddings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from toolbox.base import Curve, Dataset, ReportItem
from toolbox_classification.classifiers import LEAST, LinearLogits
from toolbox_classification.intervals import over_items
from toolbox_classification.learned import Learned, of_main
from toolbox_classification.logistic_fit import Fitted, fit

CS = tuple(10.0**power for power in range(-6, 6))
HELD_OUT = 0.1
SEED = 0


@dataclass
class TrainingSet:
    """A training set as it is fitted, and the fits.

    - `x`: (N, D) rows of length 1 or, where N < D, their coordinates in `basis` (D, N); `y`: (N,) classes from 0.
    - `names`: (classes,) the labels.
    - `fits`: {(C, whether to all items or without those held out): solution}.
    """

    x: Tensor
    y: Tensor
    names: Tensor
    basis: Tensor | None
    fits: dict[tuple[float, bool], Fitted] = field(default_factory=dict)


@dataclass
class Choice:
    """- `c`: the chosen C; `quality`: {C: accuracy, negative cross-entropy} by which; `by`: in words; `slow`: the C of
    fits that have not converged.
    """

    c: float
    by: str = ""
    quality: dict[float, tuple[float, float]] = field(default_factory=dict)
    slow: list[str] = field(default_factory=list)


_solutions: dict[str, dict[tuple[float, bool], Fitted]] = {}
_KEPT = 2
_ROWS = 4096


class LogisticRegression(Learned):
    """The share of items whose class a logistic regression tells that was fitted to the training set.

    The objective is scikit-learn's for several classes: C * (sum of cross-entropies) + 0.5 * (squared weights), biases
    free. It is solved to its optimum, on the model's device, in float64 (float32 where the device has none), from one C
    to the next. A tenth of each class of the training set, drawn by a fixed seed (of few items one, of one none), is
    held out and chooses C: the most accurate one, of equals the one of lower cross-entropy. Larger C are not tried
    after two in a row that are no more accurate and of higher cross-entropy than earlier ones. Then all is fitted.

    - `cs`: the C to choose from; default: 1e-6, 1e-5 ... 1e5, the range in which DINOv2 and DINOv3 try 45.
    - `max_iter`: L-BFGS iterations of each fit.
    - `tolerance`: a fit has converged when no entry of the gradient of the objective / (C * items) is larger.
    - `memory_mb`: how much of the training set may lie on the device, in MiB; a larger one is copied there in parts, in
      every iteration.

    Reads `outputs["embeddings"]` (B, D), of any length and made of length 1, and labels and ids of the batches. (DINO's
    own scripts do not divide by the length: their best C is another one.) Training embeddings are kept
    in float32 on the CPU, once for all metrics of a run.

    `compute` gives "logistic", the accuracy; "logistic_low" and "logistic_high", within which it would be for other
    items (95 %, bootstrap over items); "logistic_c", the chosen C; and, only if there are any,
    "logistic_not_converged", how many fits `max_iter` ended before their optimum; the report items say of which C.
    Every process gets the same numbers, for any number of processes. Raises ValueError for arguments that make no
    sense, and without labels.
    """

    name = "logistic regression"
    settings = ("logistic_c",)
    better = {"logistic_not_converged": "less"}

    def __init__(
        self,
        cs: list[float] | None = None,
        max_iter: int = 1000,
        tolerance: float = 1e-6,
        memory_mb: int = 4096,
    ):
        self.cs = list(CS) if cs is None else sorted(map(float, cs))
        if not self.cs or not all(0 < c < math.inf for c in self.cs) or len(set(self.cs)) < len(self.cs):
            raise ValueError(f"cs must be different positive numbers, not {self.cs}: try cs=[0.1,1,10,100]")
        if max_iter < 1 or not tolerance > 0 or memory_mb < 1:
            raise ValueError(
                f"max_iter and memory_mb are at least 1 and tolerance positive, not {max_iter}, {memory_mb} and "
                f"{tolerance}"
            )
        self.max_iter, self.tolerance, self.memory_mb = max_iter, tolerance, memory_mb
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._line: list[tuple[float, float]] = []
        self._note, self._line_name = "", "training, held out"
        self._remarks: list[str] = []
        self._fitted: LinearLogits | None = None

    def compute(self) -> dict[str, float]:
        x, labels, judged, wanted = self.rows()
        training = self._training_set(x, labels)
        choice = self._choose(training, judged, wanted)
        known = (choice.c, True) in training.fits
        final = self._fit(training, choice.c, training.fits.get((choice.c, False)))
        slow = choice.slow + ([] if final.converged or known else [f"the chosen C = {choice.c:g} on all items"])
        fitted = of_main(_logits(final, training, choice.c).state_dict())  # so that all processes predict alike
        self._fitted = LinearLogits(fitted["weights"], fitted["biases"], choice.c)
        told = [self._fitted(part.to(self._device)).argmax(dim=1).cpu() for part in judged.split(_ROWS)]
        right = int((torch.cat(told) == wanted).sum())
        low, high = over_items([len(judged) - right, right])
        numbers = {
            "logistic": right / len(judged),
            "logistic_low": low,
            "logistic_high": high,
            "logistic_c": choice.c,
        }
        if slow:
            numbers["logistic_not_converged"] = float(len(slow))
        self._line = [(c, accuracy) for c, (accuracy, _) in choice.quality.items()]
        self._line_name = "judged" if self.chooses else "training, held out"
        self._note = f"C = {choice.c:g} is chosen" + (f" by {choice.by}." if choice.by else ".")
        if not self.chooses and self._line:
            self._remarks = [
                f"C = {choice.c:g} of logistic regression is chosen by {choice.by}; no validation set has."
            ]
        if slow:
            self._note += f" Not converged in {self.max_iter:,} iterations: {', '.join(slow)}. Raise max_iter."
        shown = numbers, self._line, self._note, self._remarks
        numbers, self._line, self._note, self._remarks = of_main(shown)
        return numbers

    def classifier(self) -> LinearLogits | None:
        return self._fitted

    def remarks(self) -> list[str]:
        return self._remarks

    def _choose(self, training: TrainingSet, judged: Tensor, wanted: Tensor) -> Choice:
        if self.chosen is not None and not self.chooses and "logistic_c" in self.chosen:
            return Choice(float(self.chosen["logistic_c"]), "the validation set")
        if self.chooses:
            # an item of a class without training items is wrong whatever C is
            at = torch.searchsorted(training.names, wanted).clamp(max=len(training.names) - 1)
            seen = training.names[at] == wanted
            x, y, kept, by = judged[seen], at[seen], None, f"the {len(judged):,} items judged here"
            x = x if training.basis is None else x.to(training.basis.dtype) @ training.basis
        else:
            kept, held = held_out(training.y)
            x, y, by = training.x[held], training.y[held], f"{len(held):,} held-out items"
        if len(self.cs) == 1 or not len(y):
            return Choice(self.cs[0])
        x, y = x.to(self._device), y.to(self._device)
        found, quality = _path(self.cs, lambda c, start: self._fit(training, c, start, kept), x, y)
        slow = [f"C = {c:g}" for c, solution in found.items() if not solution.converged]
        return Choice(max(quality, key=quality.get), by, quality, slow)

    def _fit(self, training: TrainingSet, c: float, start: Fitted | None, kept: Tensor | None = None) -> Fitted:
        """The solution for the rows that are `kept`, None for all; found once."""
        key = c, kept is None
        if key not in training.fits:
            precise = _has_float64(self._device)
            training.fits[key] = fit(
                training.x if kept is None else training.x[kept],
                training.y if kept is None else training.y[kept],
                len(training.names),
                c,
                start=start,
                max_iter=self.max_iter,
                tolerance=self.tolerance if precise else max(self.tolerance, 1e-5),
                device=self._device,
                dtype=torch.float64 if precise else torch.float32,
                memory_mb=self.memory_mb,
            )
        return training.fits[key]

    def _training_set(self, x: Tensor, labels: Tensor) -> TrainingSet:
        """The problem to solve; of the same training set, which a frozen backbone gives again, with what was solved."""
        settings = f"{self.max_iter} {self.tolerance} {self._device} {tuple(x.shape)}"
        digest = hashlib.sha256(settings.encode())
        for tensor in (x, labels):
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
        fits = _solutions.pop(digest.hexdigest(), {})
        _solutions[digest.hexdigest()] = fits
        while len(_solutions) > _KEPT:
            _solutions.pop(next(iter(_solutions)))
        names, y = torch.unique(labels, return_inverse=True)
        basis = None
        if x.shape[1] > len(x):  # the weights lie in the space of the rows, which has fewer dimensions
            basis, rows = torch.linalg.qr(x.double().T)
            x = rows.T.contiguous()
        return TrainingSet(x, y, names, basis, fits)

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if not self._note:
            return []
        title, lines = "Logistic regression by C", {self._line_name: self._line}
        return [Curve(title, lines if self._line else {}, "C", "accuracy", log_x=True, note=self._note)]


def _path(
    cs: list[float], fitted: Callable[[float, Fitted | None], Fitted], x: Tensor, y: Tensor
) -> tuple[dict[float, Fitted], dict[float, tuple[float, float]]]:
    """The fits from the least C on, and how each does on (x, y), until two in a row only fit the rest more closely."""
    found: dict[float, Fitted] = {}
    quality: dict[float, tuple[float, float]] = {}
    start, worse = None, 0
    for c in cs:
        start = found[c] = fitted(c, start)
        here = _quality(start.scores(x), y)
        best = [max(values) for values in zip(*quality.values(), strict=True)] or [-math.inf, -math.inf]
        worse = worse + 1 if here[0] <= best[0] and here[1] < best[1] else 0
        quality[c] = here
        if worse == 2:
            break
    return found, quality


def held_out(y: Tensor) -> tuple[Tensor, Tensor]:
    """(rows that stay, rows held out): of each class a tenth, at least one item; none of a class that has one."""
    generator = torch.Generator().manual_seed(SEED)
    order = torch.randperm(len(y), generator=generator).to(y.device)
    order = order[y[order].argsort(stable=True)]  # by class, shuffled within
    sizes = torch.bincount(y)
    place = torch.arange(len(y), device=y.device) - (sizes.cumsum(0) - sizes)[y[order]]
    wanted = (sizes * HELD_OUT).round().long().clamp(min=1).masked_fill(sizes < 2, 0)
    held = place < wanted[y[order]]
    return order[~held].sort().values, order[held].sort().values


def _quality(scores: Tensor, y: Tensor) -> tuple[float, float]:
    """What is better is greater: accuracy, then less cross-entropy."""
    return (scores.argmax(dim=1) == y).double().mean().item(), -cross_entropy(scores, y).item()


def _logits(solution: Fitted, training: TrainingSet, c: float) -> LinearLogits:
    """A solution as logits of all classes by their labels; those without training items come last."""
    weights = solution.weights.cpu()
    if training.basis is not None:
        weights = weights.to(training.basis.dtype) @ training.basis.T
    classes = int(training.names.max()) + 1
    full, biases = torch.zeros(classes, weights.shape[1]), torch.full((classes,), LEAST)
    full[training.names], biases[training.names] = weights.float(), solution.biases.cpu().float()
    return LinearLogits(full, biases, c)


def _has_float64(device: torch.device) -> bool:
    try:
        torch.zeros(1, device=device, dtype=torch.float64)
    except (TypeError, RuntimeError):
        return False
    return True
