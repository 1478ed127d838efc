"""tools/predict.py: what it writes, shows and refuses; and `Encoder.classify`."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from test_class_names import CLASSIFIER, forget
from test_embed import NAMES, draw
from test_report import EVIL, Page
from toolbox_classification.commands import prediction_page

import toolbox
from toolbox.base import Batch, read_image
from toolbox.cli.main import main
from toolbox.loading import load_model
from toolbox.registry import get_catalog
from toolbox.report import page as report_page
from toolbox.utils.top_classes import rank_classes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of a classifier of 16 classes, the second of which has a hostile name."""
    from toolbox.config import load_config
    from toolbox.registry import add_local

    here = Path(__file__).parent
    if "toy" not in {plugin.namespace for plugin in get_catalog().plugins}:
        add_local([str(here / "toy_plugin.py")])
    noise, folder = get_catalog().resolve("toy.Noise"), tmp_path_factory.mktemp("trained")
    whole = noise.__init__

    def init(self, count: int = 64, per_class: int = 4, seed: int = 0, bad: list[int] | None = None):
        whole(self, count, per_class, seed, bad)
        self.classes[1] = EVIL

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "__init__", init)
        patch.chdir(folder)
        toolbox.train(load_config(here / "toy_recipe.py", [*CLASSIFIER, "train_cfg.max_steps=3"]), out=folder / "w")
    return folder / "w"


@pytest.fixture
def photos(tmp_path):
    """Five pictures in a folder, and a file that is none."""
    root = tmp_path / "photos"
    for seed, name in enumerate(NAMES):
        draw(root / name, seed)
    (root / "notes.txt").write_text("no picture")
    return root


def table(path):
    """The rows of a CSV file."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def predict(trained, photos, tmp_path, monkeypatch, capsys):
    """`predict(*arguments, images=...) -> (exit code, output, errors)`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments, model=trained, images=photos):
        code = main(
            ["predict", *(str(text) for text in (model, images, *arguments, "--device", "cpu", "--num-workers", 0))]
        )
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return call


def expected(trained, folder):
    """Names and probabilities of all classes, best first, by the model alone."""
    encoder = toolbox.load(trained, device="cpu")
    names = [f"class {i}" if i != 1 else EVIL for i in range(16)]
    found = []
    for name in NAMES:
        image = encoder.model.preprocess()["image"](read_image(folder / name))
        batch = Batch.example({"image": image[None]})
        with torch.no_grad():
            scores = encoder.model(batch, "predict")["logits"][0].softmax(0).tolist()
        found.append(sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1]))
    return found


# ---- what it writes


def test_the_files_hold_what_the_model_says(predict, trained, photos):
    code, said, _ = predict("--out", "a.csv", "--batch-size", 2)
    assert code == 0
    assert "a.csv: 5 images" in said
    assert "1 other files ignored" in said
    whole = expected(trained, photos)
    rows = table("a.csv")
    assert list(rows[0]) == ["path", *(f"{what}{i}" for i in range(1, 6) for what in ("label", "score"))]
    assert [row["path"] for row in rows] == NAMES
    for row, pairs in zip(rows, whole, strict=True):
        for place, (name, score) in enumerate(pairs[:5], 1):
            assert row[f"label{place}"] == name
            assert float(row[f"score{place}"]) == pytest.approx(score, abs=1e-5)
    assert predict("--out", "a.json", "--top", 16)[0] == predict("--out", "a.jsonl", "--top", 16)[0] == 0
    held = json.loads(Path("a.json").read_text())
    assert [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()] == held
    for item, name, pairs in zip(held, NAMES, whole, strict=True):
        assert item["path"] == name
        assert [found["label"] for found in item["predictions"]] == [label for label, _ in pairs]
        assert sum(found["score"] for found in item["predictions"]) == pytest.approx(1, abs=1e-4)


