"""The audit: duplicates, leaks, conflicts and near duplicates against counting by hand, and the command."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from timing import is_quick
from toolbox_datasets.imagefolder import ImageFolder

from toolbox import data_audit as audit
from toolbox.cli.audit_data import main
from toolbox.data_audit import (
    MASKS,
    Counts,
    Fingerprint,
    compute_difference_hash,
    digest_pixels,
    find_close_hashes,
    find_duplicates,
    find_near_duplicates,
    is_label_conflict,
    name_splits,
    read_fingerprints,
)
from toolbox.testing.material import make_image

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path):
    """A folder of splits in which everything is wrong that can be; `a` and `b` are classes."""
    root = tmp_path / "pictures"
    for name in ("train/a", "train/b", "test/a", "test/c", "val/a", "val/b"):
        (root / name).mkdir(parents=True)
    picture = make_image((40, 60), seed=1)
    picture.save(root / "train/a/1.png")
    same = (root / "train/a/1.png").read_bytes()
    (root / "train/a/2.png").write_bytes(same)  # a copy of the file
    (root / "train/b/3.png").write_bytes(same)  # another, of another class
    picture.save(root / "train/a/4.bmp")  # the same pixels in another file
    (root / "test/c/5.png").write_bytes(same)  # a leak
    picture.save(root / "test/c/6.tif")  # a leak of pixels
    picture.resize((120, 80)).save(root / "test/c/7.jpg", quality=60)  # a near duplicate
    (root / "train/b/8.jpg").write_text("no image")
    (root / "val/a/9.jpg").write_bytes((root / "test/c/7.jpg").read_bytes()[:300])
    for number, name in enumerate(("train/a", "train/b", "test/a", "test/c", "val/a", "val/b"), start=10):
        make_image((30, 30), seed=number).save(root / name / f"{number}.png")
    return root


def read(root, near=True, workers=2):
    return [
        one
        for split in ("train", "val", "test")
        for one in read_fingerprints(ImageFolder(str(root), split), split, near=near, workers=workers)
    ]


def names(found, pairs):
    return {
        (
            pair.kind,
            name_splits(found, pair),
            Path(str(found[pair.first].id)).name,
            Path(str(found[pair.second].id)).name,
        )
        for pair in pairs
    }


def test_every_kind_of_duplicate_is_found(folder):
    found = read(folder)
    exact = list(find_duplicates(found))
    assert names(found, exact) == {
        ("same file", "train", "1.png", "2.png"),
        ("same file", "train", "1.png", "3.png"),
        ("same pixels", "train", "1.png", "4.bmp"),
        ("same file", "train+test", "1.png", "5.png"),
        ("same pixels", "train+test", "1.png", "6.tif"),
        ("same pixels", "test", "5.png", "6.tif"),
    }
    assert [Path(found[pair.second].id).name for pair in exact if is_label_conflict(found, pair)] == [
        "3.png",
        "5.png",
        "6.tif",
    ]
    near, crowded = find_near_duplicates(found)
    assert names(found, near) == {("near", "train+test", "1.png", "7.jpg"), ("near", "test", "5.png", "7.jpg")}
    assert crowded == 0
    bad = {Path(one.path or str(one.id)).name: one.error for one in found if one.error}
    assert len(bad) == 2
    assert all("cannot be read as an image" in error for error in bad.values())
    counts = Counts(found)
    for pair in exact:
        counts.add(pair)
    assert counts.rows["images"] == {"train": 7, "val": 3, "test": 5}
    assert counts.rows["unreadable"] == {"train": 1, "val": 1}
    assert counts.rows["same file"] == {"train": 2, "train+test": 1}
    assert counts.rows["same pixels"] == {"train": 1, "train+test": 1, "test": 1}
    assert +counts.rows["label conflicts"] == {"train": 1, "train+test": 2}, "test/c has copies of train/a"
    assert counts.rows["classes in both"]["train+val"] == 2
    assert counts.rows["classes in both"]["train+test"] == counts.rows["classes in both"]["val+test"] == 1


def test_more_threads_find_the_same(folder):
    assert read(folder, workers=1) == read(folder, workers=7)
    assert all(one.hash == 0 for one in read(folder, near=False))


def test_the_first_copy_with_the_same_file_counts():
    def one(split, file, pixels, label="x"):
        return Fingerprint(split, 0, 0, label=label, file=file, pixels=pixels)

    found = [
        one("train", b"1", b"p"),
        one("train", b"2", b"p"),
        one("train", b"2", b"p"),
        one("test", b"2", b"p"),
        one("test", None, b"p"),
        Fingerprint("test", 0, 0, error="no"),
    ]
    assert [tuple(pair) for pair in find_duplicates(found)] == [
        ("same pixels", 0, 1, 0),
        ("same file", 1, 2, 0),
        ("same file", 1, 3, 0),
        ("same pixels", 0, 4, 0),
        ("same pixels", 3, 4, 0),
    ]


def test_a_hash_holds_still_under_slight_changes_only():
    for seed in range(8):
        picture = make_image((64, 96), seed)
        changed = [
            picture.resize((48, 32)),
            picture.convert("L").convert("RGB"),
            ImageEnhance.Brightness(picture).enhance(0.8),
        ]
        for other in changed:
            assert (compute_difference_hash(picture) ^ compute_difference_hash(other)).bit_count() <= 3
            assert digest_pixels(picture) != digest_pixels(other)
        for other in (picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), make_image((64, 96), seed + 100)):
            assert (compute_difference_hash(picture) ^ compute_difference_hash(other)).bit_count() > 10
    assert compute_difference_hash(Image.new("RGB", (5, 5), "white")) == 0
    ramp = np.tile(np.arange(0, 252, 7, dtype=np.uint8), (16, 1))
    assert compute_difference_hash(Image.fromarray(ramp)) == 2**64 - 1
    wide, high = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert digest_pixels(wide) != digest_pixels(high), "of the same bytes"


@pytest.mark.parametrize("chunk", [3, 1024])
def test_close_hashes_agree_with_comparing_all(chunk):
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 2**64, 20, dtype=np.uint64)
    hashes = {0, 1, 3, 7, 15, 2**64 - 1, 2**63}
    for base in bases.tolist():
        for flips in (0, 1, 2, 3, 4, 5):
            value = base
            for bit in rng.choice(64, flips, replace=False).tolist():
                value ^= 1 << bit
            hashes.add(value)
    values = np.array(sorted(hashes), dtype=np.uint64)
    expected = {
        (i, j, (int(a) ^ int(b)).bit_count())
        for (i, a), (j, b) in combinations(enumerate(values.tolist()), 2)
        if (int(a) ^ int(b)).bit_count() <= 3
    }
    found = list(find_close_hashes(values, chunk))
    assert len(found) == len(set(found)), "a pair is found twice"
    assert set(found) == expected
    assert len(expected) > 60
    assert sum(int(mask) for mask in MASKS) == 2**64 - 1
    assert list(find_close_hashes(values[:1])) == list(find_close_hashes(values[:0])) == []


def test_images_of_one_hash_are_candidates_unless_they_are_many(monkeypatch):
    found = [Fingerprint("train", i, i, pixels=bytes([i // 2]), hash=5) for i in range(8)]
    pairs, crowded = find_near_duplicates(found)
    assert sorted((pair.first, pair.second) for pair in pairs) == list(combinations((0, 2, 4, 6), 2))
    assert crowded == 0
    monkeypatch.setattr(audit, "CROWD", 3)
    pairs, crowded = find_near_duplicates([*found, Fingerprint("train", 9, 9, pixels=b"z", hash=4)])
    assert (list(pairs), crowded) == ([], 4)
    pairs, crowded = find_near_duplicates([])
    assert (list(pairs), crowded) == ([], 0)


def test_a_hundred_thousand_hashes_are_compared_quickly():
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 2**64, 100_000, dtype=np.uint64))
    twins = np.unique(np.concatenate([hashes, hashes[:500] ^ np.uint64(1 << 40)]))
    assert Counter(bits for _, _, bits in find_close_hashes(twins)) == {1: 500}
    assert is_quick(lambda: list(find_close_hashes(twins)), 30, tries=2), "a few seconds are usual"


# ---- the command


def recipe(tmp_path, root, *, test="test"):
    text = (HERE / "toy_recipe.py").read_text()
    data = {
        split: f"dict(type='datasets.ImageFolder', root={str(root)!r}, split='{split}')" for split in ("train", "val")
    }
    text = text.replace('dict(type="toy.Noise")', data["train"]).replace('dict(type="toy.Noise", seed=1)', data["val"])
    text += f"""
