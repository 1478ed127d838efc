"""tools/compare.py: what it computes, what it refuses, what its page shows."""

import json
import math
import random
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from test_report import EVIL, Page, Squares

from toolbox.base import Curve, Histogram, Outcomes, Table
from toolbox.cli import compare as command
from toolbox.recipe_text import read_recipe
from toolbox.report import save_report_items
from toolbox.report.compare import compare_runs
from toolbox.report.compare_page import find_items, write_comparison
from toolbox.report.overlay import draw_curves, draw_histograms, make_table_grids
from toolbox.report.paired import bootstrap_difference, pair_outcomes, sign_test
from toolbox.report.recipe import list_differences
from toolbox.report.runs import make_labels
from toolbox.utils.key_paths import flatten

RANKS = "Rank of the first match"
NAN = float("nan")


def recipe(lr=0.001, split="test"):
    return (
        "model = dict(type='retrieval.Embedder', head=None, sizes=[1, 2])\n"
        f"optim_wrapper = dict(optimizer=dict(type='core.AdamW', lr={lr}))\n"
        f"test_dataloader = dict(dataset=dict(type='absent.Noise', {'count' if split == 'test' else 'bad'}=64))\n"
        "test_evaluator = [dict(type='retrieval.Recall')]\n"
    )


def outcomes(ranks, ids=None, groups=(), title=RANKS):
    return Outcomes(title, [str(i) for i in range(len(ranks))] if ids is None else ids, list(ranks), list(groups))


def kept(ranks, ids=None, groups=("x", "y")):
    """The findings of a run with these ranks."""
    count = len(ranks)
    share = sum(rank == 1 for rank in ranks) / max(count, 1)
    return [
        Curve("Recall@K", {"recall": [(1, share), (10, 0.9)]}, "K", "recall", log_x=True),
        Histogram("Similarity", [-1.0, 0.0, 1.0], {"same": [0.25, 0.75], "other": [0.5, 0.5]}, "cosine"),
        Table("Super-classes", ["name", "queries", "recall@1"], [["chair", 40, share], [EVIL, 24, 0.5]]),
        outcomes(ranks, ids, [groups[i % len(groups)] for i in range(count)] if groups else ()),
    ]