def test_the_python_function_says_the_same(trained, photos):
    encoder = toolbox.load(trained, device="cpu")
    found = encoder.classify([photos / name for name in NAMES], top=3, batch_size=2)
    for row, pairs in zip(found, expected(trained, photos), strict=True):
        assert [name for name, _ in row] == [name for name, _ in pairs[:3]]
        assert [score for _, score in row] == pytest.approx([score for _, score in pairs[:3]], abs=1e-5)
    assert len(encoder.classify(photos / "top.png", top=99)[0]) == 16
    with pytest.raises(toolbox.ToolboxError, match="top from 1 up"):
        encoder.classify(photos / "top.png", top=0)


def test_few_pictures_are_shown_as_a_table(predict, photos):
    code, said, _ = predict("--top", 2, images=photos / "top.png")
    assert code == 0
    assert re.search(r"top\.png\s.+ 0\.\d{3}\s.+ 0\.\d{3}", said)
    for number in range(30):
        draw(photos / f"more/{number}.png", number)
    _, said, _ = predict()
    assert "15 more images are not shown: write them with --out" in said
    _, said, _ = predict("--out", "all.csv")
    assert "top.png" not in said
    assert len(Path("all.csv").read_text().splitlines()) == 36


def test_the_page_shows_pictures_and_bars_without_a_network(predict, photos, monkeypatch):
    assert predict("--page", "p.html")[0] == 0
    page = Page(Path("p.html"))
    assert len(page.all("span", "image")) == 5
    assert len(page.all("dt")) == 25
    assert "<script" not in page.source
    assert not re.search(r"(src|href)=\"http|url\((?!data:)", page.source)
    assert "default-src 'none'" in page.source
    for name in NAMES:
        assert name in page.text
    assert "are shown" not in page.text
    monkeypatch.setattr(prediction_page, "MOST_IMAGES", 3)
    assert predict("--page", "p.html", "--overwrite")[0] == 0
    assert "The 3 least sure of 5 images are shown" in Page(Path("p.html")).text
    monkeypatch.setattr(report_page, "MOST_BYTES", 1)
    predict("--page", "p.html", "--overwrite")
    assert "The 1 least sure of 5 images are shown" in Page(Path("p.html")).text


def test_the_page_counts_classes_and_shows_the_least_sure_pictures_first(predict, photos):
    assert predict("--out", "p.json", "--page", "p.html")[0] == 0
    held = json.loads(Path("p.json").read_text())
    firsts = [item["predictions"][0] for item in held]
    page = Page(Path("p.html"))
    listed = re.findall(r"<p>([^<]+)</p><dl>", page.source)
    order = sorted(range(len(held)), key=lambda place: firsts[place]["score"])
    assert listed == [held[place]["path"] for place in order]
    counts = Counter(first["label"] for first in firsts)
    rows = re.findall(r'<tr><td class="text">(.*?)</td><td>(\d+)</td>', page.source)
    assert {html.unescape(label): int(count) for label, count in rows} == counts
    assert [int(count) for _, count in rows] == sorted(counts.values(), reverse=True)


def test_several_images_folders_and_lists(predict, photos):
    (photos / "list.txt").write_text("a/1.png\ntop.png\n")
    code, said, _ = predict(
        photos / "top.png", "photos/b c", "photos/list.txt", "--out", "a.csv", images="photos/a/2.jpg"
    )
    assert code == 0
    listed = [row["path"] for row in table("a.csv")]
    assert listed == ["photos/a/2.jpg", str(photos / "top.png"), "photos/b c/deep/ü.webp", "photos/a/1.png"]
    assert "1 images that are named again are counted once" in said
    assert f"4 images of photos/a/2.jpg, {photos}/top.png, photos/b c and 1 more" in said
    assert predict("--out", "b.csv")[0] == 0
    alone = {row["path"]: row for row in table("b.csv")}
    assert [row["label1"] for row in table("a.csv")] == [
        alone[name]["label1"] for name in ("a/2.jpg", "top.png", "b c/deep/ü.webp", "a/1.png")
    ]
    code, _, said = predict("none.jpg", "no folder", images=photos / "top.png")
    assert code == 2
    assert "none.jpg does not exist" in said
    assert "no folder does not exist" in said


# ---- what it refuses