test_dataloader = dict(dataset={data["val"].replace("'val'", repr(test))}, batch_size=16, num_workers=0)
test_evaluator = dict(type="toy.Nearest")
"""
    path = tmp_path / "recipe.py"
    path.write_text(text)
    return str(path)


@pytest.fixture
def audited(toy, tmp_path, capsys):
    """A function: arguments -> (exit code, standard output, standard error) of the command."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return run


def test_the_command_counts_and_writes_pairs(audited, folder, tmp_path):
    out = tmp_path / "new" / "pairs.jsonl"
    code, said, told = audited(recipe(tmp_path, folder), "--near", "--out", out)
    assert (code, told) == (0, "")
    rows = [[cell.strip() for cell in line.strip()[1:-1].split("│")] for line in said.splitlines() if "│" in line]
    assert rows == [
        ["images", "7", "3", "5", "", "", ""],
        ["unreadable", "1", "1", "0", "", "", ""],
        ["same file", "2", "0", "0", "0", "1", "0"],
        ["same pixels", "1", "0", "1", "0", "1", "0"],
        ["label conflicts", "1", "0", "0", "0", "2", "0"],
        ["near", "0", "0", "1", "0", "1", "0"],
        ["classes in both", "", "", "", "2", "1", "1"],
    ]
    assert "2 leaks between splits, 3 label conflicts, 2 unreadable items." in said
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert Counter(line["kind"] for line in lines) == {"unreadable": 2, "same file": 3, "same pixels": 3, "near": 2}
    (wrong,) = [line for line in lines if line.get("label_conflict") and line["where"] == "train"]
    assert (wrong["first"]["id"], wrong["second"]["id"]) == ("train/a/1.png", "train/b/3.png")
    assert (wrong["first"]["label"], wrong["second"]["label"]) == ("a", "b")
    assert Path(wrong["second"]["path"]).is_file()
    leaks = [line for line in lines if line.get("where") == "train+test"]
    assert {line["kind"] for line in leaks} == {"same file", "same pixels", "near"}
    assert max(line["distance"] for line in leaks) <= 3
    before = out.read_bytes()
    code, _, told = audited(recipe(tmp_path, folder), "--out", out)
    assert (code, out.read_bytes()) == (2, before)
    assert "is there already" in told
    assert audited(recipe(tmp_path, folder), "--out", out, "--overwrite", "--workers", "1")[0] == 0
    assert "near" not in out.read_text()


