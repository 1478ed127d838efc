"""WiSE-FT: a mix of pretrained and fine-tuned weights, chosen on the validation set.

Wortsman et al. 2022, arXiv:2109.01903: theta(alpha) = (1 - alpha) theta_pretrained + alpha theta_trained. What is newly
trained, heads and losses, stays as it is. An adapter W + s B A is mixed exactly by multiplying B by alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolbox.base import Backbone, Curve, Hook, Model, ReportItem, Run
from toolbox.engine.assemble import pretrained
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.console import shown
from toolbox.engine.distributed.tensors import placed_like, whole
from toolbox.engine.norm_statistics import estimate_norm_statistics
from toolbox.engine.parts import adapted, backbones, left_out
from toolbox.engine.run_state import manifest_entries
from toolbox.errors import Problem, ToolboxError

if TYPE_CHECKING:
    from toolbox.engine.trainer import Trainer


class WiseFT(Hook):
    """Gives the trained model the mix with its pretrained weights that validates best, as `train_cfg.wise_ft` says.

    The mix is saved in the folder `wise_ft` of the run, `trainer`, beside the checkpoints.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.mixed: dict[str, Any] | None = None
        self._curves: list[ReportItem] = []

    def choose_weights(self, run: Run) -> tuple[str, dict[str, float]] | None:
        setup, best = self.trainer.setup, self.trainer.progress.best
        val = setup.val
        if val is None:
            return None
        alpha, metrics_of = mix(
            run.model,
            lambda names: pretrained(setup.recipe, setup.classes, names),
            setup.settings("train_cfg.wise_ft.alphas"),
            known={1.0: best["metrics"]} if best else {},
            judge=lambda: self.trainer.evaluator.evaluate_or_leave(val),
            log=run.info,
            metric=lambda metrics: setup.settings.best_metric(metrics, val.better),
            estimate=lambda: estimate_norm_statistics(setup),
        )
        checkpoints.write(
            run.work_dir / checkpoints.WISE_FT,
            best["step"] if best else run.step,
            run.model,
            None,
            recipe=setup.recipe,
            extra=manifest_entries(self.trainer) | {"wise_ft": {"alpha": alpha}},
            classes=setup.class_names,
            trained=setup.trained_items,
            distributed=setup.distributed,
        )
        self._curves = [curve(metrics_of)]
        self.mixed = {"alpha": alpha, "val": {f"{tried:g}": metrics for tried, metrics in metrics_of.items()}}
        return f"mix with alpha {alpha:g}", metrics_of[alpha]

    def on_run_end(self, run: Run, results: dict[str, Any]) -> dict[str, Any]:
        return {"wise_ft": self.mixed}

    def report_items(self, results: dict[str, Any]) -> list[ReportItem]:
        return self._curves


class Interpolation:
    """Sets a trained model to any mix with its pretrained weights.

    - `model`: holds the trained weights; each backbone with pretrained weights is mixed.
    - `pretrained`: names of tensors -> their pretrained values, asked for once and only if some are needed.
    """

    def __init__(self, model: Model, pretrained: Callable[[set[str]], dict[str, Tensor]]) -> None:
        self.model = model
        self._adapters = {
            path: {name: tensor.clone() for name, tensor in backbone.adapter.state_dict().items()}
            for path, backbone in adapted(model).items()
            if path in _mixed(model)
        }
        names = tensors_to_mix(model)
        state = model.state_dict()
        # in one order everywhere, as processes gather them together
        self._trained = {name: whole(state[name].detach()).cpu().clone() for name in sorted(names)}
        self._pretrained = pretrained(names) if names else {}
        missing = sorted(names - self._pretrained.keys())
        if missing:
            raise ToolboxError(
                f"The pretrained model has no {', '.join(missing[:3])} ({len(missing)} in all).",
                where="train_cfg.wise_ft",
            )

    def set(self, alpha: float) -> None:
        """Give the model `alpha` of the trained weights; 0 and 1 are exact."""
        state = self.model.state_dict()
        with torch.no_grad():
            for name, trained in self._trained.items():
                before = self._pretrained[name].to(trained)
                # what is equal stays so, infinities included
                mixed = torch.where(before == trained, trained, torch.lerp(before, trained, alpha))
                state[name].copy_(placed_like(mixed, state[name]))
            for path, adapter in self._adapters.items():
                backbone = adapted(self.model)[path]
                backbone.adapter.load_state_dict(adapter)
                backbone.adapter.scale(alpha)


