"""Linear probes of a frozen backbone: a grid of learning rates and pooled features, trained in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolbox.base import Backbone, Batch, Model, Tower, gather, l2_normalize, without_autocast
from toolbox.plugin import Problem, ToolboxError
from toolbox.utils import pool as pools
from toolbox_classification.classifiers import LEAST, LinearLogits, NearestNeighbours
from toolbox_classification.probe_names import METHODS, PREFIX, best_method, head_name

FITTED = {cls.number: cls for cls in (NearestNeighbours, LinearLogits)}
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)


class Probe(Model):
    """A grid of linear classifiers on one frozen backbone, every one of them trained as if it were alone.

    The linear protocol of DINOv2 and DINOv3 (Oquab et al., 2023; Siméoni et al., 2025): one head for each learning rate
    and each way of pooling, all on the same features, and the validation set chooses. One pass trains them all, since
    their losses are added up: each gets the gradient of its own.

    - `backbone`: stays frozen; a `tune` other than 'frozen' is refused.
    - `inputs`: what heads read: "cls", "mean" or "cls+mean", "cls" and "cls+mean" of several last blocks where a number
      follows, "cls+mean:4" (`core.Pool`). Default: ["cls", "cls+mean"]. One vector holds them all, so that stored
      features (the recipe's `features`) are stored once. `embeddings` are of the first one.
    - `rates`: learning rates, as factors on the optimizer's `lr`; default: the 13 of DINOv3, from 1e-5 to 0.1. So the
      optimizer's `lr` is the batch size / 256 by DINOv3's rule, and a head's own is `lr` x rate.
    - `repeats`: how often each head is trained, from other initial weights and on another order of the data; the
      sampler brings the orders: `core.Shuffled` with `repeats` of the same number. Without stored features, each takes
      the backbone's time again.

    Weights start from N(0, 0.01), those of a repeat alike whatever else is in the grid; biases from 0, and they get no
    weight decay. Heads compute in float32 also under autocast. What would couple them is refused: `clip_grad`, updates
    that are left out, fp16, mixed images.

    - `classifier`: what `predict` takes "logits" from: "best" is what told the validation set best, of the chosen
      linear head, k-NN (`KNN`) and logistic regression (`LogisticRegression`), those of them that judged it;
      or "linear", "knn", "logistic". It is saved with the model. As k-NN keeps all training embeddings, checkpoints
      hold it only where it is the best or asked for here.

    `predict` returns {"embeddings": (B, P) rows of length 1} and, for every head, its class in each repeat as
    "linear/INPUT/RATE" (B, repeats). After a choice (`on_validation_end`, by the numbers of the validation; it
    is saved with the model) also "linear", (B, repeats), the classes of the chosen head, and "logits", (B, C), those of
    the `classifier` (of a linear head, of its first repeat); `predictor` names it. `baseline` gives the embeddings
    alone.
    """

    closed_set = True
    user_class = "toolbox_classification.image_classifier:ImageClassifier"

    def __init__(
        self,
        backbone: Backbone,
        inputs: list[str] | None = None,
        rates: list[float] | None = None,
        repeats: int = 1,
        classifier: Literal["best", "linear", "knn", "logistic"] = "best",
    ):
        super().__init__()
        self.backbone = backbone
        backbone.freeze()
        self.parts, self.pool = _lay_out(["cls", "cls+mean"] if inputs is None else inputs)
        self.rates = sorted(RATES if rates is None else map(float, rates))
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"inputs are different ways to pool, at least one, not {names}: try ['cls', 'cls+mean:4']")
        if not self.rates or not all(0 < rate < math.inf for rate in self.rates):
            raise ValueError(f"rates are positive numbers, at least one, not {self.rates}: try [0.001, 0.01]")
        if len({head_name("", rate) for rate in self.rates}) < len(self.rates):
            raise ValueError(f"two of rates={self.rates} are the same in 6 digits: leave one out")
        if repeats < 1:
            raise ValueError(f"repeats={repeats}, and every head is trained once at least")
        if classifier not in ("best", *METHODS):
            raise ValueError(f"classifier={classifier!r} does not exist. Try one of best, {', '.join(METHODS)}.")
        self.repeats, self.classifier = repeats, classifier
        self.heads = nn.ModuleList()  # one for each rate, so that a rate is a part of the model
        self.register_buffer("chosen", torch.tensor([-1, -1]))  # input and rate
        self.register_buffer("best", None)  # which of METHODS, once a validation has compared them
        self._settled: tuple[int, int, str] | None = None  # the choice as plain numbers
        self.fitted = nn.ModuleDict()  # what was fitted to the training set, by its name in METHODS

    @property
    def fixed_embeddings(self) -> bool:
        return True

    @property
    def inputs(self) -> dict[str, Backbone]:
        return {"image": self.backbone}

    def towers(self) -> dict[str, Tower]:
        return {"image": Tower(self.backbone, self.pool)}

    def lr_factors(self) -> dict[str, float]:
        return {f"heads.{number}": rate for number, rate in enumerate(self.rates)}

    def names(self) -> dict[str, tuple[int, int]]:
        """{name of a head: its input and rate, counted}, lower rates first."""
        return {
            head_name(part.name, rate): (i, number)
            for number, rate in enumerate(self.rates)
            for i, part in enumerate(self.parts)
        }

    def check(self) -> list[Problem]:
        tune = self.backbone.tune
        if self.backbone.frozen and (tune is None or getattr(tune, "mode", None) == "frozen"):
            return []
        message = "A probe leaves its backbone as it is, and this one would be trained."
        return [Problem(message, "backbone.tune", "Remove the key, or use classification.Classifier.")]

    def connect(self, classes: int | None = None) -> None:
        if self.heads:
            raise ValueError("this model is already connected to its data: build a new one for other data")
        if classes is None or classes < 2:
            raise ValueError(f"a probe tells classes apart, and the training data have {classes or 'no labels'}")
        self.classes = classes
        starts = [self._starts((part.end - part.start) * self.backbone.dim) for part in self.parts]
        self.heads.extend(_Heads(starts) for _ in self.rates)

    def _starts(self, width: int) -> Tensor:
        """(repeats, C, width) initial weights."""
        parts = []
        for repeat in range(self.repeats):
            # the run's seed, which nothing that was drawn before changes
            words = np.random.SeedSequence((torch.initial_seed(), repeat)).generate_state(2)
            generator = torch.Generator("cpu").manual_seed(int(words[0]) << 32 | int(words[1]))
            parts.append(torch.randn(self.classes, width, generator=generator, device="cpu") * 0.01)
        return torch.stack(parts)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"features": self.pooled(batch)}

    def compute_loss(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        labels, views = batch.labels, batch.views["image"]
        if labels is None:
            raise ValueError("a probe needs labels, and this batch has none: use a labelled dataset")
        if batch.blocks != self.repeats:
            raise ValueError(
                f"repeats={self.repeats} of classification.Probe takes as many orders of the data, and a batch has "
                f"{batch.blocks}: use the sampler core.Shuffled with repeats={self.repeats}"
            )
        features = _by_repeat(representations["features"], views, self.repeats)
        labels = labels.view(self.repeats, -1).repeat(1, views)
        with without_autocast(labels.device):
            losses = torch.cat([self._losses(features, i, labels) for i in range(len(self.parts))], dim=2)
            # of each row all heads' losses, so that the mean is over the rows of all processes
            means = gather(losses.transpose(0, 1).flatten(1)).mean(dim=0)
        return {"loss": means.sum(), "lowest_loss": means.detach().min()}

    def _losses(self, features: Tensor, i: int, labels: Tensor) -> Tensor:
        """(repeats, rows, rates): the cross-entropy of the heads that read one input."""
        scores = self._scores(features, i)
        wanted = labels[:, :, None].expand(scores.shape[:-1])
        return cross_entropy(scores.flatten(0, 2), wanted.flatten(), reduction="none").view(wanted.shape)

    def _scores(self, features: Tensor, i: int) -> Tensor:
        """(repeats, rows, rates, C) of the heads that read one input; `features`: (repeats, rows, P)."""
        weights = torch.cat([heads.weights[i] for heads in self.heads], dim=1)
        biases = torch.cat([heads.biases[i].view(self.repeats, 1, -1) for heads in self.heads], dim=2)
        own = features[..., self.parts[i].slice(self.backbone.dim)].to(weights.dtype)
        return torch.baddbmm(biases, own, weights.transpose(1, 2)).unflatten(2, (len(self.rates), -1))

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        features = self.pooled(batch)
        found = self._embeddings(features)
        # on the meta device nothing is chosen yet, and what will be there counts
        i, rate, method = self._choice()
        with without_autocast(features.device):
            each = features.expand(self.repeats, -1, -1)
            scores = [self._scores(each, number) for number in range(len(self.parts))]
        for name, (part, number) in self.names().items():
            found[name] = scores[part][:, :, number].argmax(dim=-1).T
        if i >= 0:
            found[PREFIX] = scores[i][:, :, rate].argmax(dim=-1).T
            found["logits"] = (
                scores[i][0, :, rate].float() if method == PREFIX else self._fitted_logits(method, found["embeddings"])
            )
        return found

    def _choice(self) -> tuple[int, int, str]:
        """The chosen head's input and rate, counted, -1 where nothing is chosen; which of METHODS gives the logits."""
        if self._settled is not None:
            return self._settled
        if self.chosen.is_meta:  # what will be there has the same shape
            return 0, 0, PREFIX
        method = self.classifier
        if method == "best":
            method = PREFIX if self.best is None else list(METHODS)[int(self.best)]
        return *self.chosen.tolist(), method

    def _fitted_logits(self, method: str, embeddings: Tensor) -> Tensor:
        """(B, C): of what was fitted; classes that it does not know cannot be told."""
        logits = self.fitted[method](embeddings)
        return nn.functional.pad(logits, (0, self.classes - logits.shape[1]), value=LEAST)

    @property
    def predictor(self) -> str:
        if self.chosen.is_meta or (i := int(self.chosen[0])) < 0:
            return ""
        if (method := self._choice()[2]) != PREFIX:
            return self.fitted[method].name
        name = f"the linear head {self.parts[i].name} at rate {self.rates[int(self.chosen[1])]:g}"
        name += f", the first of its {self.repeats} repeats" if self.repeats > 1 else ""
        if self.best is None and self.classifier == "best":
            name += " (the checkpoint does not say whether k-NN or logistic regression is better: an older version)"
        return name

    def baseline(self, batch: Batch) -> dict[str, Tensor]:
        return self._embeddings(self.pooled(batch))

    def _embeddings(self, features: Tensor) -> dict[str, Tensor]:
        return {"embeddings": l2_normalize(features[..., self.parts[0].slice(self.backbone.dim)].float())}

    def on_validation_end(self, numbers: dict[str, float], classifiers: Sequence[nn.Module] | None = None) -> None:
        names = self.names()
        if missing := [name for name in names if name not in numbers]:
            raise ToolboxError(
                f"A probe chooses by the accuracy of every head, and the validation gives no '{missing[0]}'.",
                where="val_evaluator",
                hint="Add dict(type='classification.ProbeAccuracy', choose=True).",
            )
        best = max(names, key=lambda name: numbers[name])  # the first of equals, so the lowest rate
        self.chosen.copy_(torch.tensor(names[best]))
        if classifiers is None:
            return
        known = {classifier.number: classifier for classifier in classifiers if classifier.number in numbers}
        if self.classifier not in ("best", PREFIX, *known):
            raise ToolboxError(
                f"The probe shall predict by {METHODS[self.classifier]}, and no metric of the validation fits it.",
                where="model.classifier",
                hint="Add classification.KNN or classification.LogisticRegression to val_evaluator.",
            )
        winner = best_method({PREFIX: numbers[best], **{name: numbers[name] for name in known}})
        kept = {name for name in known if name in (winner, self.classifier) or name == "logistic"}
        self.fitted = nn.ModuleDict({name: known[name] for name in sorted(kept)})
        self.best = torch.tensor(list(METHODS).index(winner), device=self.chosen.device)

    def fit_buffers(self, shapes: Mapping[str, torch.Size]) -> None:
        held: dict[str, dict[str, torch.Size]] = {}
        for name, shape in shapes.items():
            if name.startswith("fitted."):
                _, method, part = name.split(".")
                held.setdefault(method, {})[part] = shape
        if "chosen" in shapes:  # a checkpoint of a probe, of whatever version, and not some parts of one
            place = self.chosen.device
            self.best = torch.zeros((), dtype=torch.long, device=place) if "best" in shapes else None
            self.fitted = nn.ModuleDict({name: FITTED[name].shaped(held[name], place) for name in sorted(held)})
            if self.classifier not in ("best", PREFIX, *held):
                has = " and ".join(METHODS[name] for name in (PREFIX, *sorted(held)))
                raise ToolboxError(
                    f"The checkpoint holds no {METHODS[self.classifier]}, but {has}.",
                    where="model.classifier",
                    hint="A probe keeps k-NN where it is the best, or where the training recipe says classifier='knn'.",
                )

    def in_plain_torch(self) -> list[str]:
        lines = [*_pool_lines(self.parts[0]), "embedding = F.normalize(x, dim=-1)"]
        i, rate, method = self._choice()
        if i < 0:
            return lines
        if method == PREFIX:
            weights, biases = f'head["heads.{rate}.weights.{i}"]', f'head["heads.{rate}.biases.{i}"]'
            lines += [] if i == 0 else _pool_lines(self.parts[i])
            return [*lines, f"logits = F.linear(x, {weights}[0], {biases}.view({self.repeats}, -1)[0])"]
        lines += self.fitted[method].in_plain_torch(f"fitted.{method}", "embedding")
        return [*lines, f"logits = F.pad(logits, (0, {self.classes} - logits.shape[1]), value={LEAST})"]

    def prepare_export(self) -> None:
        if self._choice()[2] == "knn":
            raise ValueError(
                "k-NN looks training embeddings up, which does not translate: choose model.classifier='linear' or "
                "'logistic'"
            )
        self._settled = self._choice()


def _pool_lines(part: _Part) -> list[str]:
    return pools.TokenPool(part.mode, blocks=part.blocks).in_plain_torch("pool")


class _Part(NamedTuple):
    """A way to pool, as a part of the vector that holds all: CLS tokens, the last block's at `end`, then the mean.

    - `start`, `end`, in widths of a token.
    """

    mode: str
    blocks: int
    start: int
    end: int

    @property
    def name(self) -> str:
        return self.mode if self.blocks == 1 else f"{self.mode}:{self.blocks}"

    def slice(self, dim: int) -> slice:
        return slice(self.start * dim, self.end * dim)


class _Heads(nn.Module):
    """The heads of one learning rate: for each input (repeats, C, P) weights, and biases, flat, so without decay."""

    def __init__(self, starts: list[Tensor]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for start in starts:
            weight = torch.empty(start.shape)
            weight.copy_(start)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(start.shape[0] * start.shape[1])))


