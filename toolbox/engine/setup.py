"""What a run consists of before its first step: data, model, what updates it, and where it continues from."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from toolbox.base import Batch, Dataset, Hook, Model, Sampler
from toolbox.engine import quantizing, speed
from toolbox.engine import resume as resuming
from toolbox.engine.assemble import build_model
from toolbox.engine.checkpoint import loading, run_folder
from toolbox.engine.checkpoint.checkpoint import Checkpoint
from toolbox.engine.checkpoint.files import as_json, sha256_of
from toolbox.engine.classes import class_names
from toolbox.engine.console import Console, NullConsole
from toolbox.engine.data.bad_items import BadItems
from toolbox.engine.data.batch_builder import InputSpec, input_specs
from toolbox.engine.data.batch_plan import share
from toolbox.engine.data.few_images import few_images
from toolbox.engine.data.loader import training_batches
from toolbox.engine.data.mixing import together
from toolbox.engine.device import choose_device, random_state, seed_everything, set_threads
from toolbox.engine.distributed.context import SINGLE_PROCESS, DistributedContext, check_same
from toolbox.engine.distributed.parallel import Parallel, spread
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.feature_extraction.feature_cache import FeatureCache
from toolbox.engine.length import RunLength
from toolbox.engine.norm_statistics import NormStatistics
from toolbox.engine.parts import frozen_identity, random_and_frozen
from toolbox.engine.precision import Precision, eval_precision
from toolbox.engine.settings import Settings
from toolbox.engine.train_step import TrainStep, build_train_step
from toolbox.engine.trained_items import TrainedItems, items_of, sentence, unknown
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.registry import build, get_provenance


@dataclass
class RunSetup:
    """A run that is ready to begin.

    - `recipe`: complete and validated, of plain dicts; `source`: the same as Python text; `overridden`: the keys that
      overrides have set, which a resumed run keeps.
    - `work_dir`: the run's folder, `lock` what keeps other runs out of it.
    - `resume_from`: the checkpoint that the run continues from, None for a new run.
    - `val`, `test`: what is evaluated, None without; `trained_items`: of the training data, on the main process.
    - `parallel.module`: what is called, the `model` or what spreads it over processes.
    - `inputs`: of the model when it is evaluated, `training_inputs` when it is trained.
    - `frozen`: what identifies the frozen pretrained tensors of each backbone.
    - `random`: the state of the generators with which training starts.
    """

    recipe: dict[str, Any]
    work_dir: Path
    source: str
    overridden: Sequence[str]
    overwrite: bool
    console: Console
    distributed: DistributedContext
    device: Device
    threads: int
    plugins: dict[str, dict[str, str]]
    lock: IO[str] | None
    resume_from: Checkpoint | None
    dataset: Dataset
    class_names: list[str] | None
    model: Model
    precision: Precision
    eval_precision: Precision
    val: Evaluator | None
    test: Evaluator | None
    trained_items: TrainedItems | None
    feature_cache: FeatureCache | None
    parallel: Parallel
    sampler: Sampler
    train_step: TrainStep
    hooks: list[Hook]
    bad_items: BadItems
    frozen: dict[str, dict[str, str]]
    settings: Settings = field(init=False)
    length: RunLength = field(init=False)
    inputs: dict[str, InputSpec] = field(init=False)
    training_inputs: dict[str, InputSpec] = field(init=False)
    norm_statistics: NormStatistics = field(init=False)
    torch_device: torch.device = field(init=False)
    random: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings(self.recipe)
        self.length = RunLength(self.settings, len(self.sampler))
        self.inputs, self.training_inputs = input_specs(self.model), input_specs(self.model, training=True)
        self.norm_statistics = NormStatistics(self.model)
        self.torch_device = torch.device(str(self.device))
        if not self.distributed.is_main:  # what a model draws for other rows is other numbers
            seed_everything(self.settings("randomness.seed") + 1_000_003 * self.distributed.rank)
        self.random = random_state(self.device)

    @property
    def classes(self) -> int | None:
        """How many classes the training data have, None where they have no labels."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def quantization(self) -> dict[str, Any] | None:
        """What quantising changed, by backbone; None where nothing is quantised."""
        return quantizing.records(self.model) or None

    @property
    def final(self) -> Evaluator | None:
        """What the run is evaluated on before and after its steps: the test set, else the validation set."""
        return self.test or self.val

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The datasets of the run by their splits."""
        targets = [target for target in (self.val, self.test) if target is not None]
        return {"train": self.dataset} | {target.name: target.dataset for target in targets}

    def batches(self, first: int, last: int) -> Generator[Batch, None, None]:
        """The training batches from number `first` until before `last`, this process's share of each."""
        stored = self.feature_cache.of(self.settings("train_dataloader"), training=True) if self.feature_cache else None
        return training_batches(
            self.settings,
            self.dataset,
            self.sampler,
            self.training_inputs,
            first=first,
            last=last,
            pin_memory=self.device.type != "cpu",
            log=self.console.warn,
            stored=stored,
        )

    def unlock(self) -> None:
        """Let other runs use the folder."""
        if self.lock is not None:
            self.lock.close()


