"""tools/mine_negatives.py: exact hard negatives, against plain NumPy."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from toolbox_retrieval.commands.mine_negatives import list_class_labels
from toolbox_retrieval.mining import PathDataset, find_largest, mine_negatives

import toolbox
from toolbox.cli.main import main as console

ROOT = Path(__file__).parent.parent


def main(arguments):
    return console(["mine_negatives", *arguments])


def data(count=60, classes=9, dim=5, seed=0):
    """Rows of length 1 in float64, and labels of uneven classes, the last being alone."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, dim))
    labels = rng.integers(0, classes, count)
    labels[-1] = classes
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def plainly(rows, labels, *, negatives, top, skip=0, margin=None, max_similarity=None, positives=1, keep_short=False):
    """The same, item by item with a stable sort."""
    similar, found, counts = rows @ rows.T, [], dict(alone=0, empty=0, short=0, by_margin=0, by_similarity=0)
    for i in range(len(rows)):
        own = [j for j in range(len(rows)) if labels[j] == labels[i] and j != i]
        if not own:
            counts["alone"] += 1
            continue
        own = sorted(own, key=lambda j: -similar[i, j])[:positives]
        others = sorted((j for j in range(len(rows)) if labels[j] != labels[i]), key=lambda j: -similar[i, j])
        kept = []
        for j in others[skip:top]:
            if max_similarity is not None and similar[i, j] > max_similarity:
                counts["by_similarity"] += 1
            elif margin is not None and similar[i, j] > similar[i, own[-1]] - margin:
                counts["by_margin"] += 1
            else:
                kept.append(j)
        kept = kept[:negatives]
        counts["empty"] += not kept
        counts["short"] += len(kept) < negatives
        if len(kept) >= (1 if keep_short else negatives):
            found.append((i, own, kept))
    return found, counts


