"""Classification by logistic regression on the training set's embeddings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from toolbox.base import Curve, Dataset, Finding
from toolbox.core.metrics.classification.intervals import over_items
from toolbox.core.metrics.classification.learned import Learned, of_main
from toolbox.core.metrics.classification.logistic_fit import Fitted, fit

CS = tuple(10.0**power for power in range(-6, 6))
HELD_OUT = 0.1
SEED = 0


@dataclass
class Solved:
    """A training set's fit.

    - `names`: (classes,) the labels; `fitted`: over the columns of `basis` (D, N), where there is one.
    - `c`: the chosen one; `quality`: {c: accuracy and negative cross-entropy of the `held` items that were held out}.
    - `slow`: which fits have not converged.
    """

    names: Tensor
    fitted: Fitted
    basis: Tensor | None
    c: float
    quality: dict[float, tuple[float, float]]
    held: int
    slow: list[str]


_solved: dict[str, Solved] = {}
_KEPT = 2


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

    Reads `outputs["embeddings"]` (B, D), of any length and made of length 1, and labels and ids of the batches. (DINO's
    own scripts do not divide by the length: their best C is another one.) Training embeddings are kept on the device.

    `compute` gives "logistic", the accuracy; "logistic_low" and "logistic_high", within which it would be for other
    items (95 %, bootstrap over items); "logistic_c", the chosen C; and, only if there are any,
    "logistic_not_converged", how many fits `max_iter` ended before their optimum; the findings say of which C.
    Every process gets the same numbers, for any number of processes. Raises ValueError for arguments that make no
    sense, and without labels.
    """

    name = "logistic regression"

    def __init__(self, cs: list[float] | None = None, max_iter: int = 1000, tolerance: float = 1e-6):
        self.cs = list(CS) if cs is None else sorted(map(float, cs))
        if not self.cs or not all(0 < c < math.inf for c in self.cs) or len(set(self.cs)) < len(self.cs):
            raise ValueError(f"cs must be different positive numbers, not {self.cs}: try cs=[0.1,1,10,100]")
        if max_iter < 1 or not tolerance > 0:
            raise ValueError(f"max_iter is at least 1 and tolerance positive, not {max_iter} and {tolerance}")
        self.max_iter, self.tolerance = max_iter, tolerance
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._line: list[tuple[float, float]] = []
        self._note = ""

    def compute(self) -> dict[str, float]:
        x, labels, judged, wanted = self.rows()
        solved = self._solve(x, labels)
        scores = solved.fitted.scores(judged if solved.basis is None else judged.to(solved.basis.dtype) @ solved.basis)
        right = int((solved.names[scores.argmax(dim=1)] == wanted).sum())
        low, high = over_items([len(judged) - right, right])
        numbers = {
            "logistic": right / len(judged), "logistic_low": low, "logistic_high": high, "logistic_c": solved.c,
        }  # fmt: skip
        if solved.slow:
            numbers["logistic_not_converged"] = float(len(solved.slow))
        self._line = [(c, accuracy) for c, (accuracy, _) in solved.quality.items()]
        self._note = f"C = {solved.c:g} is chosen" + (f" by {solved.held:,} held-out items." if solved.quality else ".")
        if solved.slow:
            self._note += f" Not converged in {self.max_iter:,} iterations: {', '.join(solved.slow)}. Raise max_iter."
        numbers, self._line, self._note = of_main((numbers, self._line, self._note))
        return numbers

    def _solve(self, x: Tensor, labels: Tensor) -> Solved:
        """The fit to the training set; of the same training set, which a frozen backbone gives again, the same one."""
        settings = f"{self.cs} {self.max_iter} {self.tolerance} {x.device} {tuple(x.shape)}"
        key = hashlib.sha256(settings.encode())
        for tensor in (x, labels):
            key.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        if key.hexdigest() not in _solved:
            while len(_solved) >= _KEPT:
                _solved.pop(next(iter(_solved)))
            _solved[key.hexdigest()] = self._solve_afresh(x, labels)
        return _solved[key.hexdigest()]

    def _solve_afresh(self, x: Tensor, labels: Tensor) -> Solved:
        names, y = torch.unique(labels, return_inverse=True)
        precise = _has_float64(x)
        x, tolerance = (x.double(), self.tolerance) if precise else (x, max(self.tolerance, 1e-5))
        basis = None
        if x.shape[1] > len(x):  # the weights lie in the space of the rows, which has fewer dimensions
            basis, rows = torch.linalg.qr(x.T)
            x = rows.T.contiguous()

        def fitted(rows: Tensor | slice, c: float, start: Fitted | None) -> Fitted:
            return fit(x[rows], y[rows], len(names), c, start=start, max_iter=self.max_iter, tolerance=tolerance)

        kept, held = held_out(y)
        found: dict[float, Fitted] = {}
        quality: dict[float, tuple[float, float]] = {}
        if len(self.cs) > 1 and len(held):
            found, quality = _path(self.cs, lambda c, start: fitted(kept, c, start), x[held], y[held])
        c = max(quality or self.cs, key=lambda c: quality.get(c, (0.0, 0.0)))
        final = fitted(slice(None), c, found.get(c))
        slow = [f"C = {c:g}" for c, solution in found.items() if not solution.converged]
        slow += [] if final.converged else [f"the chosen C = {c:g} on all items"]
        return Solved(names, final, basis, c, quality, len(held), slow)

    def findings(self, dataset: Dataset) -> list[Finding]:
        if not self._note:
            return []
        title, lines = "Logistic regression by C", {"training, held out": self._line}
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


def _has_float64(x: Tensor) -> bool:
    try:
        x[:1].double()
    except (TypeError, RuntimeError):
        return False
    return True
