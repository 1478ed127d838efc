"""Run a model over a dataset and let metrics judge."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from toolbox.base import Batch, Dataset, Metric, get_dist_info
from toolbox.base.functional import gather_integers
from toolbox.base.scalars import as_numbers
from toolbox.engine.classes import label_problems
from toolbox.engine.data.bad_items import AUDIT, check_share
from toolbox.engine.data.batch_builder import InputSpec, select_inputs
from toolbox.engine.evaluation.metric_texts import encode_texts
from toolbox.engine.inference import run_over, unwrap
from toolbox.engine.precision import Precision
from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import Device
from toolbox.registry import build

if TYPE_CHECKING:
    from toolbox.engine.feature_extraction.feature_cache import FeatureCache


class Evaluator:
    """A dataset with its metrics, ready to be evaluated.

    - `loader`: the recipe's `val_dataloader` or `test_dataloader`; `evaluator`: its metrics.
    - `training`: the recipe's `train_dataloader`, for metrics that learn from the training set.
    - `name`: "val" or "test", for messages.
    - `training_data`: the dataset of `training` where it is made already; else it is made on first use, and kept.
    - `trained_items`: how many of its items the model was trained on, as far as known; counted in the numbers.
    - `active_metrics`: those of the last evaluation; `left_out`: what the others missed in a "baseline"; `remarks`:
      sentences that belong to the numbers.
    """

    def __init__(
        self, loader: dict[str, Any], evaluator: list[dict] | dict, *, name: str, training: dict[str, Any] | None = None
    ) -> None:
        self.name, self.loader, self.training = name, loader, training
        self.training_data: Dataset | None = None
        self.trained_items = 0
        self.dataset: Dataset = build(loader["dataset"], "dataset", where=f"{name}_dataloader.dataset")
        self.evaluator = evaluator if isinstance(evaluator, list) else [evaluator]
        self._build_metrics()

    def _build_metrics(self) -> None:
        self.better: dict[str, str] = {}
        self.metrics: list[Metric] = [
            build(metric, "metric", where=f"{self.name}_evaluator.{index}")
            for index, metric in enumerate(self.evaluator)
        ]
        self.active_metrics = self.metrics
        self.left_out: list[Problem] = []
        self.remarks: list[str] = []
        self.classifiers: list[nn.Module] = []
        self.share(getattr(self, "shared", {}))

    def with_new_metrics(self) -> Evaluator:
        """The same data with metrics that have seen nothing: what the present ones have seen stays for the report."""
        other = copy.copy(self)
        other._build_metrics()
        return other

    def without_learning(self) -> Evaluator:
        """The same without the metrics that must see the training set."""
        other = copy.copy(self)
        other.metrics = other.active_metrics = [metric for metric in self.metrics if not metric.wants_training()]
        return other

    @classmethod
    def of(cls, recipe: dict[str, Any], name: str) -> Evaluator:
        """The "val" or "test" set of a complete recipe, which has such a dataloader; maybe without metrics."""
        loader, evaluator = recipe[f"{name}_dataloader"], recipe[f"{name}_evaluator"]
        return cls(loader, evaluator or [], name=name, training=recipe["train_dataloader"])

    def share(self, shared: dict[str, Any]) -> None:
        """Give the metrics the dictionary that those of other sets have: what they learn is then kept once."""
        self.shared = shared
        for metric in self.metrics:
            metric.share(shared)

    @property
    def settings(self) -> list[str]:
        """Names of the numbers that are settings chosen by a metric, and no measurements."""
        return [name for metric in self.metrics for name in metric.settings]

    @property
    def learning(self) -> list[Metric]:
        """The metrics that must see the training set."""
        return [metric for metric in self.active_metrics if metric.wants_training()]

    def evaluate(
        self,
        model: nn.Module,
        inputs: dict[str, InputSpec],
        device: Device,
        precision: Precision,
        *,
        mode: str = "predict",
        stop: Callable[[], bool] = lambda: False,
        feature_cache: FeatureCache | None = None,
        chosen: Mapping[str, float] | None = None,
    ) -> dict[str, float] | None:
        """The metrics' numbers; None if `stop` said so between two batches.

        - `mode`: "predict", or "baseline" for the backbone alone: metrics that miss something in its outputs are then
          left out, and where all of them do, there are no numbers.
        - `feature_cache`: where features are stored; None reads all inputs.
        - `chosen`: on a test set, the numbers of the validation that chose settings such as the k of k-NN.

        Of a model that reads modalities alone, only the inputs that the items bring are computed. The texts that
        metrics ask for are encoded first.

        Unreadable items under 'skip' are counted as "unreadable_items" in the result, texts that are longer than the
        model reads as "cut_texts", and items that the model was trained on as "trained_items". Metrics that learn from
        the training set see it first, without augmentation; once, where the model's embeddings do not change.
        """
        for metric in self.metrics:
            metric.reset()
            metric.chooses, metric.chosen = self.name == "val", chosen
        self.classifiers = []
        self.active_metrics, self.left_out, self.remarks = self.metrics, [], []
        was_training, bad, cut = model.training, 0, 0
        alone = getattr(unwrap(model), "reads_modalities_alone", False)
        passes = [(self.dataset, self.loader, self.name)]
        if not self._has_learned(model):
            passes.insert(0, (self.training_set(), self.training or {}, "train"))
        model.eval()
        try:
            with torch.no_grad():  # inference mode would leave tensors behind that sharded training cannot use
                self.set_texts(lambda texts: encode_texts(model, texts, inputs, device, precision, mode, alone=alone))
                for dataset, loader, name in passes:
                    batches = run_over(
                        model,
                        dataset,
                        select_inputs(inputs, dataset, reads_modalities_alone=alone),
                        device,
                        precision,
                        mode=mode,
                        batch_size=self.loader.get("batch_size") or 64,
                        workers=loader.get("num_workers", 2),
                        prefetch=loader.get("prefetch_factor", 2),
                        where=f"{name}_dataloader",
                        skip_bad=loader.get("on_bad_item", "raise") == "skip",
                        stored=feature_cache.of(loader) if feature_cache else {},
                    )
                    counted = self._show_batches(batches, dataset, loader, name=name, mode=mode, stop=stop)
                    if counted is None:
                        return None if self.active_metrics else {}
                    bad, cut = counted
                    if name == "train":
                        self.shared["learned of"] = model
        finally:
            model.train(was_training)
        if get_dist_info()[1] > 1:
            everyone = gather_integers(bad, cut, device=torch.device(str(device)))
            bad, cut = (sum(counts) for counts in zip(*everyone, strict=True))
            check_bad(bad, self.dataset, self.loader, self.name)
        numbers = self._compute_metrics()
        self._end_learning(model)
        trained = self.trained_items if mode == "predict" else 0
        counts = {"unreadable_items": bad, "cut_texts": cut, "trained_items": trained}
        return numbers | {name: count for name, count in counts.items() if count}

    def _show_batches(
        self,
        batches: Iterable[tuple[Batch, dict[str, Tensor] | None, bool]],
        dataset: Dataset,
        loader: dict[str, Any],
        *,
        name: str,
        mode: str,
        stop: Callable[[], bool],
    ) -> tuple[int, int] | None:
        """Show the metrics what the model gave of a dataset; returns the numbers of unreadable items and of cut texts.

        None where `stop` said so, or where no metric can use what the model gives.
        """
        bad, cut, is_first = 0, 0, True
        for batch, outputs, is_own in batches:
            if stop():
                return None
            bad += len(batch.bad) if is_own else 0
            cut += sum(batch.cut.values()) if is_own else 0
            check_bad(bad, dataset, loader, name)
            if outputs is None:
                continue
            if is_first:  # at once, not when everything is embedded
                self._choose_metrics(outputs, mode)
                is_first = False
            if not self.active_metrics:
                return None
            if is_own and len(batch):
                self._update_metrics(outputs, batch, training=name == "train")
        return bad, cut

    def _update_metrics(self, outputs: dict[str, Tensor], batch: Batch, *, training: bool) -> None:
        for metric in self.learning if training else self.active_metrics:
            self._call_metric(metric.fit if training else metric.update, outputs, batch)

    def _compute_metrics(self) -> dict[str, float]:
        """The numbers of all metrics; raises ToolboxError where two have one name."""
        numbers: dict[str, float] = {}
        directions: dict[str, str] = {}
        for metric in self.active_metrics:
            values = _agreed(metric, _numbers(metric, self._call_metric(metric.compute), self.name), self.name)
            if twice := sorted(values.keys() & numbers.keys()):
                raise ToolboxError(
                    f"Two metrics give the same numbers: {', '.join(twice)}.",
                    where=f"{self.name}_evaluator",
                    hint="Remove one of them.",
                )
            numbers |= values
            directions |= {name: self._call_metric(metric.direction, name) for name in values}
            self.remarks += metric.remarks()
        # in the order of the numbers, of which "auto" is the first; a new dictionary: copies of this set keep theirs
        self.better = directions | self.better
        return numbers

    def _has_learned(self, model: nn.Module) -> bool:
        """Whether the metrics need not see the training set (again); else what they know of one is dropped."""
        if not self.learning:
            return True
        if self.shared.get("learned of") is model and all(metric.keeps_learned for metric in self.learning):
            return True
        self._forget()
        return False

    def _end_learning(self, model: nn.Module) -> None:
        """Keep what was learned for the next evaluation where it will be the same, and what was fitted to it."""
        if getattr(unwrap(model), "fixed_embeddings", False):
            fitted = [metric.classifier() for metric in self.active_metrics]
            self.classifiers = [classifier for classifier in fitted if classifier is not None]
        else:
            self._forget()

    def _forget(self) -> None:
        self.shared.pop("learned of", None)
        for metric in self.metrics:
            metric.forget()

    def training_set(self) -> Dataset:
        """The training set, as it is, made once. Raises ToolboxError where there is none."""
        if self.training_data is not None:
            return self.training_data
        if self.training is None:
            raise ToolboxError(
                "A metric learns from the training set, and there is none.",
                where=f"{self.name}_evaluator",
                hint="Give a train_dataloader.",
            )
        self.training_data = build(self.training["dataset"], "dataset", where="train_dataloader.dataset")
        return self.training_data

    def _choose_metrics(self, outputs: dict[str, Tensor], mode: str) -> None:
        """Leave out metrics that a "baseline" has no outputs for. Raises ToolboxError where others miss some."""
        self.left_out = self.missing(outputs)
        if self.left_out and mode != "baseline":
            raise ToolboxError.from_problems(self.left_out)
        self.active_metrics = [metric for metric in self.metrics if not metric.check_outputs(outputs)]

    def set_texts(self, encode: Callable[[Sequence[str]], Tensor | None]) -> None:
        """Give each metric that asks for texts their embeddings, (N, D), as `encode` makes them; None if it cannot."""
        for metric in self.metrics:
            texts = self._call_metric(metric.list_texts, self.dataset)
            metric.text_embeddings = encode(texts) if texts else None

    def missing(self, outputs: dict[str, Tensor]) -> list[Problem]:
        """What the metrics miss in a model's outputs."""
        return [
            problem.with_prefix(f"{self.name}_evaluator.{index}")
            for index, metric in enumerate(self.metrics)
            for problem in metric.check_outputs(outputs)
        ]

    def _call_metric(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call a metric; a ValueError becomes a ToolboxError that names its place."""
        try:
            return action(*arguments)
        except ValueError as error:
            raise ToolboxError(str(error), where=f"{self.name}_evaluator") from error

    def problems(self) -> list[Problem]:
        """What the dataset and the metrics find wrong before anything runs."""
        if problems := self.dataset.check() or label_problems(self.dataset):
            return [problem.with_prefix(f"{self.name}_dataloader.dataset") for problem in problems]
        return [
            problem.with_prefix(f"{self.name}_evaluator.{index}")
            for index, metric in enumerate(self.metrics)
            for problem in [*_check_direction(metric), *metric.check(self.dataset)]
        ]


def _check_direction(metric: Metric) -> list[Problem]:
    try:
        for name in metric.names() or [""]:
            metric.direction(name)
    except ValueError as error:
        return [Problem(f"{error}.")]
    return []


def check_bad(bad: int, dataset: Dataset, loader: dict[str, Any], name: str) -> None:
    """Raise ToolboxError when more items were unreadable than the recipe allows."""
    hint = f"Mend the files, or raise max_bad_share. {AUDIT}."
    check_share(bad, loader, len(dataset), where=f"{name}_dataloader", hint=hint)


def _numbers(metric: Metric, values: Any, name: str) -> dict[str, float]:
    """What a metric computed, as plain numbers. Raises ToolboxError, naming the metric, where it is anything else."""
    who, where = type(metric).__name__, f"{name}_evaluator"
    if not isinstance(values, Mapping):
        message = f"{who}.compute gives a {type(values).__name__}, and {{name: number}} is needed."
        raise ToolboxError(message, where=where, hint="Return a dict of numbers.")
    try:
        return as_numbers(values)
    except ValueError as error:
        raise ToolboxError(f"{who}.compute gives {error}.", where=where, hint="Return a dict of numbers.") from error


def _agreed(metric: Metric, numbers: dict[str, float], name: str) -> dict[str, float]:
    """A metric's numbers as the main process has them, so that all decide alike.

    Raises ToolboxError where another process has found others: the metric has not gathered what it saw.
    """
    processes = get_dist_info()[1]
    if processes == 1:
        return numbers
    everyone: list[Any] = [None] * processes
    dist.all_gather_object(everyone, numbers)
    main = everyone[0]
    for other, theirs in enumerate(everyone):
        if theirs.keys() != main.keys():
            different = sorted(theirs.keys() ^ main.keys())
        else:
            different = [
                key
                for key in main
                if not math.isclose(main[key], theirs[key], rel_tol=1e-4, abs_tol=1e-6)
                and not (math.isnan(main[key]) and math.isnan(theirs[key]))
            ]
        if different:
            raise ToolboxError(
                f"{type(metric).__name__} gives another '{different[0]}' in process {other} than in process 0.",
                where=f"{name}_evaluator",
                hint="A metric gathers what it has seen before it computes: toolbox.base.gather.",
            )
    return main
