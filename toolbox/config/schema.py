"""The keys of a recipe: what each means, what it may hold. docs/configs.md is checked against this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """One key.

    - `doc`: what it means, one sentence.
    - `annotation`: the type of a plain value, as in a constructor.
    - `kind`: the kind of component that stands here; `many`: a list of them (a single one is a list of one).
    - `named`: a dict without `type` holds components by name.
    - `keys`: the keys of a plain dict that stands here; `any_key`: the value of every key of an open dict.
    - `default`: the value when absent; REQUIRED when it must be given.
    - `optional`: of a plain dict: absent means switched off, instead of all its keys' defaults.
    """

    doc: str
    annotation: Any = None
    kind: str | None = None
    many: bool = False
    named: bool = False
    keys: dict[str, Key] | None = None
    any_key: Key | None = None
    default: Any = None
    optional: bool = False


def _make_loader_keys(*, train: bool) -> dict[str, Key]:
    keys = {
        "dataset": Key("Where the items come from.", kind="dataset", default=REQUIRED),
        "batch_size": Key(
            "Items in a batch of all processes together; without a `sampler` it means core.Shuffled or "
            "core.Sequential.",
            int | None,
        ),
        "num_workers": Key("Processes that read and augment; 0 reads in the main process.", int, default=2),
        "prefetch_factor": Key("Batches that each worker keeps ready.", int, default=2),
        "on_bad_item": Key(
            "'raise' stops at an unreadable item and names all of them; 'skip' leaves it out, counts it and names it "
            "in bad_items.jsonl.",
            Literal["raise", "skip"],
            default="raise",
        ),
        "max_bad_share": Key(
            "With 'skip': the share of unreadable items above which the run stops; default: 0.01, but in small data up "
            "to 5 items, or a quarter of them.",
            float | None,
        ),
    }
    if train:
        keys["augment"] = Key(
            "Random views of every image; a dict without `type` gives one for each input of the model by name.",
            kind="augment",
            named=True,
        )
        keys["mix"] = Key(
            "Mixes the images of a batch in pairs, and their labels; for models that read mixed labels.", kind="mix"
        )
        keys["sampler"] = Key("What goes into a batch.", kind="sampler")
    return keys


PART = {
    "lr": Key("Learning rate of this part.", float),
    "weight_decay": Key("Weight decay of this part.", float),
    "layer_decay": Key("As `optim_wrapper.layer_decay`, for the backbone layers of this part.", float),
}

TOP_LEVEL: dict[str, Key] = {
    "model": Key("The training objective with its backbone, head and loss.", kind="model", default=REQUIRED),
    "train_dataloader": Key("The training data.", keys=_make_loader_keys(train=True)),
    "val_dataloader": Key(
        "The validation data, on which the best checkpoint is chosen.",
        keys=_make_loader_keys(train=False),
        optional=True,
    ),
    "val_evaluator": Key("Metrics on the validation data.", kind="metric", many=True),
    "test_dataloader": Key(
        "The test data, evaluated before and after training only.", keys=_make_loader_keys(train=False), optional=True
    ),
    "test_evaluator": Key("Metrics on the test data.", kind="metric", many=True),
    "features": Key(
        "Feature cache: frozen backbones compute their features once, for all epochs and later runs, and training and "
        "evaluation read them. Absent: computed at every step.",
        keys={
            "dtype": Key("Type of the cached numbers.", Literal["fp16", "bf16", "fp32"], default="fp16"),
            "views": Key(
                "Random views of each training item to cache, from which draws choose; needed with an `augment`.",
                int | None,
            ),
            "folder": Key("Where the caches are, in a subfolder for each key.", str, default="work_dirs/features"),
        },
        optional=True,
    ),
    "optim_wrapper": Key(
        "How parameters are updated.",
        keys={
            "optimizer": Key("The update rule.", kind="optimizer", default=REQUIRED),
            "parts": Key(
                "Settings of parts by module path, e.g. `{'model.head': dict(lr=1e-3)}`; the longest path wins.",
                any_key=Key("Settings of one part.", keys=PART),
            ),
            "layer_decay": Key(
                "Factor on the learning rate from each block of a backbone to the one below it, 0 to 1: block i of L "
                "(i from 0) gets the rate of its part times `layer_decay ** (L - i)`, modules before the blocks get "
                "one factor more, and modules after them the whole rate. Heads and losses keep theirs.",
                float | None,
            ),
            "decay_one_dim": Key("Whether biases, norms and other vectors are decayed too.", bool, default=False),
            "decay_tokens": Key(
                "Whether class, register and mask tokens, position embeddings and tables of relative positions are "
                "decayed too, as in DINOv3's pretraining.",
                bool,
                default=False,
            ),
            "accumulative_counts": Key("Batches whose gradients are averaged into one step.", int, default=1),
            "grad_cache": Key(
                "Passes each batch through the model in chunks, with the gradient of the whole batch: a batch needs "
                "the memory of a chunk and a third more time.",
                keys={"chunk_size": Key("Rows that pass the model together.", int, default=REQUIRED)},
                optional=True,
            ),
            "average": Key(
                "Keeps an average of the trained weights over the steps. It is what is validated, tested and found in "
                "checkpoints; training continues with the weights themselves. Batch norms that train get "
                "the statistics of the averages, estimated from the run's first 32 batches.",
                keys={
                    "decay": Key(
                        "Share of the old average that a step keeps (exponential moving average); None weighs all "
                        "steps equally (SWA).",
                        float | None,
                        default=0.999,
                    ),
                    "start": Key("Where averaging starts: a share of the run below 1, or a step.", float, default=0.0),
                },
                optional=True,
            ),
            "clip_grad": Key(
                "Gradient clipping, absent for none.",
                keys={"max_norm": Key("Largest L2 norm of all gradients together.", float, default=REQUIRED)},
                optional=True,
            ),
            "on_nonfinite": Key(
                "'raise' stops at a step whose loss or gradient is not finite; 'skip' skips its update and counts it: "
                "weights and the optimizer's state stay as they were, schedules continue.",
                Literal["raise", "skip"],
                default="raise",
            ),
            "max_skipped": Key(
                "With 'skip': how many updates may be skipped in all before the run stops.", int, default=10
            ),
            "max_skipped_in_a_row": Key(
                "How many updates in a row may be skipped, by 'skip' or by fp16's scaler, which skips a few to find "
                "its scale; more end the run. A run without a single update ends with an error too.",
                int,
                default=30,
            ),
            "precision": Key("Autocast type of the forward pass.", Literal["fp32", "bf16", "fp16"], default="fp32"),
        },
    ),
    "param_scheduler": Key("Factors on the learning rate over the run.", kind="schedule", many=True),
    "train_cfg": Key(
        "How long to train.",
        keys={
            "max_epochs": Key("Length in epochs; give this or `max_steps`.", int | None),
            "max_steps": Key("Length in steps; give this or `max_epochs`.", int | None),
            "val_interval": Key(
                "Epochs between validations (steps, with `max_steps`); default: one epoch. The last step is always "
                "evaluated.",
                int | None,
            ),
            "wise_ft": Key(
                "After training, interpolates the backbones' pretrained and trained weights (WiSE-FT) and keeps the "
                "interpolation that validates best, in the run's folder `wise_ft`; this one is tested.",
                keys={
                    "alphas": Key(
                        "Shares of the trained weights to try, 0 to 1; 1.0 is one of them.",
                        list[float],
                        default=[0.0, 0.25, 0.5, 0.75, 1.0],
                    )
                },
                optional=True,
            ),
        },
    ),
    "custom_hooks": Key("What else happens during the run, in this order.", kind="hook", many=True),
    "default_hooks": Key(
        "Logging and checkpoints.",
        keys={
            "logger": Key("Logging.", keys={"interval": Key("Steps between two logged lines.", int, default=10)}),
            "checkpoint": Key(
                "Checkpoints.",
                keys={
                    "interval": Key("Epochs or steps between two checkpoints; default: one epoch.", int | None),
                    "by_epoch": Key("Count `interval` in epochs; default: as `train_cfg` does.", bool | None),
                    "max_keep_ckpts": Key("How many newest checkpoints stay, beside the best one.", int, default=2),
                    "save_best": Key(
                        "The validation metric that chooses the best; 'auto' is the first one.", str, default="auto"
                    ),
                    "rule": Key(
                        "Whether greater or less is better; default: as the metric declares.",
                        Literal["greater", "less"] | None,
                    ),
                },
            ),
        },
    ),
    "randomness": Key(
        "Reproducibility.", keys={"seed": Key("Seed of weights, batches and augmentation.", int, default=0)}
    ),
    "env_cfg": Key(
        "The machine.",
        keys={
            "device": Key("'auto', 'cpu', 'cuda', 'cuda:1' ...; `--device` wins.", str, default="auto"),
            "parallel": Key(
                "How several processes train one model (`--launcher`); a single one ignores it.",
                keys={
                    "mode": Key(
                        "'ddp': each holds the model, and gradients are averaged; 'fsdp': each holds a part of every "
                        "tensor (FSDP2).",
                        Literal["ddp", "fsdp"],
                        default="ddp",
                    ),
                    "find_unused_parameters": Key(
                        "With 'ddp': look at every step for parameters without a gradient; default: if the structure "
                        "of the model has some.",
                        bool | None,
                    ),
                },
            ),
            "threads": Key(
                "Threads of torch on a CPU, on which sums depend; default: half the cores, for any number of workers.",
                int | None,
            ),
            "max_image_pixels": Key(
                "The largest image that is read, in pixels, as a guard against files that are small on disk and huge "
                "in memory; default: 250 million.",
                int | None,
            ),
            "eval_precision": Key(
                "Autocast type of every evaluation and encoding, in the run and with its checkpoints; default: that "
                "of training, `optim_wrapper.precision`.",
                Literal["fp32", "bf16", "fp16"] | None,
            ),
            "compile": Key(
                "torch.compile of every block of every backbone: True, or a dict of `mode`, `backend`, `dynamic`.",
                bool | dict[str, Any],
                default=False,
            ),
            "channels_last": Key(
                "Keeps images and convolutions in channels-last memory, for convolutional nets.", bool, default=False
            ),
        },
    ),
    "evaluate_before": Key(
        "First evaluate the untrained backbone on the test data, and the model at step 0 on the validation data.",
        bool,
        default=True,
    ),
    "evaluate_pixels": Key(
        "Also evaluate raw pixels on the test data, as a floor that a model must beat.", bool, default=False
    ),
    "evaluate_features": Key(
        "After training, also evaluate the features before the model's head, and say if they are better.",
        bool,
        default=True,
    ),
    "arguments": Key(
        "Which keys `data` and `model` of `toolbox.train` and of commands set.",
        keys={
            "data": Key("The key with the place of the training data, to which others refer.", str | None),
            "model": Key(
                "The key with the `name` of the encoder; if another component knows the name, it takes the place of "
                "the encoder.",
                str | None,
            ),
        },
        optional=True,
    ),
    "prepare": Key(
        "Data that `train` writes first if they are missing: a list of `dict(dataset='glyphs.Glyphs', out=FOLDER, "
        "...)` with the options of `prepare_data`.",
        list[dict[str, Any]] | None,
    ),
    "load_from": Key(
        "A checkpoint whose weights to start from, or a recipe (.py, also beside this one), whose run is trained "
        "first if there is none yet.",
        str | None,
    ),
    "load_parts": Key(
        "The parts to take from `load_from`, by module path, e.g. `['model.backbone']`; default: all, and the model "
        "must then be the same. A dict says from where in the checkpoint each part is taken, e.g. "
        "`{'model.vision.image.backbone': 'model.backbone'}`.",
        list[str] | dict[str, str] | None,
    ),
    "resume": Key("Continue the run in `work_dir`, or from the checkpoint named here.", bool | str, default=False),
    "work_dir": Key("The run's folder; default `work_dirs/<name of the recipe>`.", str | None),
    "plugins": Key(
        "Local plugins to load: Python files or modules; those that a checkpoint or a run names are not loaded.",
        list[str],
        default=[],
    ),
}