def test_clean_data_have_nothing_to_report(audited, folder, tmp_path):
    for name in ("train/a/2.png", "train/b/3.png", "train/a/4.bmp", "test/c/5.png", "test/c/6.tif", "test/c/7.jpg"):
        (folder / name).unlink()
    for name in ("train/b/8.jpg", "val/a/9.jpg"):
        (folder / name).unlink()
    code, said, told = audited(recipe(tmp_path, folder), "--near")
    assert (code, told) == (0, "")
    assert "0 leaks between splits, 0 label conflicts, 0 unreadable items." in said


def test_one_dataset_twice_is_told(audited, folder, tmp_path):
    code, said, told = audited(recipe(tmp_path, folder, test="val"))
    assert code == 0
    assert "test_dataloader.dataset is the same as val_dataloader.dataset: all of it is in both." in told
    assert "train+test" not in said


def test_a_folder_or_a_list_is_looked_at_too(audited, folder, tmp_path):
    (folder / "train/a/note.pdf").write_text("")
    code, said, _ = audited(folder, "--out", tmp_path / "a.jsonl")
    assert (code, "1 other files ignored (1 .pdf)" in said) == (0, True)
    assert "0 leaks between splits, 0 label conflicts, 2 unreadable items." in said
    bad = [line for line in map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines()) if "error" in line]
    assert sorted(re.search(r"[89]\.jpg", line["error"])[0] for line in bad) == ["8.jpg", "9.jpg"]
    (folder / "list.txt").write_text("train/b/8.jpg\ntrain/a/1.png\n")
    assert "1 unreadable items" in audited(folder / "list.txt")[1]