def mix(
    model: Model,
    pretrained: Callable[[set[str]], dict[str, Tensor]],
    alphas: list[float],
    *,
    known: dict[float, dict[str, float]],
    judge: Callable[[], dict[str, float]],
    metric: Callable[[dict[str, float]], tuple[str, bool]],
    log: Callable[[str], None],
    estimate: Callable[[], None] = lambda: None,
) -> tuple[float, dict[float, dict[str, float]]]:
    """Give a model the mix that is judged best; returns its alpha, and the numbers by alpha.

    - `pretrained`: as of `Interpolation`; `known`: numbers that need not be judged again.
    - `judge`: the numbers of the model as it is; `metric`: which of them counts, and whether greater is better.
    - `estimate`: gives batch norms that train the statistics of the weights that the model holds.
    """

    def set_to(alpha: float) -> None:
        interpolation.set(alpha)
        if 0 < alpha < 1:  # at the ends they are known
            estimate()

    interpolation = Interpolation(model, pretrained)
    found = {}
    for alpha in sorted(map(float, alphas)):
        set_to(alpha)
        found[alpha] = known.get(alpha) or judge()
        log(f"wise_ft alpha {alpha:g} val: {shown(found[alpha])}")
    chosen = best_alpha(found, *metric(found[1.0]))
    set_to(chosen)
    return chosen, found


def best_alpha(found: dict[float, dict[str, float]], metric: str, greater: bool) -> float:
    """The alpha with the best value of a metric, of equal ones the greatest: nearest to what was trained."""

    def rank(alpha: float) -> tuple[float, float]:
        value = found[alpha][metric] * (1 if greater else -1)
        return (value if math.isfinite(value) else -math.inf, alpha)

    return max(found, key=rank)


def curve(found: dict[float, dict[str, float]]) -> Curve:
    """The validation numbers over alpha, for a report."""
    names = next(iter(found.values()))
    series = {name: [(alpha, numbers[name]) for alpha, numbers in sorted(found.items())] for name in names}
    note = "Mixes of the pretrained (0) and the trained (1) backbone, on the validation set."
    return Curve("WiSE-FT", series, "share of the trained weights", "metric", note=note)


def tensors_to_mix(model: Model) -> set[str]:
    """Names of what a checkpoint holds of pretrained backbones, adapters aside: trained weights and statistics."""
    prefixes, skip = tuple(f"{path}." if path else "" for path in _mixed(model)), left_out(model)
    return {
        name
        for name, tensor in model.state_dict().items()
        if prefixes and name.startswith(prefixes) and name not in skip and tensor.is_floating_point()
    }


def problems(recipe: dict[str, Any], model: Model) -> list[Problem]:
    """What is wrong with `train_cfg.wise_ft`, for a tuned model, which may be on torch's meta device."""
    setting = recipe["train_cfg"]["wise_ft"]
    if setting is None:
        return []
    where, alphas = "train_cfg.wise_ft", setting["alphas"]
    found = []
    if not (recipe["val_dataloader"] and recipe["val_evaluator"]):
        hint = "Set val_dataloader and val_evaluator, or remove wise_ft."
        found.append(Problem("The mix is chosen on the validation set, and there is none.", where, hint))
    outside = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if outside:
        found.append(Problem(f"An alpha lies between 0 and 1, and {outside[0]:g} does not.", f"{where}.alphas"))
    elif 1.0 not in alphas or len(set(alphas)) < 2:
        message = "alphas hold 1.0, the trained weights themselves, and at least one other."
        found.append(Problem(message, f"{where}.alphas", "Try [0.0, 0.25, 0.5, 0.75, 1.0]."))
    mixed = _mixed(model)
    if not mixed:
        found.append(
            Problem(
                "It mixes pretrained with trained weights, and no backbone has both.",
                where,
                "Give the backbone pretrained weights and a tune that trains, or remove wise_ft.",
            )
        )
    for path, backbone in mixed.items():
        if backbone.adapter is not None and not hasattr(backbone.adapter, "scale"):
            message = f"The adapter of model.{path} cannot be scaled, so it cannot be mixed."
            found.append(Problem(message, where, "Give it a method scale(factor), or remove wise_ft."))
    return found


def _mixed(model: Model) -> dict[str, Backbone]:
    """Backbones with pretrained weights of which something trains."""
    return {
        path: backbone
        for path, backbone in backbones(model).items()
        if backbone.weights_id is not None and not backbone.frozen
    }