def set_up(
    recipe: dict[str, Any],
    work_dir: Path,
    *,
    source: str = "",
    resume: bool | str = False,
    overwrite: bool = False,
    console: Console | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
    idle: bool = False,
    overridden: Sequence[str] = (),
    dataset: Dataset | None = None,
    evaluators: Mapping[str, Evaluator] | None = None,
    structure: Model | None = None,
) -> RunSetup:
    """Make all that a run needs, in this order.

    - `recipe`, `work_dir`, `source`, `overwrite`, `overridden`: as of `RunSetup`.
    - `resume`: continue from a checkpoint: True for the newest whole one in `work_dir`, or a path.
    - `console`: where messages go; `distributed`: the processes of the run, of which this is one.
    - `idle`: whether some trained parameters may get no gradient.
    - `dataset`, `evaluators` by split, `structure` (the model on torch's meta device): of the same recipe, where they
      are made already.

    Raises ToolboxError where the folder is in use, or data, weights and settings do not fit together.
    """
    settings = Settings(recipe)
    console = (console or Console()) if distributed.is_main else NullConsole()
    device = choose_device(settings("env_cfg.device"), distributed.rank_info)
    threads = set_threads(settings("env_cfg.threads"), distributed.rank_info.local_world_size)
    plugins = get_provenance(settings.namespaces())
    distributed.start(device)
    lock = run_folder.lock(work_dir, console.warn) if distributed.is_main else None
    try:
        resume_from = resuming.open_together(work_dir, resume, overwrite, console, distributed)
        if dataset is None:
            dataset = build(settings("train_dataloader.dataset"), "dataset", where="train_dataloader.dataset")
        names = class_names(dataset)
        _check_same(distributed, settings, work_dir, device, plugins, dataset, names)
        if resume_from is not None:
            console.log_file = work_dir / "train.log"  # a new run has none yet
            resuming.check_classes(resume_from, names)
        start = resume_from or resuming.start_of(recipe, work_dir, overwrite)
        model = build_model(
            recipe,
            seed=settings("randomness.seed"),
            classes=None if names is None else len(names),
            checkpoint=start,
            images=partial(few_images, dataset) if resume_from is None and distributed.is_main else None,
            structure=structure,
        )
        _describe_weights(model, start, console)
        frozen = frozen_identity(model)
        speed.prepare(model, settings("env_cfg"), torch.device(str(device)))
        precision, evaluated = Precision(settings("optim_wrapper.precision"), device), eval_precision(recipe, device)
        val, test = _build_evaluators(recipe, evaluators or {})
        targets = [target for target in (val, test) if target is not None]
        trained_items = _count_trained_items(dataset, start, targets, console, distributed)
        feature_cache = None
        if recipe.get("features"):  # computed by the model as one process has it
            model.to(torch.device(str(device)))
            feature_cache = FeatureCache(
                recipe, model, device, precision, eval_precision=evaluated, distributed=distributed, console=console
            )
            feature_cache.fill(dataset, settings("train_dataloader"), targets)
        parallel = spread(model, distributed, settings("env_cfg.parallel"), device, precision, idle=idle)
        return RunSetup(
            recipe=recipe,
            work_dir=work_dir,
            source=source,
            overridden=overridden,
            overwrite=overwrite,
            console=console,
            distributed=distributed,
            device=device,
            threads=threads,
            plugins=plugins,
            lock=lock,
            resume_from=resume_from,
            dataset=dataset,
            class_names=names,
            model=model,
            precision=precision,
            eval_precision=evaluated,
            val=val,
            test=test,
            trained_items=trained_items,
            feature_cache=feature_cache,
            parallel=parallel,
            sampler=_build_sampler(settings, dataset, distributed),
            train_step=build_train_step(settings, model, parallel, precision, device),
            hooks=[
                build(item, "hook", where=f"custom_hooks.{index}")
                for index, item in enumerate(recipe["custom_hooks"] or [])
            ],
            bad_items=BadItems(
                work_dir / "bad_items.jsonl", len(dataset), settings("train_dataloader"), console, distributed.is_main
            ),
            frozen=frozen,
        )
    except BaseException:
        if lock is not None:
            lock.close()
        raise


