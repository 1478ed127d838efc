"""The public functions: what the command line calls, and what a notebook does.

For example:

    import toolbox
    results = toolbox.train("dinov3_folder", data="my_pictures", model="vits16", out="runs/a")
    encoder = results.load()  # later: toolbox.load("runs/a")
    embeddings = encoder.encode_image(["chair.jpg", "sofa.jpg"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox import config as recipes
from toolbox.config import apply_changes, dump, get_places, set_metric_arguments, to_dict, validate  # noqa: F401
from toolbox.errors import Problem, ToolboxError
from toolbox.planning import adapt, get_recipe_name, locate_error, locate_problems, make_plain, make_runnable, plan  # noqa: F401
from toolbox.registry import ComponentEntry, get_catalog, get_provenance
from toolbox.registry import build as build_component
from toolbox.results import TrainResults

if TYPE_CHECKING:
    from toolbox.base import LoadedModel
    from toolbox.config import Config
    from toolbox.engine.console import Console
    from toolbox.engine.distributed.context import DistributedContext
    from toolbox.inference.checkpoint_evaluation import Evaluation

__all__ = ["build", "check_config", "evaluate", "export", "extract", "list_components", "load", "load_config", "train"]


def list_components(kind: str | None = None) -> list[ComponentEntry]:
    """The components that can be named in a recipe, of one kind or of all."""
    return get_catalog().find(kind)


def load_config(
    path: str | Path,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    plugins: Iterable[str] = (),
    *,
    data: str | Path | None = None,
    model: str | Path | None = None,
) -> Config:
    """Load a recipe.

    - `path`: a file; or the name of a recipe that is installed: `dinov3_sop`, or `namespace:recipe` of a plugin.
    - `overrides`: changes, `{"a.b": value}`, or strings `"a.b=value"` as the command line takes them.
    - `plugins`: local plugins to load, beside those that the recipe names: Python files or modules.
    - `data`: the training data, a folder or a name: the value of the key that the recipe's `arguments.data` names.
    - `model`: the encoder, a name, an id or a folder: the value of the key that `arguments.model` names. Where the
      recipe's component has none of that name, the first one that has takes its place.

    A recipe is Python, and runs; config.py in the folder of a run is read as data. Raises ToolboxError for a missing
    file (with the nearest names), a syntax error, a reference that leads nowhere, or a `data` or `model` that the
    recipe does not take.
    """
    overrides, plugins = overrides if isinstance(overrides, Mapping) else list(overrides), list(plugins)
    config = recipes.load_config(path, overrides, plugins)
    if data is None and model is None:
        return config
    from toolbox.recipe_arguments import make_overrides

    added = make_overrides(config, data=data, model=model)
    pairs = overrides if isinstance(overrides, Mapping) else (text.partition("=")[::2] for text in overrides)
    return recipes.load_config(path, dict(pairs) | added, plugins)


def build(config: Mapping[str, Any]) -> Any:
    """The object that a component's dict describes; for a whole recipe its model, without pretrained weights.

    Raises ToolboxError for an unknown name, argument or value.
    """
    recipe = make_plain(config)
    if "type" in recipe:
        return build_component(recipe)
    if "model" not in recipe:
        raise ToolboxError("This is neither a component, with a `type`, nor a recipe, with a `model`.")
    return build_component(recipe["model"], "model", where="model")


def check_config(config: Mapping[str, Any], *, data: bool = True) -> list[Problem]:
    """All that is wrong with a recipe: names, keys, arguments, structure, missing data; empty when it can run.

    No weight is loaded and nothing is written. `data=False` leaves the datasets aside.
    """
    return plan(config, data=data).problems


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    data: str | Path | None = None,
    model: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    plugins: Iterable[str] = (),
    resume: bool | str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    console: Console | None = None,
    profile: int | None = None,
    distributed: DistributedContext | None = None,
) -> TrainResults:
    """Train a recipe and evaluate it before and after.

    - `recipe`, `data`, `model`, `overrides`, `plugins`: as of `load_config`; or a loaded recipe, which has them.
    - `out`: the run's folder; default: the recipe's `work_dir`, or `work_dirs/<name of the recipe>`.
    - `resume`: True for the newest whole checkpoint in `out`, or a checkpoint's path; default: the recipe's.
    - `overwrite`: replace a run that `out` holds.
    - `device`: "auto", "cpu", "cuda:1" ...; default: the recipe's.
    - `console`: where messages go; default: a bar on a terminal, else lines on standard output.
    - `profile`: after a few steps to warm up, profile so many and write `profile/` into the run's folder.
    - `distributed`: the processes that train together, of which this is one; default: this one alone.

    Returns what `train_results.json` holds, as a dict with paths, tables and the trained model (`load()`). Raises
    ToolboxError with every problem of the recipe before anything is loaded or written.
    """
    from toolbox.training import train_recipe

    if profile is not None and profile < 1:
        raise ToolboxError(f"profile takes a number of steps from 1 up, not {profile}.")
    if resume and overwrite:
        raise ToolboxError("resume continues a run and overwrite replaces it: give one of them.")
    if isinstance(recipe, str | Path):
        config: Mapping[str, Any] = load_config(recipe, overrides, plugins, data=data, model=model)
    else:
        config = recipe
        arguments = {"overrides": overrides, "plugins": plugins, "data": data, "model": model}
        if names := [name for name, value in arguments.items() if value]:
            raise ToolboxError(
                f"This recipe is loaded already: it takes no {' and no '.join(names)}.",
                hint="Give them to load_config, or name the recipe here.",
            )
    return train_recipe(
        config,
        out=out,
        resume=resume,
        overwrite=overwrite,
        device=device,
        console=console,
        profile=profile,
        distributed=distributed,
    )


def evaluate(
    config: Mapping[str, Any],
    checkpoint: str | Path | None = None,
    *,
    split: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    metrics: Mapping[str, Any] | Sequence[str] | None = None,
    out: str | Path | None = None,
    log: Callable[[str], None] = lambda text: None,
    distributed: DistributedContext | None = None,
    on_start: Callable[[str], None] = lambda text: None,
) -> dict[str, float]:
    """Metrics of a checkpoint, or without one of the recipe's backbone as it comes (zero-shot, no new head).

    - `split`: "test" or "val"; default: "test" where the recipe has one, else "val".
    - `precision`: "fp32", "bf16" or "fp16"; default: the recipe's `env_cfg.eval_precision`, else that in which the run
      of the checkpoint was evaluated, so that a checkpoint has one number.
    - `metrics`: arguments for every metric of the recipe that has them, e.g. `{"intervals": 1000}`, or strings
      "intervals=1000" as the command line takes them.
    - `out`: a folder for test_results.json, report_items.json and report.html: new, empty, or of an earlier evaluation.
    - `log`: called with sentences that whoever reads the numbers should know, e.g. what a whitening is learned from.
    - `on_start`: called once, when nothing is wrong, with a sentence that says which data, model and device are used.
    - `distributed`: the processes that evaluate together; default: this one alone. The numbers are those of one
      process; the main one writes and calls `log`.

    Raises ToolboxError with every problem of the recipe before anything is loaded or written.
    """
    from toolbox.engine.descriptions import describe_task
    from toolbox.engine.distributed.context import SINGLE_PROCESS
    from toolbox.inference import checkpoint_evaluation, results_folder

    distributed = distributed or SINGLE_PROCESS
    log, on_start = (log, on_start) if distributed.is_main else (lambda text: None,) * 2
    folder, recipe, is_new = Path(out).expanduser() if out and distributed.is_main else None, make_plain(config), False
    try:
        with locate_error(config):
            if metrics:
                if problems := validate(recipe):
                    raise ToolboxError.from_problems(problems)
                split = checkpoint_evaluation.split_of(recipe, split)
                for name, paths in set_metric_arguments(recipe, split, metrics).items():
                    if len(paths) > 1:
                        log(f"{name} is set in {', '.join(paths)}.")
            recipe = make_runnable(recipe, device, training=False)
            for note in adapt(config):
                log(note)
            if folder is not None:
                is_new = results_folder.claim_folder(folder)
            task = describe_task(recipe, [checkpoint_evaluation.split_of(recipe, split)], distributed.rank_info)
            on_start(f"Evaluating {checkpoint or 'the backbone as it comes'}: {task}")
            evaluation = checkpoint_evaluation.evaluate(
                recipe, checkpoint, split, log, precision=precision, distributed=distributed
            )
            if folder is not None:
                _write_evaluation(folder, recipe, evaluation)
    finally:
        if is_new and folder is not None:
            results_folder.release_folder(folder)
    return evaluation.metrics


def _write_evaluation(folder: Path, recipe: dict[str, Any], evaluation: Evaluation) -> None:
    from toolbox.engine.checkpoint.files import write_json, write_text
    from toolbox.engine.checkpoint.run_folder import environment
    from toolbox.engine.settings import Settings
    from toolbox.report import save_report_items, write_report

    write_text(folder / "config.py", dump(recipe))
    write_json(
        folder / "environment.json", environment(evaluation.device, get_provenance(Settings(recipe).namespaces()))
    )
    save_report_items(folder, evaluation.report_items)
    write_json(folder / "test_results.json", evaluation.as_json())
    results = {
        "before" if evaluation.checkpoint is None else "after": evaluation.metrics,
        "device": evaluation.device,
        "split": evaluation.split,
        "eval_precision": evaluation.precision,
        "better": evaluation.better,
        "settings": evaluation.settings,
        "checkpoint": evaluation.checkpoint,
    }
    write_report(folder, results, (evaluation.dataset, evaluation.report_items))


def extract(
    config: Mapping[str, Any],
    *,
    splits: Sequence[str] | None = None,
    device: str | None = None,
    mend: bool = False,
    console: Console | None = None,
    distributed: DistributedContext | None = None,
) -> dict[str, Any]:
    """Store what a recipe's frozen backbones make of its data; returns how many items were computed and found.

    - `splits`: of "train", "val" and "test"; default: all that the recipe has.
    - `mend`: read everything against its checksums, and compute again what is damaged or could not be read.
    - `console`, `distributed`: as of `train`.

    A recipe without `features` gets their defaults, and its training items are stored as they are. Raises ToolboxError
    with what is wrong with the recipe, the model or the data.
    """
    from toolbox.engine.console import Console
    from toolbox.engine.descriptions import describe_task
    from toolbox.engine.distributed.context import SINGLE_PROCESS
    from toolbox.inference import extract as extraction
    from toolbox.training import make_prerequisites

    plain, distributed, console = make_plain(config), distributed or SINGLE_PROCESS, console or Console()
    if plain.get("features") is None and isinstance(plain.get("train_dataloader"), dict):
        plain["features"] = {}
        plain["train_dataloader"] = plain["train_dataloader"] | {"augment": None}
    with locate_error(config):
        make_prerequisites(plain, device, console, distributed)
        recipe = make_runnable(plain, device, training=False)
        if distributed.is_main:
            for note in adapt(config):
                console.info(note)
            task = describe_task(recipe, splits or extraction.SPLITS, distributed.rank_info)
            console.info(f"Storing features: {task}")
        return extraction.extract(recipe, splits, mend=mend, console=console, distributed=distributed)


def load(
    name: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    plugins: Sequence[str] = (),
) -> LoadedModel:
    """A trained model, or a pretrained backbone as it comes, ready for use.

    What it returns is named by the model (`Model.user_class`): an `Encoder` with `encode_image`, of a classifier also
    with `classify`, or what a plugin has for its models.

    No code that comes with a checkpoint is run: of the plugins that it names, installed ones and those in `plugins`
    are used, and no other.

    - `name`: a checkpoint's folder, or a run's (its best); a backbone's id, such as "vits16", or a folder of weights in
      Hugging Face format; or a recipe, for its backbone. Of a backbone it is the pooled features.
    - `device`: "auto", "cpu", "cuda:1" ...
    - `precision`: "fp32", "bf16" or "fp16"; default: that in which its run was evaluated, fp32 for a backbone.
    - `overrides`: changes to the recipe in the checkpoint, e.g. `{"model.backbone.name": "weights/vitb16"}` when the
      frozen weights have moved; of a backbone to `model`, e.g. `{"model.pool": "mean"}`.
    - `plugins`: local plugins to load, Python files or modules.

    Raises ToolboxError where there is no such model, with the steps to get weights that are not on this machine.
    """
    from toolbox.loading import load_model

    return load_model(str(name), device=device, precision=precision, overrides=overrides or {}, plugins=plugins)


def export(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    merge: bool = False,
    onnx: bool = False,
    overrides: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
    overwrite: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, float]:
    """Write a trained model as a folder that transformers, timm or peft loads without this toolbox, and compare.

    - `checkpoint`, `overrides`, `plugins`: as of `load`.
    - `folder`: new or empty; its README.md says how to load it.
    - `merge`: put adapters into the weights, for one plain folder.
    - `onnx`: also write the whole model as model.onnx.
    - `overwrite`: replace an earlier export.
    - `log`: called with sentences on what is exported and how much it differs.

    Returns the largest differences from the toolbox's numbers. Raises ToolboxError, leaving no folder, above a
    ten-thousandth, and where a backbone belongs to no other library.
    """
    from toolbox.engine.checkpoint import checkpoint as checkpoints
    from toolbox.exporters import export as exports
    from toolbox.exporters.onnx_file import check_packages
    from toolbox.loading import open_checkpoint

    target = Path(folder).expanduser().resolve()
    exports.check_target(target, overwrite=overwrite)
    if onnx:
        check_packages()
    trained = checkpoints.read(checkpoint)
    log(f"Exporting {trained.path}, step {trained.step}")
    model = open_checkpoint(trained, device="cpu", precision="fp32", overrides=overrides or {}, plugins=plugins)
    origin = {
        "checkpoint": f"{trained.path.parent.name}/{trained.path.name}",
        "step": trained.step,
        "model": model.recipe["model"],
        "plugins": trained.manifest["plugins"],
    }
    return exports.export(model.model, target, origin=origin, classes=model.classes, merge=merge, onnx=onnx, log=log)
