"""docs/from_other_scripts.md: every key of other tools has an answer, and every answer is accepted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from toolbox.api import check_config
from toolbox.cli.train import make_parser
from toolbox.config import load_config
from toolbox.registry import get_catalog
from toolbox.registry.foreign_keys import load_foreign_keys, read_foreign_keys

FOREIGN = load_foreign_keys().keys
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "from_other_scripts.md"
DOCUMENTED = [
    "model_name",
    "model_name_or_path",
    "retrieval_mode",
    "data_path",
    "val_data_path",
    "image_root",
    "output_dir",
    "epochs",
    "batch_size",
    "learning_rate",
    "lr",
    "loss_type",
    "use_lora",
    "save_steps",
    "logging_steps",
    "report_to",
    "model_path",
    "sop_root",
]
"""The keys and arguments that the document of the published recipe shows."""

DATACLASS = [
    "model_name_or_path",
    "model_name",
    "model_type",
    "encoder_mode",
    "text_model_name",
    "image_model_name",
    "use_lora",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "teacher_model_name",
    "projection_dim",
    "pooling_method",
    "torch_dtype",
    "attn_implementation",
    "data_path",
    "val_data_path",
    "image_root",
    "column_mapping",
    "num_workers",
    "pin_memory",
    "prefetch_factor",
    "persistent_workers",
    "enable_image_cache",
    "validate_data",
    "skip_invalid_records",
    "output_dir",
    "batch_size",
    "learning_rate",
    "lr",
    "epochs",
    "loss_type",
    "retrieval_mode",
    "use_gradient_cache",
    "gradient_cache_chunk_size",
    "use_mrl",
    "mrl_dims",
    "mrl_weights",
    "report_to",
    "gradient_checkpointing",
    "save_steps",
    "logging_steps",
    "num_gpus",
    "dry_run",
    "use_fsdp",
    "overwrite_output_dir",
    "save_strategy",
    "max_seq_length",
    "max_image_size",
    "weight_decay",
    "max_grad_norm",
    "scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "fp16",
    "topk_tokens",
    "temperature",
    "distillation_alpha",
    "distillation_temperature",
    "distillation_loss_type",
    "debug_gpu_memory",
]
READ_BUT_DROPPED = [
    "triplet_margin",
    "cosent_scale",
    "hard_topk",
    "hard_mining_topk",
    "use_all_negatives",
    "loss_bidirectional",
    "enable_gather",
    "init_logit_scale",
    "init_logit_bias",
    "eval_batch_size",
    "prompt",
    "use_torch_compile",
    "ddp_find_unused_parameters",
    "projection_layers",
]


CLASSIFICATION = [
    "dataset",
    "train_split_ratio",
    "val_split_ratio",
    "model_name",
    "freeze_backbone",
    "use_4bit",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "use_nested_quant",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "warmup_ratio",
    "num_workers",
    "eval_every_steps",
    "checkpoint_dir",
    "project_name",
    "no_tracking",
    "seed",
]
"""The arguments of the script that fine-tunes DINOv3 for classification."""


ALIGNMENT = [
    "vision_model",
    "text_model",
    "embed_dim",
    "batch_size",
    "epochs",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "warmup_steps",
    "num_samples",
    "image_size",
    "num_workers",
    "checkpoint_dir",
    "log_interval",
    "save_interval",
    "gradient_checkpointing",
]
"""The arguments of the script that aligns DINOv3 with Qwen3-Embedding."""


@pytest.fixture
def alignment(tmp_path, monkeypatch):
    """`alignment(options)`: the recipe on a few images with captions, with small encoders."""
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        Image.new("RGB", (20, 20), (20 * number, 90, 60)).save(f"{number}.jpg")
    rows = [{"query_image": f"{number}.jpg", "positive": [f"number {number}", f"no. {number}"]} for number in range(8)]
    for name in ("train", "val", "test"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arch = "hidden_size=64,num_hidden_layers=2,num_attention_heads=4,num_key_value_heads=2,head_dim=16"

    def load(options):
        small = [
            "train_dataloader.dataset.root=.",
            "model.vision.image.backbone.name=vits16",
            "model.text.text.backbone.name=None",
            f"model.text.text.backbone.arch=dict({arch},intermediate_size=128)",
            "train_dataloader.batch_size=4",
            "train_cfg.max_epochs=2000",
            "optim_wrapper.precision=fp32",
        ]
        return load_config(ROOT / "configs" / "dinov3_qwen3_clip.py", [*small, *options])

    return load


@pytest.fixture
def classification(tmp_path, monkeypatch):
    """`classification(options)`: the recipe for Food-101 on a few saved pictures, with a tiny encoder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    picture, names = Image.new("RGB", (20, 20)), ["apple_pie", "baklava"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [picture] * 40, "label": [0, 1] * 20}
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk("ethz/food101")

    def load(options):
        small = [
            "train_dataloader.batch_size=4",
            "test_evaluator=[dict(type='classification.Accuracy')]",
            "optim_wrapper.precision=fp32",
        ]
        return load_config(ROOT / "configs" / "dinov3_food101.py", [*small, *options])

    return load


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """`recipe(options)`: the published baseline's recipe on a small records file, with a tiny encoder."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(12):
        Image.new("RGB", (20, 20), (20 * number, 90, 60)).save(f"{number}.jpg")
        partner = number + 1 if number % 2 == 0 else number - 1
        rows.append({"query_image": f"{number}.jpg", "positive": f"{partner}.jpg", "label": number // 2})
    for name in ("train", "val"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def load(options):
        small = [
            "train_dataloader.dataset=dict(type='datasets.Records',path='train.jsonl')",
            "test_dataloader.dataset=dict(type='datasets.Records',path='val.jsonl')",
            "val_dataloader=dict(dataset=dict(type='datasets.Records',path='val.jsonl'),batch_size=4)",
            "val_evaluator=[dict(type='retrieval.Recall',ks=[1])]",
            "test_evaluator=[dict(type='retrieval.Recall',ks=[1])]",
            "train_dataloader.sampler.batch_size=4",
        ]
        return load_config(ROOT / "configs" / "dinov3_sop_baseline.py", [*small, *options])

    return load


def test_every_key_has_an_answer():
    assert not {*DOCUMENTED, *DATACLASS, *READ_BUT_DROPPED, *CLASSIFICATION, *ALIGNMENT} - FOREIGN.keys()


def test_no_two_tables_answer_one_key_and_a_broken_one_is_left_out(tmp_path, monkeypatch):
    files = [path for paths in get_catalog().foreign_key_files().values() for path in paths]
    assert len(files) == 4
    assert sum(len(read_foreign_keys(file).keys) for file in files) == len(FOREIGN)
    broken = tmp_path / "broken.toml"
    for text, message in (
        ("[keys", "at the end of a table"),
        ("x = 1", "x beside `keys`|each key is a table"),
        ("x = 1\n[keys]", "x beside `keys`"),
        ("[keys.lr]\nother = 1", "each key is a table"),
        ("[keys]\nlr = 1", "each key is a table"),
    ):
        broken.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_foreign_keys(broken)
        monkeypatch.setattr(get_catalog(), "foreign_key_files", lambda: {"core": [broken, *files]})
        assert load_foreign_keys().keys == FOREIGN


def rows() -> list[str]:
    return [f"| `{key}` | {f'`{to.here}`' if to.here else '–'} | {to.note} |" for key, to in FOREIGN.items()]


def test_the_page_shows_the_table():
    page = PAGE.read_text(encoding="utf-8").partition("## Keys and arguments")[2]
    assert [row for row in rows() if row not in page] == []
    assert {line for line in page.splitlines() if line.startswith("| `")} == set(rows())


NEEDED_BESIDE = {
    "teacher_model_name": ["model.loss=dict(type='losses.Distillation')"],
    "distillation_alpha": ["model.teacher=dict(type='dinov3.ViT',name='vits16')"],
    "distillation_temperature": ["model.teacher=dict(type='dinov3.ViT',name='vits16')"],
    "distillation_loss_type": ["model.teacher=dict(type='dinov3.ViT',name='vits16')"],
    "topk_tokens": ["model.loss=dict(type='losses.MaxSim')"],
    "warmup_steps": ["train_cfg.max_steps=1000", "train_cfg.max_epochs=None"],
    "use_memory_bank": ["model.cross_view=False"],
    "save_strategy": ["default_hooks.checkpoint.interval=1"],
}


OF_BOTH = {"model_name", "epochs", "learning_rate", "weight_decay", "warmup_ratio", "num_workers", "seed"}
BESIDE = {
    "eval_every_steps": ["train_cfg.max_epochs=None"],
    "train_split_ratio": ["train_dataloader.batch_size=2"],  # about a tenth of few images
}


FAST = ("dataset", "learning_rate", "use_4bit", "eval_every_steps")  # one of a kind


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=[] if key in FAST else [pytest.mark.slow])
        for key in CLASSIFICATION
        if key != "batch_size" and FOREIGN[key].here
    ],
)
def test_what_stands_here_instead_is_accepted_by_the_recipe_for_classification(key, classification):
    ours = FOREIGN[key].here
    if not ours.startswith("--"):
        assert [str(problem) for problem in check_config(classification([ours, *BESIDE.get(key, [])]))] == []


def test_a_batch_size_is_plain_where_there_is_no_sampler(classification):
    assert "without a sampler train_dataloader.batch_size" in FOREIGN["batch_size"].note
    assert check_config(classification(["train_dataloader.batch_size=8"])) == []


def test_an_argument_of_the_other_script_is_answered(command):
    done = command("train", ROOT / "configs" / "dinov3_food101.py", "--use_4bit", "--learning_rate", "5e-4")
    assert done.returncode == 2
    assert "model.backbone.quantize=dict(bits=4)" in done.stderr
    assert "optim_wrapper.optimizer.lr=1e-4" in done.stderr
    unknown = command("train", ROOT / "configs" / "dinov3_food101.py", "--nonsense")
    assert unknown.returncode == 2
    assert "unrecognized arguments: --nonsense" in unknown.stderr


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=[] if key in ("embed_dim", "warmup_steps") else [pytest.mark.slow])
        for key in ALIGNMENT
        if key not in ("batch_size", "epochs", "gradient_checkpointing") and "=" in (FOREIGN[key].here or "")
    ],
)
def test_what_stands_here_instead_is_accepted_by_the_recipe_for_alignment(key, alignment):
    beside = ["model.text.text.backbone.arch=None"] if key == "text_model" else []
    assert [str(problem) for problem in check_config(alignment([FOREIGN[key].here, *beside]))] == []


def test_the_command_of_the_alignment_script_has_its_equal(alignment, command):
    recipe = alignment(["model.vision.image.head.dim=512", "train_dataloader.batch_size=8"])
    assert recipe["model"]["text"]["text"]["head"]["dim"] == "{model.vision.image.head.dim}"
    assert check_config(recipe) == []
    done = command("train", ROOT / "configs" / "dinov3_qwen3_clip.py", "--vision-model", "x", "--embed-dim", "512")
    assert done.returncode == 2
    assert "model.vision.image.backbone.name=vith16plus" in done.stderr
    assert "model.vision.image.head.dim=1024" in done.stderr


ONLY_ALIGNMENT = ("vision_model", "text_model", "embed_dim", "num_samples", "image_size")
ONLY_CLASSIFICATION = set(CLASSIFICATION) - OF_BOTH - {"batch_size"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    [
        key
        for key, to in FOREIGN.items()
        if to.here and "=" in to.here and key not in ONLY_CLASSIFICATION | set(ONLY_ALIGNMENT)
    ],
)
def test_what_stands_here_instead_is_accepted(key, recipe, tmp_path):
    ours = FOREIGN[key].here
    if ours.endswith(("=train.jsonl", "=val.jsonl")):
        pass
    elif "root=" in ours:
        folder = tmp_path / ours.partition("=")[2]
        folder.mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (20, 20)).save(folder / f"{number}.jpg")
    elif key == "column_mapping":
        text = Path("train.jsonl").read_text()
        Path("train.jsonl").write_text(text.replace("query_image", "file").replace("label", "product"))
    elif key == "batch_size":
        ours = ours.replace("128", "6")
    found = check_config(recipe([ours, *NEEDED_BESIDE.get(key, [])]))
    # fp16 is for GPUs: a CPU says that it cannot, and nothing else is wrong
    assert [str(problem) for problem in found if "cannot compute in fp16" not in problem.message] == []


@pytest.mark.parametrize("key", [key for key, to in FOREIGN.items() if to.here and to.here.startswith("--")])
def test_arguments_of_the_command_exist(key):
    parser = make_parser()
    assert parser.parse_args(["recipe.py", *shlex.split(FOREIGN[key].here)]) != parser.parse_args(["recipe.py"])


@pytest.mark.parametrize("key", FOREIGN)
def test_the_foreign_key_itself_is_refused_with_the_answer(key, recipe):
    problems = [problem for problem in check_config(recipe([f"{key}=1"])) if problem.where.endswith(key)]
    assert len(problems) == 1
    assert f"There is no key '{key}'" in problems[0].message
    assert problems[0].hint == FOREIGN[key].hint
    assert FOREIGN[key].here or FOREIGN[key].note


@pytest.mark.slow
def test_a_recipe_in_yaml_is_told_key_by_key(tmp_path, command):
    file = tmp_path / "dinov3_i2i.yaml"
    file.write_text("model_name: facebook/dinov3-vitb16-pretrain-lvd1689m\nlearning_rate: 0.0001\nnonsense: 3\n")
    done = command("train", file)
    assert done.returncode == 2
    assert "learning_rate: optim_wrapper.optimizer.lr" in done.stderr
    assert "nonsense: unknown" in done.stderr
    assert "configs/dinov3_sop_baseline.py" in done.stderr
    assert "Traceback" not in done.stderr