def make(folder, ranks=(1, 1, 2, 3), *, report_items=None, config=None, results=None, lines=None):
    """A finished run's folder."""
    folder.mkdir(parents=True)
    share = sum(rank == 1 for rank in ranks) / len(ranks)
    full = {
        "before": {"recall@1": 0.1},
        "after": {"recall@1": share, "queries": len(ranks)},
        "best": {"step": 20, "metric": "recall@1", "value": 0.5},
        "steps": 30,
        "seconds": 61.0,
        "device": "cpu",
        "items_per_second": 12.5,
        "peak_memory_bytes": 2**30,
    }
    (folder / "train_results.json").write_text(json.dumps(full | (results or {})))
    (folder / "config.py").write_text(recipe() if config is None else config)
    (folder / "environment.json").write_text(json.dumps({"git": folder.name, "command": ["x"], "python": "3.11"}))
    lines = lines or [{"step": s, "loss": 3 / s, "lr": 1e-3, "val/recall@1": s / 100} for s in (10, 20, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_report_items(folder, kept(ranks) if report_items is None else report_items)
    return folder


def two(tmp_path, first=(1, 1, 2, 3), second=(2, 1, 1, 1), **options):
    return [make(tmp_path / "a", first), make(tmp_path / "b", second, **options)]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """`run(*arguments) -> (exit code, standard output, standard error)`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        code = command.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return code, said.out, said.err

    return call


# ---- statistics


@pytest.mark.parametrize(
    ("lost", "gained"), [(0, 0), (0, 1), (1, 5), (7, 7), (8, 7), (120, 310), (2700, 3000), (0, 900)]
)
def test_sign_test_is_exact(lost, gained):
    expected = binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert sign_test(lost, gained) == pytest.approx(expected, rel=1e-9)
    assert sign_test(gained, lost) == sign_test(lost, gained)


def test_sign_test_of_very_many():
    assert sign_test(30_000, 30_502) == pytest.approx(binomtest(30_000, 60_502, 0.5).pvalue, rel=1e-9)
    assert sign_test(0, 5000) == 0.0  # smaller than any float


def test_bootstrap_is_that_of_items():
    chance = np.random.default_rng(1)
    changes = np.array([-1] * 30 + [1] * 60 + [0] * 210)
    resampled = [changes[chance.integers(0, 300, 300)].mean() for _ in range(20_000)]
    low, high = bootstrap_difference(30, 60, 300)
    assert low == pytest.approx(np.quantile(resampled, 0.025), abs=0.005)
    assert high == pytest.approx(np.quantile(resampled, 0.975), abs=0.005)
    assert bootstrap_difference(30, 60, 300) == (low, high)
    assert bootstrap_difference(0, 0, 10) == (0.0, 0.0)
    assert bootstrap_difference(0, 10, 10) == (1.0, 1.0)


def test_bootstrap_covers_the_truth():
    chance = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        lost, gained, _ = chance.multinomial(400, [0.10, 0.15, 0.75])
        low, high = bootstrap_difference(int(lost), int(gained), 400, seed=seed)
        inside += low <= 0.05 <= high
    assert 180 <= inside <= 199


def test_pairing_goes_by_id_not_by_place():
    first = outcomes([1, 1, 5, 9, 1, NAN], list("abcdef"), list("xxyyxy"))
    second = outcomes([1, NAN, 1, 1, 7, NAN], list("cbadef"), list("yxxyxy"))
    found = pair_outcomes(first, second)
    assert [(flip.id, flip.first, flip.second, flip.position) for flip in found.gained] == [
        ("d", 9, 1, 3),
        ("c", 5, 1, 2),
    ]
    assert [flip.id for flip in found.lost] == ["b", "e"]  # found nothing is deeper than rank 7
    assert (found.items, found.first_hits, found.second_hits, found.unfound) == (6, 3, 3, 1)
    assert found.difference == 0
    assert {g.name: (g.items, g.first, g.second, g.lost, g.gained) for g in found.groups} == {
        "x": (3, 3, 1, 2, 0),
        "y": (3, 0, 2, 0, 2),
    }


def test_yes_and_no_are_outcomes_too():
    found = pair_outcomes(outcomes([0, 1, 1, 0]), outcomes([1, 1, 0, 0]))
    assert (len(found.lost), len(found.gained)) == (1, 1)


def right(values, mean="top1"):
    return Outcomes("right answers", [str(i) for i in range(len(values))], list(values), ["x", "y"] * 4, mean)


def test_two_classifiers_are_compared_by_what_is_right(tmp_path, run):
    """Eight items; the second has gained two that the first has wrong, and lost one."""
    first, second = [1, 1, 1, 0, 0, 0, 1, 0], [1, 1, 0, 1, 1, 0, 1, 0]
    found = pair_outcomes(right(first), right(second))
    assert ([flip.id for flip in found.lost], [flip.id for flip in found.gained]) == (["2"], ["3", "4"])
    assert (found.difference, found.number, found.ranked) == (1 / 8, "top1", False)
    assert found.p_value == sign_test(1, 2) == 1.0
    folders = [
        make(tmp_path / name, report_items=[right(values)], results={"after": {"top1": sum(values) / 8}})
        for name, values in (("a", first), ("b", second))
    ]
    code, said, _ = run(*folders)
    assert code == 0
    assert "Of 8 items a has 4 right and b 5: 1 are right in a alone and 2 in b alone." in said
    assert "Top1 differs by +0.1250" in said
    assert "different evaluations" not in said
    page = Page(tmp_path / "work_dirs/compare/compare.html").text
    assert "Right in a alone" in page
    assert "top1 by super-class" in page
    for words in ("rank of the first match", "Recall@1", "right at rank 1", "Right first"):
        assert words not in page
    # what the outcomes say is held against the number that they are the mean of
    other = make(tmp_path / "c", report_items=[right(first)], results={"after": {"top1": 0.9}})
    assert "Its outcomes give top1 0.5000 and its results say 0.9000" in run(*folders, other)[1]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (right([1, 0] * 4), right([2, 0] * 4), "not all 1 for right and 0 for wrong"),
        (right([1, 0] * 4), right([1, 0] * 4, "top5"), "of top1 and the other's of top5"),
        (right([1, 1] * 4), right([1, 1] * 4, ""), "of top1 and the other's of Recall@1"),
        (outcomes([1, 2]), outcomes([1, 2], ["0", "9"]), "different items"),
        (outcomes([1, 2]), outcomes([1, 2, 3]), "different items"),
        (outcomes([1, 2], ["a", "a"]), outcomes([1, 2], ["a", "a"]), "more than once"),
        (outcomes([0.5, 0.7]), outcomes([0.5, 0.7]), "no ranks"),
        (outcomes([]), outcomes([]), "no item"),
    ],
)
def test_what_cannot_be_paired(first, second, words):
    with pytest.raises(ValueError, match=words):
        pair_outcomes(first, second)


# ---- recipes


def test_recipes_are_read_as_data_and_never_run(tmp_path):
    text = recipe() + "low = -1.5\nboth = {1: inf, 'a-b': (1, -2)}\nnothing = dict()\n"
    found = read_recipe(text)
    assert found["optim_wrapper"] == {"optimizer": {"type": "core.AdamW", "lr": 0.001}}
    assert found["both"] == {1: math.inf, "a-b": [1, -2]}
    assert flatten(found)["test_evaluator.0.type"] == "retrieval.Recall"
    assert flatten(found)["nothing"] == {}
    for bad, message in (
        ("import os", "line 1 is no plain assignment"),
        ("a = open('x')", "line 1 holds more than plain data"),
        ("a = b = 1", "line 1 is no plain assignment"),
        ("a = dict(**{})", "line 1 holds more than plain data"),
        ("a.b = 1", "line 1 is no plain assignment"),
        ("a = (", "no valid Python"),
        ("a = -'x'", "line 1 holds more than plain data"),
    ):
        with pytest.raises(ValueError, match=message):
            read_recipe(bad)


def test_a_recipe_that_was_dumped_reads_the_same(toy):
    from toolbox.config import complete, dump, to_dict

    whole = complete(to_dict(toy()))
    assert read_recipe(dump(whole)) == whole


def test_differing_settings():
    first, second = read_recipe(recipe(0.001) + "work_dir = 'a'\n"), read_recipe(recipe(0.01) + "work_dir = 'b'\n")
    del second["model"]["head"]
    assert list_differences([first, second, None]) == [
        ("model.head", ["None", "", "?"]),
        ("optim_wrapper.optimizer.lr", ["0.001", "0.01", "?"]),
    ]
    assert list_differences([first, first]) == list_differences([first, None]) == list_differences([None, None]) == []


# ---- what is refused


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a", "x/b"], ["a", "b"]),
        (["x/a", "y/a", "b"], ["x/a", "y/a", "b"]),
        (["x/r/a", "y/r/a"], ["x/r/a", "y/r/a"]),
        (["a", "x/a"], None),
    ],
)
def test_labels_are_distinct(tmp_path, paths, names):
    found = make_labels([tmp_path / path for path in paths])
    assert len(set(found)) == len(paths)
    assert found == (names or [f"{tmp_path.name}/a", "x/a"])


def test_one_run_is_none(run, tmp_path):
    code, _, said = run(make(tmp_path / "a"))
    assert code == 2
    assert "two runs or more" in said


@pytest.mark.parametrize("again", ["a", "b/../a", "link", "a/train_results.json"])
def test_the_same_run_twice(run, tmp_path, again):
    make(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("a")
    code, _, said = run("a", again)
    assert code == 2
    assert "This run is given twice" in said
    assert len(said.splitlines()) == 1


def crash(folder, *, before=False):
    make(folder)
    (folder / "train_results.json").unlink()
    (folder / "report_items.json").unlink()
    if before:
        (folder / "train_results.json").write_text('{"pixels": null, "before": {"recall@1": 0.1}}')


def test_all_that_is_wrong_is_said_at_once(run, tmp_path):
    make(tmp_path / "good")
    crash(tmp_path / "crashed")
    crash(tmp_path / "early", before=True)
    (tmp_path / "empty").mkdir()
    make(tmp_path / "holder" / "one")
    (make(tmp_path / "torn") / "train_results.json").write_text('{"after": {"recall@1": 0.')
    (make(tmp_path / "list") / "train_results.json").write_text("[1]")
    (tmp_path / "good" / "checkpoint-20").mkdir()
    (tmp_path / "good" / "checkpoint-20" / "manifest.json").write_text("{}")
    code, _, said = run("good", "crashed", "early", "empty", "holder", "torn", "list", "goood", "good/checkpoint-20")
    assert code == 2
    lines = said.splitlines()
    assert len(lines) == 8  # one for each of seven; the two crashed ones share a line; and the count
    assert "crashed, early: This run has no results: it still goes on, or it ended at step 30 or later" in said
    assert "empty: This folder holds no run." in said
    assert "holder: This folder holds no run. It holds one: give those." in said
    assert "torn/train_results.json: The file is damaged:" in said
    assert "list/train_results.json: The file is damaged: it holds no table" in said
    assert "goood: There is no such folder. Did you mean good?" in said
    assert "good/checkpoint-20: This is a checkpoint" in said
    assert not (tmp_path / "work_dirs").exists()


def test_a_folder_that_cannot_be_written(run, tmp_path):
    two(tmp_path)
    (tmp_path / "file").write_text("x")
    code, _, said = run("a", "b", "--out", "file")
    assert code == 2
    assert "file: The folder cannot be made" in said


# ---- what is compared


def test_whole_comparison(run, tmp_path):
    two(tmp_path, config=recipe(0.01))
    code, out, _ = run("a", "b")
    assert code == 0
    for words in (
        "optim_wrapper.optimizer.lr",
        "0.5000",
        "0.7500",
        "+0.2500",
        "1 min 01 s",
        "Of 4 items a has 2 right at rank 1 and b 3: 1 are right in a alone and 2 in b alone.",
        "p = 1.0000",
    ):
        assert words in out
    page = Page(tmp_path / "work_dirs/compare/compare.html")
    assert [a["id"] for a in page.all("section")] == ["metrics", "settings", "items", "curves", "findings"]
    assert "<script" not in page.source
    assert not re.search(r"https?:|//\w|@import|url\(", page.source)
    for words in (
        "Comparison of 2 runs",
        "+0.2500",
        "optim_wrapper.optimizer.lr",
        "Right first in b alone",
        "Recall@1 by super-class",
        "1 → 2",
        "3 → 1",
        "2 → 1",
    ):
        assert words in page.text
    assert "Not the same test" not in page.text
    assert "Images are not shown: " in page.text
    assert "absent" in page.text  # the reason names the data


def test_json(run, tmp_path):
    two(tmp_path, config=recipe(0.01), results={"after": {"recall@1": 0.75, "loss": None}})
    code, out, _ = run("a", "b", "--json", "--out", "here")
    assert code == 0
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [item["label"] for item in found["runs"]] == ["a", "b"]
    assert found["differences"] == {"recall@1": [0, 0.25], "queries": [0, None], "loss": [None, None]}
    assert found["settings"] == {"optim_wrapper.optimizer.lr": {"a": "0.001", "b": "0.01"}}
    assert found["environment"] == {"git": {"a": "a", "b": "b"}}
    (duel,) = found["paired"]
    assert (duel["only_first"], duel["only_second"], duel["items"]) == (1, 2, 4)
    assert duel["difference"] == 0.25
    assert found["page"] == "here/compare.html"
    assert found["alarms"] == []


def test_other_items_are_said_loudly_and_not_paired(run, tmp_path):
    two(tmp_path, second=(1, 1, 1, 1), report_items=kept((1, 1, 1, 1), ["2", "3", "4", "5"]))
    code, out, _ = run("a", "b")
    assert code == 0
    assert "NOT THE SAME TEST. a and b were evaluated on different test sets, of 4 and 4 items with 2 in common" in out
    assert "McNemar" not in out
    page = Page(tmp_path / "work_dirs/compare/compare.html")
    assert len(page.all("p", "alarm")) == 1
    assert "McNemar" not in page.text
    assert "Not compared item by item" in page.text


def test_other_counts_are_said_even_without_outcomes(tmp_path):
    folders = two(tmp_path, second=(1, 1, 1), report_items=[])
    (alarm,) = compare_runs(folders).alarms
    assert "different test sets, of 4 and 3 queries" in alarm


def test_equal_ids_of_other_data_are_said(tmp_path):
    found = compare_runs(two(tmp_path, config=recipe(split="val")))
    (alarm,) = found.alarms
    assert "name different test data (count is 64 and not set; bad is not set and 64)" in alarm
    assert found.pairs[0].outcomes is not None


def test_outcomes_of_another_evaluation(tmp_path):
    found = compare_runs(two(tmp_path, results={"after": {"recall@1": 0.9}}))
    assert [(label, note[:36]) for label, note in found.notes] == [("b", "Its outcomes give Recall@1 0.7500 an")]
    # queries that have nothing to find may be left out of the metric
    ranks = (1, 2, NAN, NAN)
    fine = compare_runs([make(tmp_path / "c", ranks, results={"after": {"recall@1": 0.5}}), tmp_path / "a"])
    assert fine.notes == []
    also = {"recall@1": 0.4, "queries": 5}  # one that counts as missed has no outcome
    assert compare_runs([make(tmp_path / "d", (1, 1, 2, 3), results={"after": also}), tmp_path / "a"]).notes == []


@pytest.mark.parametrize("damage", ["", "{", '{"format":1,"report_items":[{"kind":"curve"}]}', None])
def test_without_usable_findings_the_rest_is_compared(run, tmp_path, damage):
    _, second = two(tmp_path)
    if damage is None:
        (second / "report_items.json").unlink()
    else:
        (second / "report_items.json").write_text(damage)
    code, out, _ = run("a", "b")
    assert code == 0
    assert "+0.2500" in out
    assert "a and b are not compared item by item: b kept no outcomes." in out
    assert "b: " in out
    assert "report_items.json" in out
    assert "What is missing" in Page(tmp_path / "work_dirs/compare/compare.html").text


def test_without_a_recipe_logs_or_environment(run, tmp_path):
    _, second = two(tmp_path)
    for name in ("config.py", "metrics.jsonl", "environment.json"):
        (second / name).unlink()
    (tmp_path / "a" / "config.py").write_text("import os\n")
    (tmp_path / "a" / "environment.json").write_text("{")
    code, out, _ = run("a", "b")
    assert code == 0
    assert "b: There is no config.py" in out
    assert "a: config.py cannot be read as a run writes it: line 1 is no plain assignment" in out
    assert "no recipe says what the runs were evaluated on" in Page(tmp_path / "work_dirs/compare/compare.html").text


@pytest.mark.parametrize(
    "results",
    [
        {"recall@1": 0.75, "queries": 4, "checkpoint": "x"},
        {"metrics": {"recall@1": 0.75, "queries": 4}, "split": "test"},
    ],
)
def test_an_evaluation_is_compared_like_a_run(tmp_path, results):
    make(tmp_path / "a")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "test_results.json").write_text(json.dumps(results))
    save_report_items(tmp_path / "zero", kept((2, 1, 1, 1)))
    found = compare_runs([tmp_path / "a", tmp_path / "zero"])
    assert found.metrics == {"recall@1": [0.5, 0.75], "queries": [4, 4]}
    assert len(found.pairs[0].outcomes.gained) == 2


def test_parameters_of_the_checkpoint(tmp_path):
    folder = make(tmp_path / "a")
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}, "__metadata__": {}}).encode()
    for place in ("checkpoint-20", "checkpoint-20/adapters/model.backbone"):
        (folder / place).mkdir(parents=True)
    for place in ("model.safetensors", "adapters/model.backbone/adapter_model.safetensors"):
        (folder / "checkpoint-20" / place).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 60)
    (folder / "best").symlink_to("checkpoint-20")
    assert compare_runs([folder, make(tmp_path / "b")]).runs[0].parameters == 30
    (folder / "checkpoint-20" / "model.safetensors").write_bytes(b"torn")
    assert compare_runs([folder, tmp_path / "b"]).runs[0].parameters is None


def test_three_runs(run, tmp_path):
    two(tmp_path)
    make(tmp_path / "c" / "a", (1, 1, 1, 1))
    code, out, _ = run("a", "b", "c/a")
    assert code == 0
    assert f"{tmp_path.name}/a" in out
    page = Page(tmp_path / "work_dirs/compare/compare.html")
    assert "no p-value is corrected" in page.text
    assert page.text.count("exact McNemar test") == 2


# ---- drawings and pictures


def test_findings_over_each_other(tmp_path):
    runs = compare_runs(two(tmp_path)).runs
    (curve,) = draw_curves(runs)
    assert [(line.name, line.color, line.dash) for line in curve.lines] == [("a", 1, 0), ("b", 2, 0)]
    ((title, _, drawn),) = draw_histograms(runs)
    assert title == "Similarity"
    assert [chart.title for chart in drawn] == ["a", "b"]
    assert drawn[0].x_ticks == drawn[1].x_ticks
    (table,) = make_table_grids(runs)
    assert [name for name, _ in table.columns] == ["name", "queries", "recall@1, a", "recall@1, b", "difference"]
    assert [cell.text for cell in table.rows[0]] == ["chair", "40", "0.5000", "0.7500", "+0.2500"]


def test_several_series_of_several_runs_differ(tmp_path):
    found = [Curve("PR", {"easy": [(0, 1), (1, 0)], "hard": [(0, 1), (1, 0)]}, "recall", "precision")]
    runs = compare_runs(
        [make(tmp_path / name, report_items=found) for name in "ab"] + [make(tmp_path / "c", report_items=[])]
    ).runs
    (chart,) = draw_curves(runs)
    assert [line.name for line in chart.lines] == ["a: easy", "a: hard", "b: easy", "b: hard"]
    assert len({(line.color, line.dash) for line in chart.lines}) == 4
    assert chart.note == "Not in c."


@pytest.mark.parametrize(
    ("tables", "remark"),
    [
        ([Table("t", ["n", "x"], [["a", 1], ["a", 2]])] * 2, "do not name each row once"),
        ([Table("t", ["n", "x", "x"], [["a", 1, 2]])] * 2, "two of its columns"),
    ],
)
def test_tables_that_have_no_place_side_by_side(tmp_path, tables, remark):
    runs = compare_runs([make(tmp_path / n, report_items=[t]) for n, t in zip("ab", tables, strict=True)]).runs
    assert remark in make_table_grids(runs)[0].remarks[0]


def test_rows_that_only_one_table_has(tmp_path):
    first, second = Table("t", ["n", "x"], [["a", 0.5], ["b", 0.25]]), Table("t", ["n", "x"], [["c", 0.5], ["a", 0.75]])
    runs = compare_runs([make(tmp_path / "a", report_items=[first]), make(tmp_path / "b", report_items=[second])]).runs
    rows = [[cell.text for cell in row] for row in make_table_grids(runs)[0].rows]
    assert rows == [["a", "0.5000", "0.7500", "+0.2500"], ["b", "0.2500", "–", "–"], ["c", "–", "0.5000", "–"]]


def test_rows_that_two_columns_name(tmp_path):
    tables = [Table("t", ["class", "other", "x"], [["a", "b", 1], ["a", "c", number]]) for number in (2, 5)]
    runs = compare_runs([make(tmp_path / name, report_items=[t]) for name, t in zip("ab", tables, strict=True)]).runs
    (grid,) = make_table_grids(runs)
    assert [name for name, _ in grid.columns] == ["class", "other", "x, a", "x, b", "difference"]
    assert [cell.text for cell in grid.rows[1]] == ["a", "c", "2", "5", "+3"]
    empty = compare_runs(
        [make(tmp_path / name, report_items=[Table("t", ["class", "x"], [])]) for name in ("c", "d")]
    ).runs
    assert make_table_grids(empty)[0].rows == []


def test_items_are_found_by_id(monkeypatch):
    dataset = Squares(count=20, broken=(3,))
    assert find_items(dataset, {"5": 5, "7": 2, "9": 99, "3": 3, "nine": 0}) == {"5": 5, "7": 7, "9": 9}
    assert find_items(dataset, {"7": 2}, seconds=0) == {}
    assert find_items(dataset, {"7": 7}, seconds=0) == {"7": 7}


def test_flipped_items_are_shown(tmp_path):
    chance = random.Random(0)
    first, second = ([chance.choice((1, 1, 2, 40)) for _ in range(200)] for _ in range(2))
    comparison = compare_runs(two(tmp_path, first, second))
    page = Page(write_comparison(tmp_path / "out", comparison, Squares(count=200)))
    assert len(page.all("span", "image")) == 24
    assert page.source.count("data:image/") == 24
    found = comparison.pairs[0].outcomes
    shown = [int(a["class"].split()[1][1:]) for a in page.all("span", "image")]
    assert shown[:12] == [int(flip.id) for flip in found.lost[:12]]
    assert f"the 12 deepest of {len(found.lost)}" in page.text
    assert "Images are not shown" not in page.text
    gone = Page(write_comparison(tmp_path / "out", comparison, None, "the data are gone"))
    assert "Images are not shown: the data are gone." in gone.text
    assert not gone.all("span", "picture")


class Foreign(Squares):
    def __getitem__(self, index):
        return {"image": super().__getitem__(index)["image"]}


def test_a_dataset_of_other_items(tmp_path):
    page = Page(write_comparison(tmp_path / "out", compare_runs(two(tmp_path)), Foreign(count=4)))
    assert "the dataset of the recipe holds none of these items" in page.text
    assert not page.all("span", "image")


def test_two_runs_of_the_toy(toy, run):
    """From training to the page, with pictures of the items that flipped."""
    from toolbox import api

    Nearest = sys.modules["toy_plugin"].Nearest
    shift = {"by": 0}

    def report_items(self, dataset):
        ranks = [1 if (index + shift["by"]) % 3 else 7 for index in range(len(dataset))]
        return [Outcomes(RANKS, [str(index) for index in range(len(dataset))], ranks)]

    Nearest.report_items = report_items
    try:
        api.train(toy(), out="one")
        shift["by"] = 1
        api.train(toy({"optim_wrapper.optimizer.lr": 0.01}), out="two")
    finally:
        del Nearest.report_items
    code, out, _ = run("one", "two", "--plugin", str(Path(__file__).parent / "toy_plugin.py"))
    assert code == 0
    assert "optim_wrapper.optimizer.lr" in out
    assert "21 are right in one alone and 22 in two alone" in out or "22 are right in one alone and 21 in two" in out
    page = Page(Path("work_dirs/compare/compare.html"))
    assert len(page.all("span", "image")) == 24
    assert "parameters in the checkpoint" in page.text