def test_files_that_are_gone_are_unreadable_items(audited, folder, tmp_path):
    pairs = folder / "pairs.jsonl"
    lines = [{"query_image": f"train/{name}", "positive": "gone.png", "label": 1} for name in ("a/1.png", "a/2.png")]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = Path(recipe(tmp_path, folder)).read_text()
    text = text.replace(
        f"dict(type='datasets.ImageFolder', root={str(folder)!r}, split='train')",
        f"dict(type='datasets.Records', path={str(pairs)!r})",
    )
    (tmp_path / "recipe.py").write_text(text)
    code, said, told = audited(tmp_path / "recipe.py")
    assert code == 0
    assert "1 of 3 images that" in told
    assert "2 unreadable items" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{recipe}", "--out", "pairs.csv"], "must end in .jsonl"),
        (["{recipe}", "--cfg-options", "train_dataloader.dataset.root=nowhere"], "nowhere does not exist"),
        (["{recipe}", "--cfg-options", "train_dataloader.dataset.rot=x"], "Did you mean 'root'"),
        (["nowhere.py"], "nowhere.py"),
        (["nowhere"], "is no recipe, no checkpoint and no run's folder"),
        (["{recipe}", "--out", "{recipe}/x/pairs.jsonl"], "Nothing can be written"),
    ],
)
def test_wrong_requests_end_with_2(audited, folder, tmp_path, arguments, message):
    path = recipe(tmp_path, folder)
    code, _, told = audited(*(argument.format(recipe=path) for argument in arguments))
    assert code == 2
    assert message in told


def test_the_script(command, folder, tmp_path):
    done = command("audit_data", recipe(tmp_path, folder), "--plugin", HERE / "toy_plugin.py")
    assert done.returncode == 0, done.stderr
    assert "2 leaks between splits" in done.stdout
    source = (HERE.parent / "tools" / "audit_data.py").read_text()
    assert len(source.splitlines()) <= 15
    assert "python tools/audit_data.py" in ast.get_docstring(ast.parse(source))


def write_captions_recipe(folder: Path) -> Path:
    """A recipe that trains on train.jsonl of a folder, images with captions, and is validated on test.jsonl."""
    data = "dict(dataset=dict(type='datasets.Records', mode='i2t', path='{}.jsonl'), batch_size=2)"
    (folder / "recipe.py").write_text(
        f"_base_ = ['{HERE / 'toy_recipe.py'}']\n"
        f"plugins = ['{HERE / 'toy_plugin.py'}']\n"
        f"train_dataloader = dict(_delete_=True, **{data.format(folder / 'train')})\n"
        f"val_dataloader = dict(_delete_=True, **{data.format(folder / 'test')})\n"
    )
    return folder / "recipe.py"


def test_texts_that_repeat_or_stand_in_two_splits_are_counted(audited, tmp_path):
    captions = {
        "train": [["a cat", "Katze"], ["a dog"], ["a cat"], ["one two three four"]],
        "test": [["a dog", "new"], ["Katze"], ["new"], [" "]],
    }
    for split, items in captions.items():
        lines = []
        for number, texts in enumerate(items):
            make_image((20, 20), seed=len(split) + 10 * number).save(tmp_path / f"{split}{number}.png")
            if texts != [" "]:
                lines.append({"query_image": f"{split}{number}.png", "positive": texts})
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "found.jsonl"
    code, shown, told = audited(write_captions_recipe(tmp_path), "--out", out)
    assert code == 0, told
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in shown.splitlines() if "│" in line}
    cells = {name: [cell.strip() for cell in row] for name, row in rows.items()}
    assert cells["texts"] == ["5", "4", ""]
    assert cells["repeated texts"] == ["1", "1", "2"]
    assert cells["words of the longest"] == ["4", "2", ""]
    assert "2 texts in two splits" in shown
    assert cells["classes in both"] == ["", "", ""], "a line of one file is none of another"
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    found = [(pair["where"], pair["first"]["id"], pair["second"]["id"]) for pair in pairs]
    assert found == [("train", "1", "3"), ("train+val", "2", "1"), ("train+val", "1", "2"), ("val", "1", "3")]
    assert {pair["kind"] for pair in pairs} == {"repeated texts"}


@pytest.mark.parametrize("labelled", [False, True])
def test_copies_contradict_each_other_across_splits_where_classes_have_names(audited, tmp_path, labelled):
    for split, numbers in {"train": (1, 2, 2), "test": (3, 2, 1)}.items():
        lines = []
        for place, number in enumerate(numbers):
            make_image((20, 20), seed=number).save(tmp_path / f"{split}{place}.png")
            line = {"query_image": f"{split}{place}.png", "positive": f"text {number}{place}{split}"}
            lines.append(line | ({"label": f"class {place}"} if labelled else {}))
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, shown, told = audited(write_captions_recipe(tmp_path))
    assert code == 0, told
    rows = [[cell.strip() for cell in line.strip()[1:-1].split("│")] for line in shown.splitlines() if "│" in line]
    cells = {name: row for name, *row in rows}
    assert cells["same file"] == ["1", "0", "2"]
    assert cells["label conflicts"] == ["1", "0", "1" if labelled else "0"]
    assert cells["classes in both"] == ["", "", "3" if labelled else ""]