def test_unreadable_pictures_stop_it_or_are_named(predict, photos):
    (photos / "a/2.jpg").write_bytes(b"no picture")
    code, _, said = predict("--out", "a.csv")
    assert (code, Path("a.csv").exists()) == (2, False)
    assert "1 of the first 5 items (of 5) cannot be read" in said
    assert "vision-encoder-toolbox audit_data" in said
    (photos / "top.png").write_bytes(b"")
    said = predict("--out", "a.csv", "--batch-size", "1")[2]
    assert "2 of the first 5 items (of 5) cannot be read" in said, "also those of batches that it did not come to"
    assert "the file is empty" in said
    draw(photos / "top.png", 1)
    code, out, said = predict("--out", "a.csv", "--page", "p.html", "--on-bad-item", "skip")
    assert code == 0
    assert "2.jpg" in said
    assert "4 images; 1 unreadable images left out" in out
    assert len(Path("a.csv").read_text().splitlines()) == 5
    assert "1 more could not be read and is left out" in Page(Path("p.html")).text


def test_targets_are_checked_before_anything_is_computed(predict, tmp_path, monkeypatch):
    monkeypatch.setattr(toolbox.loading, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    Path("there.csv").write_text("x")
    Path("folder.csv").mkdir()
    Path("file").write_text("x")
    for arguments, words in (
        (["--out", "there.csv"], "is there already"),
        (["--out", "folder.csv"], "is a folder"),
        (["--out", "a.txt"], "must end in .csv, .json, .jsonl"),
        (["--page", "p.csv"], "must end in .html"),
        (["--out", "file/a.csv"], "Nothing can be written"),
        (["--overwrite"], "no effect without --out"),
    ):
        code, _, said = predict(*arguments)
        assert (code, words in said) == (2, True), said
    assert Path("there.csv").read_text() == "x"


def test_models_that_do_not_classify_are_refused(predict, toy, trained, tmp_path):
    toolbox.train(toy(["train_cfg.max_steps=3", "evaluate_before=False"]), out=tmp_path / "embedder")
    code, _, said = predict("--out", "a.csv", model=tmp_path / "embedder")
    assert code == 2
    assert "gives no logits, but embeddings" in said
    headless = load_model(str(trained), device="cpu", baseline=True)
    with pytest.raises(toolbox.ToolboxError, match="no logits"):
        headless.classify(tmp_path / "photos/top.png")
    assert "only a trained model has classes" in predict(model="vits16")[2]
    assert "no manifest.json" in predict(model=tmp_path / "photos")[2]
    assert "asks for 17 classes, and the model tells 16 apart" in predict("--top", 17)[2]
    with pytest.raises(SystemExit):
        predict("--baseline")  # no part of a classifier's answer


def test_a_checkpoint_without_names_gives_numbers(predict, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "old", symlinks=True)
    forget((tmp_path / "old/best").resolve())
    code, said, _ = predict("--out", "a.csv", model=tmp_path / "old")
    assert code == 0
    assert "labels are their numbers" in said
    assert predict("--out", "b.csv")[0] == 0
    for old, now in zip(table("a.csv"), table("b.csv"), strict=True):
        assert now["label1"] == (EVIL if old["label1"] == "1" else f"class {old['label1']}")


def test_what_is_likeliest():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    labels, scores = rank_classes({"logits": logits}, 3, ["x"])
    assert labels.tolist() == [[1, 2, 3]]  # of equal ones the first
    assert scores[0].tolist() == pytest.approx(logits[0].softmax(0)[[1, 2, 3]].tolist())
    with pytest.raises(toolbox.ToolboxError, match="NaN or infinity: x"):
        rank_classes({"logits": logits.log().log()}, 3, ["x"])
    with pytest.raises(toolbox.ToolboxError, match="names 3 classes, and its model tells 4 apart"):
        rank_classes({"logits": logits}, 3, ["x"], ["a", "b", "c"])


def test_the_shim_starts_the_command(command):
    done = command("predict", "--help")
    assert done.returncode == 0
    assert "softmax probability" in done.stdout
