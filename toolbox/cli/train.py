"""The command `train`: train a recipe, or check it without training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from toolbox.cli.common import (
    add_recipe_arguments,
    expand_arguments,
    load_recipe,
    new_parser,
    prepare_process,
    run_command,
)
from toolbox.cli.processes import run_in_processes
from toolbox.errors import Problem, ToolboxError

LAUNCHERS = ("none", "pytorch", "slurm")  # what toolbox.engine.distributed.rank_info knows

if TYPE_CHECKING:
    from toolbox.engine.distributed.context import DistributedContext
    from toolbox.preflight.plan import Plan


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    expected = make_parser()
    arguments, unknown = expected.parse_known_intermixed_args(expand_arguments(argv))
    if unknown:
        return run_command(lambda: _refuse_unknown(expected, unknown))
    return run_command(lambda: _train(arguments))


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = new_parser("train", "Train a recipe.")
    add_recipe_arguments(parser, optional=True)
    parser.add_argument("--work-dir", metavar="DIR", help="the run's folder (default: work_dirs/<recipe>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="CHECKPOINT",
        help="continue the run in its folder, with its options; a run's folder or checkpoint needs no recipe",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run that the folder holds")
    parser.add_argument(
        "--launcher", choices=LAUNCHERS, help="who started this process (default: torchrun, if it did; else none)"
    )
    parser.add_argument(
        "--track",
        nargs="?",
        const="",
        metavar="PROJECT",
        help="log with Trackio, locally, in a project (default: the recipe's name); `trackio show` displays it",
    )
    parser.add_argument(
        "--overfit",
        type=int,
        metavar="N",
        help="train and evaluate on the same N items, four a class, which a sound recipe learns by heart",
    )
    parser.add_argument("--check", action="store_true", help="print the recipe, its parts and memory, and stop")
    parser.add_argument(
        "--profile",
        nargs="?",
        const=5,
        type=int,
        metavar="STEPS",
        help="profile so many steps (default: 5) after the first few; see the folder's profile/table.txt",
    )
    return parser


def _refuse_unknown(expected: argparse.ArgumentParser, unknown: list[str]) -> NoReturn:
    """Answer arguments that are not ours: some are those of another tool, and have a key here."""
    from toolbox.registry.foreign_keys import load_foreign_keys

    keys = load_foreign_keys().keys
    names = [text.lstrip("-").partition("=")[0].replace("-", "_") for text in unknown if text.startswith("--")]
    foreign = [name for name in names if name in keys]
    if not foreign:
        expected.error(f"unrecognized arguments: {' '.join(unknown)}")
    hint = "What it holds is set by --cfg-options KEY=VALUE; see docs/from_other_scripts.md."
    raise ToolboxError.from_problems(
        [Problem(f"There is no argument '--{name}'. {keys[name].hint}", hint=hint) for name in foreign]
    )


def _train(arguments: argparse.Namespace) -> int:
    from toolbox.cli.resume_options import complete_resume

    if arguments.check:
        prepare_process()
        return _check_recipe(_load_recipe(arguments, complete_resume(arguments)), arguments.device)

    def run(distributed: DistributedContext) -> int:
        from toolbox import api
        from toolbox.cli.tables import print_results
        from toolbox.progress import choose_console

        kept = complete_resume(arguments)
        resume, overwrite = arguments.resume, arguments.overwrite
        if resume is None and distributed.has_begun():  # the launcher has started the run again
            resume, overwrite = True, False
        if kept and distributed.is_main:
            print(f"Kept from the run: {', '.join(kept)}", flush=True)
        results = api.train(
            _load_recipe(arguments, kept),
            out=arguments.work_dir,
            resume=resume,
            overwrite=overwrite,
            device=arguments.device,
            console=choose_console(),
            distributed=distributed,
            profile=arguments.profile,
        )
        if distributed.is_main:
            print_results(results)
            if arguments.overfit is not None:
                print(_judge_overfitting(results, arguments.overfit))
        return 0

    return run_in_processes(run, arguments.launcher, leaves_together=True)


def _load_recipe(arguments: argparse.Namespace, kept: list[str]):
    from toolbox import api
    from toolbox.config.overfit import limit_to_few_items
    from toolbox.config.tracking import add_tracker

    config = load_recipe(arguments, kept)
    if arguments.track is not None:
        add_tracker(config, arguments.track or api.get_recipe_name(config))
    if arguments.overfit is not None:
        limit_to_few_items(config, arguments.overfit, api.get_recipe_name(config))
    return config


def _judge_overfitting(results: Mapping[str, Any], count: int) -> str:
    """Whether a run on few items has learned them by heart, in a sentence."""
    name, value = next(iter(results["after"].items()))
    shown = f"{name} {value:.3f} on the {count} items that it was trained on"
    if results["better"].get(name) == "less":
        return f"Overfitted: {shown}. A number near 0 means that they were learned by heart."
    if value >= 0.9:
        return f"Learned by heart: {shown}. The recipe can learn; what it generalises to is another question."
    return (
        f"Not learned by heart: {shown}. Look for a learning rate that is too low or too high, parts that do not train "
        f"(--check lists them), and items that belong to the wrong label or text."
    )


def _check_recipe(config, device: str | None) -> int:
    from toolbox import api
    from toolbox.cli.tables import print_plan
    from toolbox.config import complete, dump, to_dict

    plan: Plan = api.plan(config, device=device, weights=True)
    if plan.parts:  # with data that are not there yet, the model can still be checked
        print(dump(complete(to_dict(config))))
        print_plan(plan)
    if plan.problems:
        raise ToolboxError.from_problems(plan.problems)
    return 0
