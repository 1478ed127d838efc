"""Linear probes of a frozen backbone: a grid of learning rates and pooled features, trained in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolbox.base import Backbone, Batch, Model, PooledBackbone, gather, l2_normalize, without_autocast
from toolbox.plugin import Problem, ToolboxError
from toolbox_classification.classifiers import LEAST, FittedClassifier, LinearLogits, NearestNeighbours
from toolbox_classification.probe_inputs import plan_pool
from toolbox_classification.probe_names import METHODS, PREFIX, choose_method, format_head_name

FITTED: dict[str, type[FittedClassifier]] = {cls.number: cls for cls in (NearestNeighbours, LinearLogits)}
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)


class Probe(Model):
    """A grid of linear classifiers on one frozen backbone, each trained as if it were alone.

    The linear protocol of DINOv2 and DINOv3 (Oquab et al., 2023; Siméoni et al., 2025): one head for each learning rate
    and each way of pooling, all on the same features, and the validation set chooses. One pass trains all heads, since
    their losses are added up: each head gets the gradient of its own loss.

    - `backbone`: stays frozen; a `tune` other than 'frozen' is refused.
    - `inputs`: the pooled features that heads read: "cls", "mean" or "cls+mean", "cls" and "cls+mean" of several last
      blocks where a number follows, "cls+mean:4" (`core.Pool`). Default: ["cls", "cls+mean"]. One vector holds them
      all, so that stored features (the recipe's `features`) are stored once. `embeddings` are of the first one.
    - `rates`: learning rates, as factors on the optimizer's `lr`; default: the 13 of DINOv3, from 1e-5 to 0.1. So the
      optimizer's `lr` is the batch size / 256 by DINOv3's rule, and a head's own is `lr` x rate.
    - `repeats`: how often each head is trained, from other initial weights and on another order of the data; the
      sampler brings the orders: `core.Shuffled` with `repeats` of the same number. Without stored features, each takes
      the backbone's time again.

    Weights start from N(0, 0.01), those of a repeat alike whatever else is in the grid; biases start from 0, and get no
    weight decay. Heads compute in float32 also under autocast. Settings that would couple them are refused:
    `clip_grad`, updates that are left out, fp16, mixed images.

    - `classifier`: what `predict` takes "logits" from: "best" is the method with the highest accuracy on the validation
      set, of the chosen linear head, k-NN (`KNN`) and logistic regression (`LogisticRegression`), those of them that
      were evaluated on it; or "linear", "knn", "logistic". It is saved with the model. As k-NN keeps all training
      embeddings, checkpoints hold it only where it is the best or asked for here.

    `predict` returns {"embeddings": (B, P) rows of length 1} and, for every head, its class in each repeat as
    "linear/INPUT/RATE" (B, repeats). After a choice (`on_validation_end`, by the numbers of the validation; it is saved
    with the model) also "linear", (B, repeats), the classes of the chosen head, and "logits", (B, C), those of the
    `classifier` (of a linear head, those of its first repeat); `predictor` names it. `baseline` gives the embeddings
    alone.
    """

    closed_set = True
    user_class = "toolbox_classification.image_classifier:ImageClassifier"
    chosen: Tensor
    best: Tensor | None

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
        self.parts, self.pool = plan_pool(["cls", "cls+mean"] if inputs is None else inputs)
        self.rates = sorted(RATES if rates is None else map(float, rates))
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"inputs are different ways to pool, at least one, not {names}: try ['cls', 'cls+mean:4']")
        if not self.rates or not all(0 < rate < math.inf for rate in self.rates):
            raise ValueError(f"rates are positive numbers, at least one, not {self.rates}: try [0.001, 0.01]")
        if len({format_head_name("", rate) for rate in self.rates}) < len(self.rates):
            raise ValueError(f"two of rates={self.rates} are the same in 6 digits: leave one out")
        if repeats < 1:
            raise ValueError(f"repeats={repeats}, and every head is trained once at least")
        if classifier not in ("best", *METHODS):
            raise ValueError(f"classifier={classifier!r} does not exist. Try one of best, {', '.join(METHODS)}.")
        self.repeats, self.classifier = repeats, classifier
        self.heads = nn.ModuleList()  # one for each rate, so that a rate is a part of the model
        self.register_buffer("chosen", torch.tensor([-1, -1]))  # input and rate
        self.register_buffer("best", None)  # which of METHODS, once a validation has compared them
        self._exported_choice: tuple[int, int, str] | None = None  # as plain numbers
        self.fitted = nn.ModuleDict()  # classifiers that were fitted to the training set, by their names in METHODS

    @property
    def fixed_embeddings(self) -> bool:
        return True

    @property
    def inputs(self) -> dict[str, Backbone]:
        return {"image": self.backbone}

    def pooled_backbones(self) -> dict[str, PooledBackbone]:
        return {"image": PooledBackbone(self.backbone, self.pool)}

    def lr_factors(self) -> dict[str, float]:
        return {f"heads.{number}": rate for number, rate in enumerate(self.rates)}

    def names(self) -> dict[str, tuple[int, int]]:
        """{name of a head: its input and rate, counted}, lower rates first."""
        return {
            format_head_name(part.name, rate): (i, number)
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
        weights = [self._draw_weights((part.end - part.start) * self.backbone.dim) for part in self.parts]
        self.heads.extend(_Heads(weights) for _ in self.rates)

    def _draw_weights(self, width: int) -> Tensor:
        """(repeats, C, width) initial weights."""
        weights = []
        for repeat in range(self.repeats):
            # the run's seed, which nothing that was drawn before changes
            words = np.random.SeedSequence((torch.initial_seed(), repeat)).generate_state(2)
            generator = torch.Generator("cpu").manual_seed(int(words[0]) << 32 | int(words[1]))
            weights.append(torch.randn(self.classes, width, generator=generator, device="cpu") * 0.01)
        return torch.stack(weights)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"features": self.pool_features(batch)}

    def compute_loss(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        labels, views = batch.labels, batch.views["image"]
        if labels is None:
            raise ValueError("a probe needs labels, and this batch has none: use a labelled dataset")
        if batch.blocks != self.repeats:
            raise ValueError(
                f"repeats={self.repeats} of classification.Probe takes as many orders of the data, and a batch has "
                f"{batch.blocks}: use the sampler core.Shuffled with repeats={self.repeats}"
            )
        # (views * repeats * rows, P) -> (repeats, views * rows, P)
        features = representations["features"].unflatten(0, (views, self.repeats, -1)).transpose(0, 1).flatten(1, 2)
        labels = labels.view(self.repeats, -1).repeat(1, views)
        with without_autocast(labels.device):
            losses = torch.cat([self._losses(features, i, labels) for i in range(len(self.parts))], dim=2)
            # all heads' losses of each row, so that the mean is over the rows of all processes
            means = gather(losses.transpose(0, 1).flatten(1)).mean(dim=0)
        return {"loss": means.sum(), "lowest_loss": means.detach().min()}

    def _losses(self, features: Tensor, i: int, labels: Tensor) -> Tensor:
        """(repeats, rows, rates): the cross-entropy of the heads that read one input."""
        scores = self._scores(features, i)
        targets = labels[:, :, None].expand(scores.shape[:-1])
        return cross_entropy(scores.flatten(0, 2), targets.flatten(), reduction="none").view(targets.shape)

    def _scores(self, features: Tensor, i: int) -> Tensor:
        """(repeats, rows, rates, C) of the heads that read one input; `features`: (repeats, rows, P)."""
        rates = [heads for heads in self.heads if isinstance(heads, _Heads)]
        weights = torch.cat([heads.weights[i] for heads in rates], dim=1)
        biases = torch.cat([heads.biases[i].view(self.repeats, 1, -1) for heads in rates], dim=2)
        inputs = features[..., self.parts[i].slice(self.backbone.dim)].to(weights.dtype)
        return torch.baddbmm(biases, inputs, weights.transpose(1, 2)).unflatten(2, (len(rates), -1))

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        features = self.pool_features(batch)
        outputs = self._embeddings(features)
        # on the meta device nothing is chosen yet, and what will be there counts
        i, rate, method = self._choice()
        with without_autocast(features.device):
            repeated = features.expand(self.repeats, -1, -1)
            scores = [self._scores(repeated, number) for number in range(len(self.parts))]
        for name, (part, number) in self.names().items():
            outputs[name] = scores[part][:, :, number].argmax(dim=-1).T
        if i >= 0:
            outputs[PREFIX] = scores[i][:, :, rate].argmax(dim=-1).T
            linear = method == PREFIX
            embeddings = outputs["embeddings"]
            outputs["logits"] = scores[i][0, :, rate].float() if linear else self._fitted_logits(method, embeddings)
        return outputs

    def _choice(self) -> tuple[int, int, str]:
        """The chosen head's input and rate, counted, -1 where nothing is chosen; which of METHODS gives the logits."""
        if self._exported_choice is not None:
            return self._exported_choice
        if self.chosen.is_meta:  # what will be there has the same shape
            return 0, 0, PREFIX
        method: str = self.classifier
        if method == "best":
            method = PREFIX if self.best is None else list(METHODS)[int(self.best)]
        i, rate = self.chosen.tolist()
        return i, rate, method

    def _fitted_classifier(self, method: str) -> FittedClassifier:
        classifier = self.fitted[method]
        if not isinstance(classifier, FittedClassifier):
            raise TypeError(f"{type(classifier).__name__} is no classifier that a metric fits")
        return classifier

    def _fitted_logits(self, method: str, embeddings: Tensor) -> Tensor:
        """(B, C): of a fitted classifier; a class that it does not know gets the least logit."""
        logits = self._fitted_classifier(method)(embeddings)
        return nn.functional.pad(logits, (0, self.classes - logits.shape[1]), value=LEAST)

    @property
    def predictor(self) -> str:
        if self.chosen.is_meta or (i := int(self.chosen[0])) < 0:
            return ""
        if (method := self._choice()[2]) != PREFIX:
            return self._fitted_classifier(method).name
        name = f"the linear head {self.parts[i].name} at rate {self.rates[int(self.chosen[1])]:g}"
        name += f", the first of its {self.repeats} repeats" if self.repeats > 1 else ""
        if self.best is None and self.classifier == "best":
            name += " (the checkpoint does not say whether k-NN or logistic regression is better: an older version)"
        return name

    def baseline(self, batch: Batch) -> dict[str, Tensor]:
        return self._embeddings(self.pool_features(batch))

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
        fitted = [classifier for classifier in classifiers if isinstance(classifier, FittedClassifier)]
        measured = {classifier.number: classifier for classifier in fitted if classifier.number in numbers}
        if self.classifier not in ("best", PREFIX, *measured):
            raise ToolboxError(
                f"The probe shall predict by {METHODS[self.classifier]}, and no metric of the validation fits it.",
                where="model.classifier",
                hint="Add classification.KNN or classification.LogisticRegression to val_evaluator.",
            )
        winner = choose_method({PREFIX: numbers[best], **{name: numbers[name] for name in measured}})
        kept = {name for name in measured if name in (winner, self.classifier) or name == "logistic"}
        self.fitted = nn.ModuleDict({name: measured[name] for name in sorted(kept)})
        self.best = torch.tensor(list(METHODS).index(winner), device=self.chosen.device)

    def fit_buffers(self, shapes: Mapping[str, torch.Size]) -> None:
        shapes_by_method: dict[str, dict[str, torch.Size]] = {}
        for name, shape in shapes.items():
            if name.startswith("fitted."):
                _, method, part = name.split(".")
                shapes_by_method.setdefault(method, {})[part] = shape
        if "chosen" in shapes:  # a checkpoint of a probe, of whatever version, and not some parts of one
            device, methods = self.chosen.device, sorted(shapes_by_method)
            self.best = torch.zeros((), dtype=torch.long, device=device) if "best" in shapes else None
            fitted = {method: FITTED[method].with_shapes(shapes_by_method[method], device) for method in methods}
            self.fitted = nn.ModuleDict(fitted)
            if self.classifier not in ("best", PREFIX, *methods):
                has = " and ".join(METHODS[name] for name in (PREFIX, *methods))
                raise ToolboxError(
                    f"The checkpoint holds no {METHODS[self.classifier]}, but {has}.",
                    where="model.classifier",
                    hint="A probe keeps k-NN where it is the best, or where the training recipe says classifier='knn'.",
                )

    def in_plain_torch(self) -> list[str]:
        lines = [*self.parts[0].in_plain_torch(), "embedding = F.normalize(x, dim=-1)"]
        i, rate, method = self._choice()
        if i < 0:
            return lines
        if method == PREFIX:
            weights, biases = f'head["heads.{rate}.weights.{i}"]', f'head["heads.{rate}.biases.{i}"]'
            lines += [] if i == 0 else self.parts[i].in_plain_torch()
            return [*lines, f"logits = F.linear(x, {weights}[0], {biases}.view({self.repeats}, -1)[0])"]
        lines += self._fitted_classifier(method).in_plain_torch(f"fitted.{method}", "embedding")
        return [*lines, f"logits = F.pad(logits, (0, {self.classes} - logits.shape[1]), value={LEAST})"]

    def prepare_export(self) -> None:
        if self._choice()[2] == "knn":
            raise ValueError(
                "k-NN looks training embeddings up, which does not translate: choose model.classifier='linear' or "
                "'logistic'"
            )
        self._exported_choice = self._choice()


class _Heads(nn.Module):
    """The heads of one learning rate: for each input (repeats, C, P) weights, and biases, flat, so without decay."""

    def __init__(self, initial_weights: list[Tensor]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for values in initial_weights:
            weight = torch.empty(values.shape)
            weight.copy_(values)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(values.shape[0] * values.shape[1])))
