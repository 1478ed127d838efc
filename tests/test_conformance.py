"""Every component that comes with the toolbox keeps the contract of its kind, and no plugin sees more than it may."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import datasets as hugging_face
import pytest
import torch
from toolbox_classification.probe_accuracy import ProbeAccuracy

from toolbox.registry import get_catalog
from toolbox.testing import LabelledImages, check_component, check_metric, check_plugin
from toolbox.testing.material import make_image
from toolbox.testing.training import ITEMS

ROOT = Path(__file__).parents[1]
PLUGINS = [
    "alignment",
    "classification",
    "core",
    "datasets",
    "dinov3",
    "encoders",
    "glyphs",
    "losses",
    "qwen3",
    "retrieval",
]
VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=8)
CONVNEXT = dict(hidden_sizes=[8, 16], depths=[1, 1], layer_scale_init_value=0.5)
TIMM_VIT = dict(depth=2, embed_dim=16, num_heads=2, patch_size=8)
HF_VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=8)
HF_TEXT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
QWEN3 = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=32
)
BACKBONE = dict(type="dinov3.ViT", name=None, arch=VIT, size=16)
IMAGES = dict(backbone=BACKBONE, head=dict(type="core.Projection", dim=4))
TEXTS = dict(
    backbone=dict(type="qwen3.Embedding", name=None, arch=QWEN3),
    pool="last",
    head=dict(type="alignment.GatedMLP", dim=4, expansion=2.0),
)

CASES = [
    ("retrieval.Embedder", dict(backbone=BACKBONE)),
    ("core.PooledFeatures", dict(backbone=BACKBONE)),
    ("retrieval.Embedder", dict(backbone=BACKBONE, pool="mean", head=dict(type="core.Projection", dim=4))),
    ("classification.Classifier", dict(backbone=BACKBONE, loss=dict(type="losses.CrossEntropy"))),
    ("classification.Classifier", dict(backbone=BACKBONE, pool="cls+mean", head=dict(type="classification.MLP"))),
    ("encoders.Timm", dict(name="vit_tiny_patch16_224", size=32, weights=False, arch=TIMM_VIT)),
    ("encoders.Timm", dict(name="vit_small_patch16_dinov3", size=32, weights=False, arch=TIMM_VIT)),
    ("encoders.Timm", dict(name="convnext_atto", size=32, weights=False, arch=dict(depths=[1, 1, 1, 1], dims=[8] * 4))),
    ("encoders.HFVision", dict(name=None, size=16, arch=dict(model_type="dinov2", **HF_VIT))),
    ("encoders.HFVision", dict(name=None, size=16, arch=dict(model_type="siglip_vision_model", **HF_VIT))),
    ("alignment.DualEncoder", dict(vision=dict(image=IMAGES), text=dict(text=TEXTS), loss=dict(type="losses.CLIP"))),
    (
        "alignment.DualEncoder",
        dict(
            vision=dict(image=IMAGES, small=IMAGES),
            text=dict(text=TEXTS, other=TEXTS),
            loss=dict(type="losses.SigLIP"),
            compare="fused",
            tower_dropout=0.5,
        ),
    ),
    ("alignment.DualEncoder", dict(vision=dict(image=IMAGES), text=dict(text=TEXTS))),
    ("alignment.ZeroShot", dict()),
    ("alignment.ZeroShot", dict(prompts=["{}", "a {}"], ks=[1, 2])),
    ("alignment.GatedMLP", dict(dim=4, expansion=2.0)),
    ("alignment.ChanceWatch", dict(after=0.2)),
    ("core.FewItems", dict(dataset=dict(type="datasets.ImageFolder", root="images"), count=6)),
    ("encoders.HFText", dict(name=None, arch=dict(model_type="clip_text_model", **HF_TEXT))),
    ("qwen3.Embedding", dict(name=None, arch=QWEN3)),
    ("core.Tune", dict(mode="full")),
    ("core.Tune", dict(mode="frozen")),
    ("core.Tune", dict(mode="lora", rank=2)),
    ("core.Tune", dict(mode="last", last=1)),
    *(("core.Pool", dict(mode=mode)) for mode in ("cls", "mean", "cls+mean", "gem", "last")),
    ("core.Tower", dict(backbone=BACKBONE, head=dict(type="core.Projection", dim=4))),
    ("core.Projection", dict(dim=6)),
    ("classification.Linear", dict()),
    ("classification.Linear", dict(dropout=0.5, norm="batch")),
    ("classification.MLP", dict()),
    ("classification.MLP", dict(hidden=6, layers=3, dropout=0.0)),
    ("core.BNNeck", dict()),
    ("core.BNNeck", dict(dim=6)),
    ("core.Projection", dict(dim=6, layers=3, hidden=10, norm="layer")),
    ("retrieval.PK", dict(classes=4, per_class=2)),
    ("retrieval.PK", dict(classes=3, per_class=4, short_classes="drop")),
    ("retrieval.GroupPK", dict(groups=2, classes=4, per_class=2)),
    ("retrieval.GroupPK", dict(groups=1, classes=2, per_class=4, short_classes="drop")),
    ("retrieval.Pairs", dict(batch_size=6)),
    ("core.Shuffled", dict(batch_size=7)),
    ("core.Shuffled", dict(batch_size=7, drop_last=False)),
    ("core.Sequential", dict(batch_size=7)),
    ("core.Augment", dict()),
    ("core.Mix", dict()),
    ("core.Mix", dict(mixup=0, cutmix=0.5, probability=0.5)),
    ("core.Augment", dict(rotate=10.0, shear=5.0, color=0.4, gray=0.2, blur=0.5, erase=0.5, views=2)),
    ("retrieval.Recall", dict(ks=[1, 5])),
    ("retrieval.Recall", dict(ks=[1], lone="skip")),
    ("retrieval.Recall", dict(ks=[1], dims=[4], intervals=20, whiten=4, alpha_qe=[3, 3.0], rerank=[5, 2, 0.3])),
    ("retrieval.Recall", dict(ks=[1], whiten=4, whiten_from="gallery", alpha_qe=[3, 1.0], expand_gallery=True)),
    ("retrieval.LateInteractionRecall", dict(ks=[1, 5])),
    ("alignment.Recall", dict()),
    ("alignment.Recall", dict(ks=[1, 5], dims=[4], intervals=20)),
    ("alignment.Probe", dict()),
    ("classification.Accuracy", dict()),
    ("classification.Accuracy", dict(ks=[3], intervals=20)),
    ("classification.CalibrationError", dict()),
    ("classification.CalibrationError", dict(bins=3)),
    ("classification.Probe", dict(backbone=BACKBONE)),
    ("classification.Probe", dict(backbone=BACKBONE, inputs=["mean"], rates=[0.1])),
    ("classification.KNN", dict()),
    ("classification.KNN", dict(ks=[1, 3])),
    ("classification.LogisticRegression", dict(cs=[1.0])),
    ("classification.CompareProbes", dict()),
    ("core.Quantize", dict()),
    ("core.Quantize", dict(bits=8)),
    ("core.AdamW8bit", dict()),
    ("core.Pool", dict(mode="cls+mean", blocks=2)),
    ("core.Shuffled", dict(batch_size=4, repeats=2)),
    ("core.AdamW", dict()),
    ("core.SGD", dict()),
    ("core.WarmupCosine", dict()),
    ("core.WarmupCosine", dict(warmup=1, final=0.1)),
    ("core.Constant", dict()),
    ("core.EarlyStop", dict(patience=2)),
    ("core.TensorBoard", dict()),
    *((f"core.{name}", dict(project="chairs")) for name in ("WandB", "Trackio", "SwanLab")),
    ("core.MLflow", dict(experiment="chairs")),
    ("datasets.SOP", dict(root="sop", split="train", val_share=0.5)),
    ("datasets.SOP", dict(root="sop", split="val", val_share=0.5)),
    ("datasets.SOP", dict(root="sop", split="trainval")),
    ("datasets.SOP", dict(root="sop", split="test")),
    ("datasets.InShop", dict(root="inshop", split="train", val_share=0.5)),
    ("datasets.InShop", dict(root="inshop", split="test")),
    ("datasets.CUB", dict(root="cub", split="val", val_share=0.5)),
    ("datasets.CUB", dict(root="cub", split="test")),
    ("datasets.Cars", dict(root="cars", split="trainval")),
    ("datasets.Cars", dict(root="cars", split="test")),
    ("datasets.Records", dict(path="sop/pairs.jsonl")),
    ("datasets.Records", dict(path="sop/pairs.jsonl", split="val", val_share=0.5, columns={"label": None})),
    ("datasets.Records", dict(path="sop/pairs.jsonl", mode="i2t")),
    ("datasets.Records", dict(path="sop/pairs.jsonl", mode="t2t", columns={"query": "query_image"})),
    ("datasets.ImageFolder", dict(root="images")),
    ("datasets.ImageFolder", dict(root="images", split="test", test_share=0.5)),
    ("datasets.ImageFolder", dict(root="images", split="train", divide="images", val_share=0.3)),
    ("datasets.HF", dict(name="hf", shots=1)),
    ("datasets.Food101", dict(root="food101", ratio=0.5)),
    ("datasets.CIFAR10", dict(root="cifar10", split="test")),
    ("datasets.ImageNet", dict(root="imagenet", split="val")),
    ("dinov3.ViT", dict(name=None, arch=VIT, size=16)),
    ("dinov3.ViT", dict(name=None, arch={**VIT, "num_register_tokens": 2, "use_gated_mlp": True}, size=16)),
    ("dinov3.ConvNeXt", dict(name=None, arch=CONVNEXT, size=32)),
    ("glyphs.Glyphs", dict(split="val", size=16)),
    ("glyphs.Glyphs", dict(split="test", views=2)),
    ("losses.SupCon", dict()),
    ("losses.InfoNCE", dict()),
    ("losses.InfoNCE", dict(symmetric=True)),
    *(("losses.Triplet", dict(margin=0.3, miner=miner)) for miner in ("all", "hard", "semi")),
    ("losses.Triplet", dict(margin=0.3, distance="cosine")),
    ("losses.InfoNCE", dict(hardest=4, symmetric=True)),
    ("losses.MultiSimilarity", dict()),
    ("losses.MultiSimilarity", dict(mine=True)),
    ("losses.Circle", dict()),
    ("losses.RecallAtK", dict()),
    ("losses.ProxyAnchor", dict()),
    ("losses.ArcFace", dict()),
    ("losses.SubCenterArcFace", dict()),
    ("losses.CrossEntropy", dict()),
    ("losses.CrossEntropy", dict(label_smoothing=0.1)),
    ("losses.CLIP", dict()),
    ("losses.CoSENT", dict()),
    ("losses.CoSENT", dict(within_anchor=True)),
    ("losses.SigLIP", dict()),
    ("losses.MaxSim", dict()),
    ("losses.MaxSim", dict(reduce="sum", temperature=0.5)),
    *(("losses.Distillation", dict(kind=kind)) for kind in ("kl", "mse", "embedding")),
    ("losses.Sum", dict(losses=[dict(type="losses.SupCon"), dict(type="losses.SigLIP")], weights=[1, 0.5])),
    ("losses.Sum", dict(losses=[dict(type="losses.ProxyAnchor"), dict(type="losses.Distillation")])),
    ("losses.Matryoshka", dict(loss=dict(type="losses.SupCon"), dims=[16, 8])),
    ("losses.Matryoshka", dict(loss=dict(type="losses.ProxyAnchor"), dims=[4, 16], weights=[0.5, 1])),
    ("losses.Matryoshka", dict(loss=dict(type="losses.MaxSim"), dims=[4, 16])),
    ("losses.CrossBatchMemory", dict(loss=dict(type="losses.SupCon"), size=20)),
    ("losses.CrossBatchMemory", dict(loss=dict(type="losses.Triplet"), size=5, warmup=1)),
]


def name_of(case) -> str:
    return case if isinstance(case, str) else ",".join(f"{key}={value}" for key, value in case.items())[:40]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with each dataset in its layout, and `images/`, one folder a class."""
    folder = tmp_path_factory.mktemp("data")
    dataset = LabelledImages([2] * 8)
    lines = {"train": [], "test": []}
    for number, label in enumerate(dataset.labels, start=1):
        picture, split = make_image((12, 10), seed=number), "train" if label < 4 else "test"
        for path in (
            folder / "sop" / "chair_final" / f"{number}.JPG",
            folder / "images" / str(label) / f"{number}.jpg",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        lines[split].append(f"{number} {label + 1} 1 chair_final/{number}.JPG\n")
        for name, path in (
            ("cub", f"images/{label}.Bird/{number}.jpg"),
            ("cars", f"car_ims/{number}.jpg"),
            ("inshop", f"img/WOMEN/Tees/id_{label}/{number}.jpg"),
        ):
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(folder / name / path)
    for split, rows in lines.items():
        header = "image_id class_id super_class_id path\n"
        (folder / "sop" / f"Ebay_{split}.txt").write_text(header + "".join(rows))
    numbered = list(enumerate(dataset.labels, start=1))
    pairs = [
        {"query_image": f"chair_final/{i}.JPG", "positive": f"chair_final/{i + 1}.JPG", "label": label}
        for i, label in numbered[::2]
    ]
    (folder / "sop" / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "cub" / "images.txt").write_text("".join(f"{i} {c}.Bird/{i}.jpg\n" for i, c in numbered))
    later = [(i, c + 1 if c < 4 else c + 100) for i, c in numbered]  # the second half of the classes is the test
    (folder / "cub" / "image_class_labels.txt").write_text("".join(f"{i} {c}\n" for i, c in later))
    rows = "".join(f"car_ims/{i}.jpg,{c}\n" for i, c in later)
    (folder / "cars" / "cars_annos.csv").write_text("relative_im_path,class\n" + rows)
    roles = ["train" if c < 4 else ("query", "gallery")[i % 2] for i, c in numbered]
    named = zip(numbered, roles, strict=True)
    rows = "".join(f"img/WOMEN/Tees/id_{c}/{i}.jpg id_{c} {role}\n" for (i, c), role in named)
    listed = f"{len(numbered)}\nimage_name item_id evaluation_status\n{rows}"
    (folder / "inshop" / "list_eval_partition.txt").write_text(listed)
    write_classification(folder, dataset)
    return folder


def write_classification(folder, dataset):
    """`food101/`, `cifar10/`, `imagenet/` and `hf/`, with the same images in training and test."""
    numbered = list(enumerate(dataset.labels, start=1))
    for part, top in (("train", "train"), ("test", "val")):
        stems = [f"{label}/{part}{i}" for i, label in numbered]
        paths = [f"imagenet/{top}/n{label}/{part}{i}.JPEG" for i, label in numbered]
        for (i, _), path in zip(numbered * 2, [*(f"food101/images/{stem}.jpg" for stem in stems), *paths], strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            make_image((12, 10), seed=i).save(folder / path)
        (folder / "food101" / "meta").mkdir(exist_ok=True)
        (folder / "food101" / "meta" / f"{part}.txt").write_text("\n".join(stems))
    (folder / "food101" / "meta" / "classes.txt").write_text("\n".join(map(str, range(8))))
    (folder / "cifar10").mkdir()
    records = b"".join(bytes([label]) + make_image((32, 32), seed=i).tobytes() for i, label in numbered)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / "cifar10" / f"{name}.bin").write_bytes(records)
    (folder / "cifar10" / "batches.meta.txt").write_text("".join(f"class {number}\n" for number in range(10)))
    images = [make_image((12, 10), seed=i) for i, _ in numbered * 3]
    features = hugging_face.Features(image=hugging_face.Image(), label=hugging_face.ClassLabel(num_classes=8))
    table = hugging_face.Dataset.from_dict({"image": images, "label": dataset.labels * 3}, features)
    table.save_to_disk(str(folder / "hf"))


@pytest.mark.parametrize("namespace", PLUGINS)
def test_plugin(namespace):
    check_plugin(namespace)


@pytest.mark.parametrize(("fullname", "arguments"), CASES, ids=name_of)
def test_component(fullname, arguments, folders, monkeypatch):
    entry = next(entry for entry in get_catalog().entries if entry.fullname == fullname)
    if missing := entry.missing:
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(folders)
    check_component(fullname, **arguments)


# these have tests of their own, beside what they need
ELSEWHERE = {"classification.ProbeAccuracy"}


def test_no_component_is_forgotten():
    shipped = {entry.fullname for entry in get_catalog().entries if entry.namespace in PLUGINS}
    assert {fullname for fullname, _ in CASES} | ELSEWHERE == shipped


@pytest.mark.parametrize("choose", [False, True])
def test_the_accuracy_of_probes(choose):
    told = torch.randint(6, (ITEMS, 2), generator=torch.Generator().manual_seed(0))
    grid = {"linear/cls/0.1": told, "linear/cls/0.2": told.flip(0)}
    outputs = grid if choose else {"linear": told, "logits": torch.zeros(ITEMS, 6), **grid}
    check_metric(lambda: ProbeAccuracy(choose=choose), outputs)


def imported(file: Path) -> set[str]:
    """The modules of the toolbox that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "toolbox"}


def test_plugins_import_four_modules_of_the_toolbox():
    files = [*ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("examples/*/src/**/*.py")]
    # the commands of a plugin call the public functions besides
    used = {
        name: file for file in files for name in imported(file) if (name, file.parent.name) != ("toolbox", "commands")
    }
    used = {name if not name.startswith("toolbox.utils.") else "toolbox.utils": file for name, file in used.items()}
    assert used.keys() >= {"toolbox.plugin", "toolbox.base"}, "the search finds nothing"
    assert used.keys() <= {"toolbox.plugin", "toolbox.base", "toolbox.utils", "toolbox.testing"}, used


def test_the_command_line_names_no_component():
    names = {entry.fullname for entry in get_catalog().entries}
    for file in ("train", "test", "model_commands", "common", "main"):
        text = (ROOT / "toolbox" / "cli" / f"{file}.py").read_text(encoding="utf-8")
        assert not [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)], file
    assert "core.AdamW" in names
