"""A run as `toolbox.train` makes it: what the recipe needs first, the run itself, its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox import prerequisites
from toolbox.config import complete, dump, validate
from toolbox.planning import adapt, get_recipe_name, locate_error, make_plain, plan_run, set_device
from toolbox.results import TrainResults

if TYPE_CHECKING:
    from toolbox.engine.console import Console
    from toolbox.engine.distributed.context import DistributedContext


def train_recipe(
    config: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    resume: bool | str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    console: Console | None = None,
    profile: int | None = None,
    distributed: DistributedContext | None = None,
) -> TrainResults:
    """Train a loaded recipe; arguments as of `toolbox.train`."""
    from toolbox.engine.descriptions import describe_task
    from toolbox.engine.distributed.context import SINGLE_PROCESS
    from toolbox.engine.run_results import collect_report_items
    from toolbox.engine.setup import set_up
    from toolbox.engine.speed import explained
    from toolbox.engine.trainer import Trainer
    from toolbox.progress import choose_console
    from toolbox.report import save_report_items, write_report

    distributed, console = distributed or SINGLE_PROCESS, console or choose_console()
    with locate_error(config):
        is_valid = make_prerequisites(config, device, console, distributed)
    recipe, plan, dry_run = plan_run(config, device, is_valid=is_valid)
    for note in adapt(config) if distributed.is_main else ():
        console.info(note)
    if resume is None:
        resume = recipe["resume"] and not overwrite
    folder = Path(out).expanduser() if out else prerequisites.get_run_folder(recipe, get_recipe_name(config))
    recipe["work_dir"] = str(folder)
    with locate_error(config):
        if distributed.is_main:
            task = describe_task(recipe, ["train"], distributed.rank_info)
            console.info(f"Training {get_recipe_name(config)}: {task}, into {folder}")
        setup = set_up(
            recipe,
            folder,
            source=dump(recipe),
            resume=resume,
            overwrite=overwrite,
            console=console,
            distributed=distributed,
            idle=plan.idle != [],
            dataset=dry_run.dataset,
            evaluators=dry_run.evaluators,
            structure=dry_run.model,
            overridden=sorted(getattr(config, "overridden", ())),
        )
        trainer = Trainer(setup, profile=profile)
        with explained():
            results = trainer.run()
        if trainer.is_main:
            report_items = collect_report_items(trainer, results)
            results["report"] = str(write_report(folder, results, report_items))
            save_report_items(folder, report_items[1] if report_items else [])
    return TrainResults(results, folder)


def make_prerequisites(
    config: Mapping[str, Any], device: str | None, console: Console, distributed: DistributedContext
) -> bool:
    """Make what a valid recipe needs first, its data and the run that it starts from; returns whether it is valid."""
    from toolbox.engine.device import choose_device

    recipe = make_plain(config)
    if validate(recipe):
        return False
    if recipe.get("prepare"):
        name = set_device(complete(recipe), device)["env_cfg"]["device"]
        distributed.start(choose_device(name, distributed.rank_info))
        prerequisites.prepare_data(recipe, console, distributed)
    prerequisites.train_start(recipe, train_recipe, device=device, console=console, distributed=distributed)
    return True