def _check_same(
    distributed: DistributedContext,
    settings: Settings,
    work_dir: Path,
    device: Device,
    plugins: dict[str, dict[str, str]],
    dataset: Dataset,
    names: list[str] | None,
) -> None:
    """Raise ToolboxError where the processes differ, before they build models that would not fit together."""
    if distributed.world_size == 1:
        return
    facts: dict[str, Any] = {"torch": torch.__version__}
    facts |= {f"plugin {name}": f"{p['version']} ({p['sources'][:8]})".strip() for name, p in plugins.items()}
    recipe = {key: value for key, value in settings.recipe.items() if key != "work_dir"}
    facts |= {f"the recipe's {key}": sha256_of(as_json(value))[:8] for key, value in recipe.items()}
    facts |= {"device type": device.type, "training items": len(dataset)}
    classes = None if names is None else len(names)
    facts |= {"training classes": classes, "names of the training classes": sha256_of(json.dumps(names))[:8]}
    check_same(distributed, facts)
    if not all(distributed.all_gather((work_dir / ".lock").is_file())):
        raise ToolboxError(
            f"Not every process sees {work_dir}.",
            where="work_dir",
            hint="Put it on a file system that all machines share, as out folder.",
        )


def _describe_weights(model: Model, start: Checkpoint | None, console: Console) -> None:
    """Say what is quantised, what is frozen without having learned anything, and what `load_from` gives."""
    for path, record in quantizing.records(model).items():
        console.info(quantizing.describe(path, record))
    for path in random_and_frozen(model) if start is None else ():
        console.warn(
            f"model.{path} is frozen with random weights, which have learned nothing: give it weights or load_from."
        )
    if start is not None and start.parts:
        console.info(f"load_from {start.path}: {loading.compare(model, start).summary()}.")


def _build_evaluators(
    recipe: dict[str, Any], evaluators: Mapping[str, Evaluator]
) -> tuple[Evaluator | None, Evaluator | None]:
    """The evaluators of the validation and the test set, which share what they compute; None without such a set.

    - `evaluators`: those that are made already.
    """
    val, test = (
        evaluators.get(name) or Evaluator.of(recipe, name)
        if recipe[f"{name}_dataloader"] and recipe[f"{name}_evaluator"]
        else None
        for name in ("val", "test")
    )
    if val is not None and test is not None:
        test.share(val.shared)
    return val, test


def _count_trained_items(
    dataset: Dataset,
    start: Checkpoint | None,
    targets: list[Evaluator],
    console: Console,
    distributed: DistributedContext,
) -> TrainedItems | None:
    """Count the evaluated items that this run, or what it starts from, is trained on; returns what that is."""
    trained_items: TrainedItems | None = None  # the main process has them

    def count() -> list[int]:
        nonlocal trained_items
        trained_items = items_of(dataset)
        before = None if start is None else start.trained_items()
        if before is not None:
            trained_items |= before
        elif start is not None and any(target.dataset.identities() is not None for target in targets):
            console.warn(unknown(start.path))
        return [trained_items.count_in(target.dataset) for target in targets]

    for target, trained_on in zip(targets, distributed.run_on_main(count), strict=True):
        target.training_data, target.trained_items = dataset, trained_on
        if trained_on:
            console.warn(sentence(trained_on, len(target.dataset), target.name))
    return trained_items


def _build_sampler(settings: Settings, dataset: Dataset, distributed: DistributedContext) -> Sampler:
    """The sampler of the training data. Raises ToolboxError where a process would find too little in a batch."""
    sampler: Sampler = build(settings.sampler(), "sampler", where="train_dataloader.sampler")
    try:
        sampler.setup(dataset, settings("randomness.seed"))
    except ValueError as error:
        raise ToolboxError(str(error), where="train_dataloader.sampler") from error
    if distributed.world_size > 1:
        kept_together = together(settings("train_dataloader"))
        for number in (0, len(sampler) - 1):
            share(sampler.draws(number), distributed.rank, distributed.world_size, sampler.blocks, kept_together)
    return sampler
