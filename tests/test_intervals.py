"""Numbers of metrics as people read them: with their intervals, and no more of them than a line can hold."""

from __future__ import annotations

from toolbox.base.intervals import split_intervals
from toolbox.cli.tables import print_results
from toolbox.engine.console import Console, shown
from toolbox.report.table import make_rows

NUMBERS = {"top1": 0.5, "knn": 0.25, "knn_k": 5, "top1_low": 0.4, "top1_high": 0.6, "spread_low": 0.1, "high": 1.0}


def test_a_bound_stands_beside_its_number_and_one_without_a_number_is_a_number():
    numbers, bounds = split_intervals(NUMBERS)
    assert bounds == {"top1": (0.4, 0.6)}
    assert list(numbers) == ["top1", "knn", "knn_k", "spread_low", "high"]


def test_a_line_shows_intervals_settings_and_how_many_numbers_of_a_grid_it_leaves_out():
    assert shown(NUMBERS).startswith("top1 0.5000 (0.4000 to 0.6000) knn 0.2500 knn_k 5 spread_low")
    few = {f"linear/cls/{rate}": 0.5 for rate in range(8)}
    assert "linear/cls/7 0.5000" in shown(few)
    assert shown({"linear": 0.5, **few, "linear/cls/8": 0.5}) == "linear 0.5000 and 9 more"
    assert shown({"c": 1e-6, "large": 1e5}) == "c 1e-06 large 100000"


def test_tables_of_a_run_have_a_column_of_intervals_and_columns_for_what_was_measured(capsys):
    results = {
        "pixels": None,
        "before": None,
        "after": NUMBERS,
        "seconds": 1.0,
        "data_wait_seconds": 0.0,
        "steps": 1,
        "items_per_second": 1.0,
        "peak_memory_bytes": 1,
        "device": "cpu",
        "report": "r",
    }
    print_results(results)
    out = capsys.readouterr().out
    assert "0.4000 to 0.6000" in out
    assert not any(word in out for word in ("top1_low", "before", "change"))
    print_results({**results, "before": {"knn": 0.125}})
    out = capsys.readouterr().out
    assert all(word in out for word in ("before", "+0.1250"))
    row = {row.name: row for row in make_rows({"knn": 0.125}, NUMBERS, {"knn": 0.0625})}
    assert "top1_low" not in row
    assert (row["top1"].interval, row["top1"].pixels, row["knn"].interval) == ("0.4000 to 0.6000", "–", "")


def test_work_is_told_while_it_lasts_and_not_where_it_is_done_at_once(capsys, monkeypatch):
    clock = iter([100.0, 101.0, 106.0, 107.0, 200.0])
    monkeypatch.setattr("toolbox.engine.console.time.monotonic", lambda: next(clock))
    console = Console()
    for done in (1, 2, 3, 4):
        console.reach("Features of train", done, 4)
    console.reach("Features of val", 4, 4)
    assert capsys.readouterr().out.splitlines() == ["Features of train: 3 of 4"]
