"""Whole jobs from the command line, on small real data."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from forked_python import ForkedPython
from pretrained import IMAGES

import toolbox
from toolbox.cli import test, train
from toolbox.utils.export_formats import save_processor

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    """A small folder in the layout of Stanford Online Products: 24 letters to train on, 8 to test on."""
    from toolbox.registry import build

    folder = tmp_path_factory.mktemp("data") / "small sop 数据"
    header = "image_id class_id super_class_id path\n"
    number = 0
    for index, (split, letters) in enumerate([("train", 24), ("test", 8)]):
        dataset = build({"type": "glyphs.Glyphs", "split": split}, "dataset")
        lines = []
        for item in range(letters * 12):
            sample, number = dataset[item], number + 1
            group = 4 * index + sample["label"] % 4
            path = folder / f"{split}{group}_final" / f"{number}.JPG"
            path.parent.mkdir(parents=True, exist_ok=True)
            sample["image"].save(path, quality=95)
            lines.append(f"{number} {100 * index + sample['label'] + 1} {group + 1} {path.relative_to(folder)}\n")
        (folder / f"Ebay_{split}.txt").write_text(header + "".join(lines))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A local model folder in Hugging Face's format, as a download would leave it."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(3)
    config = DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_register_tokens=4,
        patch_size=8,
        image_size=32,
    )
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    DINOv3ViTModel(config).save_pretrained(folder)
    save_processor(folder, IMAGES)
    return folder


@pytest.fixture
def small(glyphs, weights, tmp_path, monkeypatch):
    """The options that put the real recipe on the small data and weights."""
    monkeypatch.chdir(tmp_path)
    roots = [f"{name}_dataloader.dataset.root={glyphs}" for name in ("train", "val", "test")]
    workers = [f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")]
    return [
        str(ROOT / "configs/dinov3_sop.py"),
        "--work-dir",
        "run",
        "--cfg-options",
        *roots,
        *workers,
        f"model.backbone.name={weights}",
        "model.backbone.size=32",
        "train_dataloader.sampler.classes=8",
        "model.backbone.tune.mode=lora",
        "model.backbone.tune.rank=4",
        "optim_wrapper.grad_cache.chunk_size=20",
        "train_cfg.max_epochs=2",
        "val_evaluator.0.ks=[1,10]",
        "test_evaluator.0.ks=[1,10]",
        "train_dataloader.dataset.val_share=0.2",
        "val_dataloader.dataset.val_share=0.2",
    ]


def test_the_real_recipe_on_a_small_folder_and_a_local_model(small, weights, glyphs, capsys):
    assert train.main(small) == 0
    said = capsys.readouterr().out
    assert "recall@1" in said
    assert "report.html" in said
    results = json.loads(Path("run/train_results.json").read_text())
    assert results["before"]["queries"] == results["after"]["queries"] == 96
    assert results["best"]["metrics"]["queries"] < 24 * 12 / 2  # chosen on held-out classes, never on the test set
    assert {"seconds", "items_per_second", "data_wait_seconds", "peak_memory_bytes"} <= results.keys()

    # the checkpoint holds no frozen weights, and says which they were
    manifest = json.loads(Path("run/best/manifest.json").read_text())
    assert manifest["frozen"]["backbone"]["weights"] == str(weights)
    assert "adapters/backbone/adapter_model.safetensors" in manifest["files"]
    assert Path("run/best/model.safetensors").stat().st_size < 150_000

    # tools/test.py repeats the numbers of the run, and without a checkpoint those of before
    options = [small[0], *small[3:]]
    assert test.main([options[0], "run", "--json", *options[1:]]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == pytest.approx(results["after"])
    assert test.main([options[0], "--json", *options[1:]]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(results["before"])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_trained_adapter_is_loaded_by_peft_alone(small, weights, glyphs):
    """The adapter of a composed model, on the bare backbone, gives bit-equal features."""
    from peft import PeftModel
    from PIL import Image
    from transformers import DINOv3ViTModel

    assert train.main(small) == 0
    encoder = toolbox.load("run")
    image = next(glyphs.rglob("*.JPG"))
    preprocess = encoder.model.preprocess()["image"]
    pixels = preprocess.finish(preprocess.collate([preprocess(Image.open(image).convert("RGB"))]))
    with torch.inference_mode():
        ours = encoder.model.backbone(pixels).tokens
        bare = DINOv3ViTModel.from_pretrained(weights).eval()
        without = bare(pixels).last_hidden_state
        adapted = PeftModel.from_pretrained(bare, "run/wise_ft/adapters/backbone").eval()
        assert torch.equal(ours, adapted(pixels).last_hidden_state)
    assert not torch.allclose(ours, without)
    config = json.loads(Path("run/wise_ft/adapters/backbone/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(weights)
    names = {key.split(".")[-3] for key in encoder.model.backbone.adapter.state_dict()}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}


def test_encoding_after_training(small, glyphs):
    from PIL import Image

    assert train.main(small) == 0
    encoder = toolbox.load("run/best")
    paths = sorted(glyphs.rglob("*.JPG"))[:7]
    embeddings = encoder.encode_image(paths, batch_size=3)
    assert embeddings.shape == (7, 512)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(7))
    one = encoder.encode_image(Image.open(paths[2]))
    torch.testing.assert_close(one[0], embeddings[2])
    with pytest.raises(OSError, match="nothing"):
        encoder.encode_image("nothing.jpg")


def test_other_frozen_weights_are_refused(small, weights, tmp_path):
    from transformers import DINOv3ViTModel

    assert train.main(small) == 0
    other = DINOv3ViTModel.from_pretrained(weights)
    with torch.no_grad():
        other.norm.weight.add_(0.1)
    other.save_pretrained(tmp_path / "other")
    save_processor(tmp_path / "other", IMAGES)
    with pytest.raises(toolbox.ToolboxError, match="not those that the checkpoint was trained on"):
        toolbox.load("run", overrides={"model.backbone.name": str(tmp_path / "other")})


def test_check_prints_the_recipe_its_parts_and_memory_and_writes_nothing(small, capsys):
    assert train.main([*small, "--check"]) == 0
    said = capsys.readouterr().out
    for words in (
        "model.backbone",
        "frozen",
        "0.0005",
        "Estimated memory",
        "steps an epoch",
        "type='retrieval.Embedder'",
    ):
        assert words in said
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_names_how_to_go_on(glyphs, tmp_path, command, signum, code):
    arguments = [
        str(ROOT / "configs/demo/dinov3_sop.py"),
        "--work-dir",
        "run",
        "--cfg-options",
        "prepare=[]",
        "evaluate_before=False",
        "evaluate_pixels=False",
        "val_dataloader=None",
        "val_evaluator=None",
        "test_dataloader=None",
        "test_evaluator=None",
        f"train_dataloader.dataset.root={glyphs}",
        "train_dataloader.sampler.classes=4",
        "train_dataloader.num_workers=2",
        "train_cfg.max_steps=100000",
        "default_hooks.checkpoint.interval=100000",
        "default_hooks.logger.interval=1",
    ]
    process = ForkedPython(ROOT / "tools/train.py", *arguments, cwd=tmp_path)
    for line in process.lines():
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= 5:
            break
    process.kill_group(signum)  # as a terminal and a scheduler do: the data workers get it too
    ended, _, said = process.end(60)
    assert ended == code, said
    assert "Traceback" not in said
    assert "Continue with --resume" in said
    step = json.loads((tmp_path / "run/last/manifest.json").read_text())["step"]
    assert 5 <= step < 100000
    more = command("train", *arguments, f"train_cfg.max_steps={step + 3}", "--resume")
    assert more.returncode == 0, more.stderr
    assert f"Resuming at step {step}" in more.stdout
