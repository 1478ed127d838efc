"""Classification by logistic regression on the training set's embeddings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from toolbox_classification.classifiers import LEAST, LinearLogits
from toolbox_classification.intervals import estimate_item_interval
from toolbox_classification.logistic_fit import LogisticFit, fit_logistic
from toolbox_classification.training_set_metric import TrainingSetMetric, broadcast_from_main

CS = tuple(10.0**power for power in range(-6, 6))
HELD_OUT = 0.1
SEED = 0


@dataclass
class TrainingSet:
    """A training set in the form that is fitted, and its fits.

    - `x`: (N, D) rows of length 1 or, where N < D, their coordinates in `basis` (D, N); `y`: (N,) classes from 0.
    - `names`: (classes,) the labels.
    - `fits`: {(C, True for a fit to all items or False for one without the held-out items): fit}.
    """

    x: Tensor
    y: Tensor
    names: Tensor
    basis: Tensor | None
    fits: dict[tuple[float, bool], LogisticFit] = field(default_factory=dict)


@dataclass
class PenaltyChoice:
    """The chosen C, and why.

    - `c`: the chosen C; `by`: what has chosen it, in words.
    - `quality`: {C: (accuracy, negative cross-entropy)}, by which it was chosen.
    - `slow`: the C of fits that have not converged.
    """

    c: float
    by: str = ""
    quality: dict[float, tuple[float, float]] = field(default_factory=dict)
    slow: list[str] = field(default_factory=list)


_fits_by_digest: dict[str, dict[tuple[float, bool], LogisticFit]] = {}
_KEPT = 2
_ROWS = 4096


class LogisticRegression(TrainingSetMetric):
    """Accuracy of a logistic regression that is fitted to the training set.

    The objective is scikit-learn's for several classes: C * (sum of cross-entropies) + 0.5 * (squared weights), biases
    free. It is solved to its optimum, on the model's device, in float64 (float32 where the device has none), from one C
    to the next. A tenth of each class of the training set, drawn by a fixed seed (of few items one, of one none), is
    held out and chooses C: the most accurate one, of equals the one of lower cross-entropy. Larger C are not tried
    after two in a row that are no more accurate and of higher cross-entropy than earlier ones. Then all is fitted.

    - `cs`: the C to choose from; default: 1e-6, 1e-5 ... 1e5, the range in which DINOv2 and DINOv3 try 45.
    - `max_iter`: L-BFGS iterations of each fit.
    - `tolerance`: a fit has converged when no entry of the gradient of the objective / (C * items) is larger.
    - `memory_mb`: how much of the training set may be kept on the device, in MiB; a larger one is copied there in
      parts, in every iteration.

    Reads `outputs["embeddings"]` (B, D), of any length and made of length 1, and labels and ids of the batches. (DINO's
    own scripts do not divide by the length: their best C is another one.) Training embeddings are kept
    in float32 on the CPU, once for all metrics of a run.

    `compute` gives "logistic", the accuracy; "logistic_low" and "logistic_high", within which it would be for other
    items (95 %, bootstrap over items); "logistic_c", the chosen C; and, only if there are any,
    "logistic_not_converged", how many fits `max_iter` ended before their optimum; the report items name their C.
    Every process gets the same numbers, for any number of processes. Raises ValueError for arguments that make no
    sense, and without labels.
    """

    name, symbol, title = "logistic regression", "C", "Logistic regression by C"
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

    def compute(self) -> dict[str, float]:
        x, training_labels, evaluated, labels = self.rows()
        training = self._training_set(x, training_labels)
        choice = self._choose(training, evaluated, labels)
        reused = (choice.c, True) in training.fits
        fit = self._fit(training, choice.c, training.fits.get((choice.c, False)))
        slow = choice.slow + ([] if fit.converged or reused else [f"the chosen C = {choice.c:g} on all items"])
        state = broadcast_from_main(_make_logits(fit, training, choice.c).state_dict())  # all processes predict alike
        self._fitted = classifier = LinearLogits(state["weights"], state["biases"], choice.c)
        predicted = [classifier(rows.to(self._device)).argmax(dim=1).cpu() for rows in evaluated.split(_ROWS)]
        right = int((torch.cat(predicted) == labels).sum())
        low, high = estimate_item_interval([len(evaluated) - right, right])
        accuracy = right / len(evaluated)
        numbers = {"logistic": accuracy, "logistic_low": low, "logistic_high": high, "logistic_c": choice.c}
        if slow:
            numbers["logistic_not_converged"] = float(len(slow))
        line = [(c, accuracy) for c, (accuracy, _) in choice.quality.items()]
        self._lines = {"evaluated" if self.chooses else "training, held out": line} if line else {}
        self._note = f"C = {choice.c:g} is chosen" + (f" by {choice.by}." if choice.by else ".")
        if not self.chooses and line:
            self._remarks = [
                f"C = {choice.c:g} of logistic regression is chosen by {choice.by}; no validation set has."
            ]
        if slow:
            self._note += f" Not converged in {self.max_iter:,} iterations: {', '.join(slow)}. Raise max_iter."
        results = numbers, self._lines, self._note, self._remarks
        numbers, self._lines, self._note, self._remarks = broadcast_from_main(results)
        return numbers

    def _choose(self, training: TrainingSet, evaluated: Tensor, labels: Tensor) -> PenaltyChoice:
        if self.chosen is not None and not self.chooses and "logistic_c" in self.chosen:
            return PenaltyChoice(float(self.chosen["logistic_c"]), "the validation set")
        if self.chooses:
            # an item of a class without training items is wrong whatever C is
            classes = torch.searchsorted(training.names, labels).clamp(max=len(training.names) - 1)
            trained = training.names[classes] == labels
            x, y, kept, by = evaluated[trained], classes[trained], None, f"the {len(evaluated):,} items evaluated here"
            x = x if training.basis is None else x.to(training.basis.dtype) @ training.basis
        else:
            kept, held_out = split_held_out(training.y)
            x, y, by = training.x[held_out], training.y[held_out], f"{len(held_out):,} held-out items"
        if len(self.cs) == 1 or not len(y):
            return PenaltyChoice(self.cs[0])
        x, y = x.to(self._device), y.to(self._device)
        fits, quality = _fit_path(self.cs, lambda c, start: self._fit(training, c, start, kept), x, y)
        slow = [f"C = {c:g}" for c, fit in fits.items() if not fit.converged]
        return PenaltyChoice(max(quality, key=lambda c: quality[c]), by, quality, slow)

    def _fit(
        self, training: TrainingSet, c: float, start: LogisticFit | None, kept: Tensor | None = None
    ) -> LogisticFit:
        """The fit to the rows that are `kept`, None for all; computed once."""
        key = c, kept is None
        if key not in training.fits:
            precise = _has_float64(self._device)
            training.fits[key] = fit_logistic(
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
        """The training set to fit; a set that a frozen backbone gives again comes with its earlier fits."""
        settings = f"{self.max_iter} {self.tolerance} {self._device} {tuple(x.shape)}"
        digest = hashlib.sha256(settings.encode())
        for tensor in (x, labels):
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        fits = _fits_by_digest.pop(digest.hexdigest(), {})
        _fits_by_digest[digest.hexdigest()] = fits
        while len(_fits_by_digest) > _KEPT:
            _fits_by_digest.pop(next(iter(_fits_by_digest)))
        names, y = torch.unique(labels, return_inverse=True)
        basis = None
        if x.shape[1] > len(x):  # the weights lie in the space of the rows, which has fewer dimensions
            basis, rows = torch.linalg.qr(x.double().T)
            x = rows.T.contiguous()
        return TrainingSet(x, y, names, basis, fits)


def _fit_path(
    cs: list[float], fit: Callable[[float, LogisticFit | None], LogisticFit], x: Tensor, y: Tensor
) -> tuple[dict[float, LogisticFit], dict[float, tuple[float, float]]]:
    """The fits from the least C on, and the quality of each on (x, y), until two in a row are worse than earlier ones.

    - `fit`: from C and the fit to start from to the fit.
    """
    fits: dict[float, LogisticFit] = {}
    quality: dict[float, tuple[float, float]] = {}
    start, worse = None, 0
    for c in cs:
        start = fits[c] = fit(c, start)
        accuracy, likelihood = _measure_quality(start.compute_scores(x), y)
        best = [max(values) for values in zip(*quality.values(), strict=True)] or [-math.inf, -math.inf]
        worse = worse + 1 if accuracy <= best[0] and likelihood < best[1] else 0
        quality[c] = accuracy, likelihood
        if worse == 2:
            break
    return fits, quality


def split_held_out(y: Tensor) -> tuple[Tensor, Tensor]:
    """(rows that stay, rows held out): of each class a tenth, at least one item; none of a class that has one."""
    generator = torch.Generator().manual_seed(SEED)
    order = torch.randperm(len(y), generator=generator).to(y.device)
    order = order[y[order].argsort(stable=True)]  # by class, shuffled within
    sizes = torch.bincount(y)
    place = torch.arange(len(y), device=y.device) - (sizes.cumsum(0) - sizes)[y[order]]
    counts = (sizes * HELD_OUT).round().long().clamp(min=1).masked_fill(sizes < 2, 0)
    held_out = place < counts[y[order]]
    return order[~held_out].sort().values, order[held_out].sort().values


def _measure_quality(scores: Tensor, y: Tensor) -> tuple[float, float]:
    """(accuracy, negative cross-entropy); greater is better."""
    return (scores.argmax(dim=1) == y).double().mean().item(), -cross_entropy(scores, y).item()


def _make_logits(fit: LogisticFit, training: TrainingSet, c: float) -> LinearLogits:
    """A fit as logits of all classes by their labels; classes without training items get the least logit."""
    weights = fit.weights.cpu()
    if training.basis is not None:
        weights = weights.to(training.basis.dtype) @ training.basis.T
    classes = int(training.names.max()) + 1
    all_weights, biases = torch.zeros(classes, weights.shape[1]), torch.full((classes,), LEAST)
    all_weights[training.names], biases[training.names] = weights.float(), fit.biases.cpu().float()
    return LinearLogits(all_weights, biases, c)


def _has_float64(device: torch.device) -> bool:
    try:
        torch.zeros(1, device=device, dtype=torch.float64)
    except (TypeError, RuntimeError):
        return False
    return True