def _lay_out(inputs: list[str]) -> tuple[list[_Part], pools.TokenPool]:
    """Where each input stands in the vector that the pool gives. Raises ValueError for what cannot be pooled so."""
    asked = []
    for name in inputs:
        mode, _, blocks = name.partition(":")
        if mode not in ("cls", "mean", "cls+mean") or (blocks and not blocks.isdecimal()):
            raise ValueError(f"inputs has {name!r}: try 'cls', 'mean', 'cls+mean', or 'cls:4' for several blocks")
        asked.append((mode, pools.TokenPool(mode, blocks=int(blocks or 1)).layers))
    deepest = max((blocks for mode, blocks in asked if mode != "mean"), default=0)
    modes = "+".join(kind for kind in ("cls", "mean") if any(kind in mode for mode, _ in asked))
    parts = [
        _Part(mode, blocks, deepest - blocks * ("cls" in mode), deepest + ("mean" in mode)) for mode, blocks in asked
    ]
    return parts, pools.TokenPool(modes or "cls", blocks=max(deepest, 1))


def _by_repeat(features: Tensor, views: int, repeats: int) -> Tensor:
    """(views * repeats * rows, P) -> (repeats, views * rows, P)."""
    cut = features.view(views, repeats, -1, features.shape[-1])
    return cut.transpose(0, 1).flatten(1, 2)