@pytest.mark.parametrize(
    "given",
    [
        dict(negatives=5, top=50),
        dict(negatives=3, top=10, skip=4),
        dict(negatives=3, top=10, margin=0.0),
        dict(negatives=3, top=30, margin=0.3, positives=2),
        dict(negatives=9, top=10, margin=0.3, keep_short=True),
        dict(negatives=3, top=30, margin=-0.2, max_similarity=0.6, skip=2),
        dict(negatives=4, top=500, max_similarity=0.2, positives=100),
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_mb", [0, 256])
def test_the_same_as_item_by_item(given, memory_mb):
    rows, labels = data()
    expected, counts = plainly(rows, labels, **given)
    found = mine_negatives(torch.from_numpy(rows), torch.from_numpy(labels), **given, memory_mb=memory_mb)
    assert found.rows == expected
    assert {name: getattr(found, name) for name in counts} == counts
    assert counts["alone"] == 1
    for query, positives, negatives in found.rows:
        assert query not in positives
        assert set(labels[positives]) == {labels[query]}
        assert labels[query] not in labels[negatives]


def test_equal_similarities_stand_in_the_order_of_items():
    rows = torch.ones(40, 1, dtype=torch.float64)  # a model that maps everything to one point
    labels = torch.arange(40) // 2
    found = mine_negatives(rows, labels, negatives=3, top=6)
    assert found.rows[0] == (0, [1], [2, 3, 4])
    assert found.rows[7] == (7, [6], [0, 1, 2])
    values = torch.tensor([[1.0, 3, 3, 2, 3, 1, 1], [0, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    for count in range(1, 9):
        wanted = values.sort(dim=1, descending=True, stable=True)
        scores, columns = find_largest(values, count)
        assert torch.equal(scores, wanted.values[:, :count])
        assert torch.equal(columns, wanted.indices[:, :count])


def test_margin_tells_likely_false_negatives():
    """A near copy of the query under another label is left out by a margin, and stands first without one."""
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0.8, 0.6], [1.0, 0.01], [0.5, 0.9], [0, 1.0]]), dim=1)
    labels = torch.tensor([0, 0, 1, 1, 2])
    first = mine_negatives(rows, labels, negatives=1, top=10)
    assert first.rows[0] == (0, [1], [2])
    careful = mine_negatives(rows, labels, negatives=1, top=10, margin=0.0)
    assert careful.rows[0] == (0, [1], [3])
    assert careful.by_margin > 0
    skipping = mine_negatives(rows, labels, negatives=1, top=10, skip=1)
    assert skipping.rows[0] == (0, [1], [3])


@pytest.mark.parametrize(
    "given",
    [
        dict(negatives=0),
        dict(positives=0),
        dict(skip=-1),
        dict(top=4),
        dict(top=50, skip=46),
        dict(top=0),
    ],
)
def test_numbers_that_make_no_sense(given):
    rows, labels = data()
    with pytest.raises(ValueError, match=r"at least|fewer than"):
        mine_negatives(torch.from_numpy(rows), torch.from_numpy(labels), **given)


def test_one_class_and_classes_of_one_have_no_rows():
    rows, _ = data()
    one = mine_negatives(torch.from_numpy(rows), torch.zeros(60, dtype=torch.long))
    assert (one.rows, one.alone, one.empty) == ([], 0, 60)
    each = mine_negatives(torch.from_numpy(rows), torch.arange(60))
    assert (each.rows, each.alone, each.empty) == ([], 60, 0)


def test_memory_stays_bounded(monkeypatch):
    """No more than `memory_mb` of similarities at a time: seen from the sizes of the products."""
    sizes = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: sizes.append(len(a)) or matmul(a, b))
    rows = torch.nn.functional.normalize(torch.randn(3000, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    mine_negatives(rows, torch.arange(3000) // 3, memory_mb=1)
    assert sum(sizes) == 3000
    assert max(sizes) * 3000 * 20 <= 2**20


# the command


@pytest.fixture
def pictures(tmp_path):
    """Eight classes of four tinted pictures, one class of one."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label, name in enumerate(["ä b", *"cdefghi"]):
        for index in range(1 if label == 7 else 4):
            path = tmp_path / f"pictures/{name}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            tint = np.random.default_rng(label).integers(60, 200, 3)
            noise = rng.integers(-60, 60, (16, 16, 3))
            Image.fromarray((tint + noise).clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path / "pictures"


def command(*arguments) -> int:
    folder = ["train_dataloader.dataset=dict(type='datasets.ImageFolder',root='./pictures')"]
    recipe = ROOT / "tests/toy_recipe.py"
    return main([str(a) for a in (recipe, *arguments, "--device", "cpu", "--num-workers", 0, "--cfg-options", *folder)])


def test_a_file_of_hard_negatives(toy, pictures, capsys):
    toy()
    assert command("hard.jsonl", "--negatives", 3, "--top", 20) == 0
    printed = capsys.readouterr().out
    assert "hard.jsonl: 28 of 29 items with 3 negatives each" in printed
    assert "1 items are alone in their class and left out" in printed
    assert "type='datasets.Records', path='hard.jsonl', root='./pictures'" in printed
    lines = [json.loads(line) for line in Path("hard.jsonl").read_text(encoding="utf-8").splitlines()]
    dataset = toolbox.build(dict(type="datasets.ImageFolder", root="pictures"))
    assert {line["query_image"] for line in lines} == {name for name, _ in dataset.items if not name.startswith("i/")}
    for line in lines:
        assert list(line) == ["query_image", "positive", "negatives", "label"]
        own = line["label"] + "/"
        assert line["query_image"].startswith(own)
        assert line["positive"].startswith(own)
        assert line["positive"] != line["query_image"]
        assert len(line["negatives"]) == 3
        assert not any(name.startswith(own) for name in line["negatives"])
    first = Path("hard.jsonl").read_bytes()
    assert command("again.jsonl", "--negatives", 3, "--top", 20, "--batch-size", 64) == 0
    assert Path("again.jsonl").read_bytes() == first
    # the numbers behind it: the embeddings that tools/embed.py writes
    from toolbox.cli.embed import main as embed
    from toolbox.utils.stored_embeddings import read_embeddings

    recipe = str(ROOT / "tests/toy_recipe.py")
    folder = "train_dataloader.dataset=dict(type='datasets.ImageFolder',root='pictures')"
    assert embed([recipe, "e.npz", "--split", "train", "--device", "cpu", "--cfg-options", folder]) == 0
    ids, rows = read_embeddings(Path("e.npz"))
    names = np.array([name.split("/")[0] for name in ids])
    expected, _ = plainly(rows.astype(np.float64), names, negatives=3, top=20)
    assert [[line["query_image"], line["positive"], line["negatives"]] for line in lines] == [
        [ids[query], ids[positives[0]], [ids[i] for i in negatives]] for query, positives, negatives in expected
    ]


def test_several_positives_and_limits_are_counted(toy, pictures, capsys):
    toy()
    given = ["--positives", 2, "--margin", 0, "--max-similarity", 0.99999, "--skip", 1, "--negatives", 20]
    assert command("hard.jsonl", *given) == 0
    printed = capsys.readouterr().out
    assert "candidates were left out by --margin" in printed
    assert "items have fewer negatives and are left out" in printed
    assert command("hard.jsonl", *given, "--keep-short", "--overwrite") == 0
    assert "items have fewer negatives and are kept" in capsys.readouterr().out
    lines = [json.loads(line) for line in Path("hard.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(len(line["positive"]) == 2 for line in lines)


@pytest.mark.parametrize(
    ("names", "written"),
    [(["a", "7"], ["a", "7"]), (["a", "NA"], [0, 1]), (["a", "0.5"], [0, 1]), (["7", "7.0"], [0, 1]), (None, [0, 1])],
)
def test_classes_are_written_as_they_will_be_read(names, written):
    from types import SimpleNamespace

    found = list_class_labels(SimpleNamespace(classes=names, labels=[0, 1, 1]))
    assert [found[label] for label in range(2)] == written


def test_unreadable_items_are_named(toy, pictures, capsys):
    toy()
    (pictures / "c/2.png").write_text("")
    assert command("hard.jsonl") == 2
    assert "c/2.png" in capsys.readouterr().err
    assert not Path("hard.jsonl").exists()
    assert command("hard.jsonl", "--on-bad-item", "skip") == 0
    said = capsys.readouterr()
    assert "27 of 28 items" in said.out
    assert "c/2.png" in said.err
    assert "c/2.png" not in Path("hard.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hard.json"], "must end in .jsonl"),
        (["hard.jsonl", "--top", "3"], "try top=50"),
        (["there.jsonl"], "--overwrite"),
        (["hard.jsonl", "--split", "test"], "no test_dataloader"),
        (["hard.jsonl", "--max-similarity", "-2"], "28 have no negative, 0 fewer"),
    ],
)
def test_mistakes_have_one_message(toy, pictures, capsys, arguments, message):
    toy()
    Path("there.jsonl").write_text("precious")
    assert command(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert Path("there.jsonl").read_text() == "precious"
    assert not Path("hard.jsonl").exists()


def test_what_cannot_be_mined(toy, tmp_path, capsys):
    toy()
    assert main(["vitb16", "hard.jsonl"]) == 2
    assert "name it in the recipe" in capsys.readouterr().err
    assert main([str(ROOT / "tests/toy_recipe.py"), "hard.jsonl", "--device", "cpu"]) == 2
    assert "items of Noise have no 'path'" in capsys.readouterr().err


def test_paths_are_relative_to_the_root(pictures):
    for root in (pictures, f"{pictures}/", f"{pictures}/../pictures", pictures.parent / "./pictures"):
        dataset = PathDataset(toolbox.build(dict(type="datasets.ImageFolder", root=str(root))))
        assert dataset[0]["id"] == "c/0.png"
    dataset.root = None
    assert dataset[0]["id"] == (pictures / "c/0.png").as_posix()


def test_a_mined_file_trains_with_explicit_negatives(toy, pictures, capsys):
    toy()
    assert command("hard.jsonl", "--negatives", 3, "--positives", 2) == 0
    said = capsys.readouterr().out.partition("--cfg-options")[2].replace("\\\n", " ")
    more = ["model.loss=dict(type='losses.InfoNCE')", "val_dataloader=None", "val_evaluator=None"]
    assert toolbox.check_config(toy([*shlex.split(said), *more])) == [], "what it says to type can be typed"
    records = "train_dataloader.dataset=dict(type='datasets.Records',path='hard.jsonl',root='pictures')"
    config = toy(
        [
            records,
            "train_dataloader.sampler=dict(type='retrieval.Pairs',batch_size=7,negatives=3)",
            "model.loss=dict(type='losses.InfoNCE')",
            "model.cross_view=True",
            "val_dataloader=None",
            "val_evaluator=None",
            "train_cfg=dict(max_steps=4)",
            "evaluate_before=False",
        ]
    )
    results = toolbox.train(config, out="run", device="cpu")
    assert results["steps"] == 4
    losses = [json.loads(line)["loss"] for line in Path("run/metrics.jsonl").read_text().splitlines() if "loss" in line]
    assert losses
    assert np.isfinite(losses).all()
    # a batch is queries, positives and the mined negatives of each query
    rows = [json.loads(line) for line in Path("hard.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = {row["query_image"]: row for row in rows}
    dataset = toolbox.build(dict(type="datasets.Records", path="hard.jsonl", root="pictures"))
    sampler = toolbox.build(dict(type="retrieval.Pairs", batch_size=7, negatives=3))
    sampler.setup(dataset, seed=0)
    assert len(dataset.records) == 28
    for number in range(len(sampler)):
        blocks = np.array([dataset.index.paths[index] for index in sampler.batch(number)]).reshape(5, 7)
        for query, positive, *negatives in blocks.T:
            assert positive in lines[query]["positive"]
            assert set(negatives) == set(lines[query]["negatives"])
    # mining in what was mined, with what was trained on it
    assert main(["run", "again.jsonl", "--device", "cpu", "--negatives", "3"]) == 0
    again = [json.loads(line) for line in Path("again.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["query_image"] for line in again} == set(lines)
