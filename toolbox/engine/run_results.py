"""What a run writes about itself: its recipe and environment, then the entries of train_results.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolbox.base import Dataset, ReportItem
from toolbox.base.scalars import as_plain
from toolbox.engine.checkpoint import run_folder
from toolbox.engine.checkpoint.files import write_json, write_text
from toolbox.engine.descriptions import count_data, describe_data
from toolbox.engine.device import cores, peak_memory
from toolbox.engine.evaluation.before_head import compare_with_head
from toolbox.engine.evaluation.start_comparison import worse_than_start
from toolbox.errors import Problem, ToolboxError

if TYPE_CHECKING:
    from toolbox.engine.setup import RunSetup
    from toolbox.engine.trainer import Trainer


def write_identity(setup: RunSetup) -> None:
    """Write what a run is into its folder, and log what it will train on."""
    if setup.overwrite:
        run_folder.clear(setup.work_dir)
    setup.distributed.begin()
    write_text(setup.work_dir / "config.py", setup.source)
    environment = run_folder.environment(str(setup.device), setup.plugins, setup.overridden)
    write_json(setup.work_dir / "environment.json", environment)
    console = setup.console
    console.log_file = setup.work_dir / "train.log"
    for note in (describe_data(setup.datasets), *setup.dataset.notes(), *setup.sampler.notes()):
        console.info(note)
    workers = setup.settings("train_dataloader.num_workers")
    if workers > cores():
        console.info(f"{workers} data workers share {cores()} cores: fewer may be as fast.")


def write_first_results(run: Trainer) -> None:
    """Write what is known before the first step: the metrics of raw pixels and of the backbone as it was."""
    if run.is_main:
        results = {"pixels": run.progress.pixels or None, "before": run.progress.before or None}
        write_json(run.work_dir / "train_results.json", results)


def write_results(run: Trainer, after: dict[str, float] | None) -> dict[str, Any]:
    """Collect the results of a run that has ended, with those of its hooks, and write them; returns them.

    - `after`: the metrics of what was trained, on the test set, else on the validation set.

    Raises ToolboxError, once the file is written, for hooks whose entries JSON cannot hold.
    """
    worse = worse_than_start(run.progress.start, run.progress.best, run.better, run.config)
    if worse:
        run.warn(worse)
    results, problems = _collect(run, after), []
    recipe_hooks = {id(hook): number for number, hook in enumerate(run.setup.hooks)}
    for hook in run.hooks:
        try:
            results = as_plain(dict(hook.on_run_end(run, results))) | results
        except (TypeError, ValueError) as error:
            message = f"{type(hook).__name__}.on_run_end gives what JSON cannot hold: {error}."
            where = f"custom_hooks.{recipe_hooks.get(id(hook), '')}"
            problems.append(Problem(message, where, "Return numbers, text, lists and dicts."))
    results.setdefault("wise_ft", None)
    if run.is_main:
        write_json(run.work_dir / "train_results.json", results)
    if problems:
        raise ToolboxError.from_problems(problems)
    return results


def _collect(run: Trainer, after: dict[str, float] | None) -> dict[str, Any]:
    setup, target = run.setup, run.setup.final
    skip_counter = setup.train_step.skip_counter
    return run.progress.results() | {
        "after": after,
        "better": (target.better or run.progress.better) if target else {},
        "settings": target.settings if target else [],
        "before_head": _evaluate_before_head(run, after),
        "steps": run.step,
        "peak_memory_bytes": peak_memory(setup.device),
        "precision": setup.precision.name,
        "eval_precision": setup.eval_precision.name,
        "device": str(setup.device),
        "processes": run.distributed.world_size,
        "threads": setup.threads,
        "unreadable_items": len(setup.bad_items.found),
        "cut_texts": run.progress.cut_texts,
        "skipped_steps": skip_counter.count if skip_counter else 0,
        "features": setup.feature_cache.results() if setup.feature_cache else None,
        "data": count_data(setup.datasets),
    }


def _evaluate_before_head(run: Trainer, after: dict[str, float] | None) -> dict[str, float] | None:
    """The metrics of the trained features before the head; None where they are those of `after`, or there is none."""
    setup = run.setup
    if not (after and setup.final and setup.settings("evaluate_features") and run.model.predicts_through_head):
        return None
    target = setup.final.with_new_metrics()
    chosen = run.evaluator.choose_baseline(target)
    features = run.evaluator.evaluate_or_leave(target, "baseline", chosen=chosen)
    run.info(compare_with_head(features, after, target.better))
    return features or None


def collect_report_items(run: Trainer, results: dict[str, Any]) -> tuple[Dataset, list[ReportItem]] | None:
    """What the last evaluation of a run shows beyond numbers, with the dataset that its indices are of.

    - `results`: what `write_results` returned.
    """
    target = run.setup.final
    if target is None:
        return None
    items = [item for hook in run.setup.hooks for item in hook.report_items(results)]
    items += [item for metric in target.metrics for item in metric.report_items(target.dataset)]
    items += [item for hook in run.engine_hooks for item in hook.report_items(results)]
    return target.dataset, items
