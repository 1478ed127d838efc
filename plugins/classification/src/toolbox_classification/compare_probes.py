"""Linear probes, k-NN and logistic regression side by side, once a run has ended."""

from __future__ import annotations

from typing import Any

from toolbox.base import Hook, ReportItem, Run, Table
from toolbox_classification.probe_accuracy import grid_report_items
from toolbox_classification.probe_names import METHODS, PREFIX, best_method, grid_of


class CompareProbes(Hook):
    """Which way of probing is the best one, by the validation set, and what each comes to on the test set.

    It reads what `ProbeAccuracy`, `KNN` and `LogisticRegression` of this plugin said, those of them that judge the
    validation set, in the validation of the best checkpoint and in the one evaluation on the test set. The best one on
    the validation set is marked, whichever is the best on the test set. Each method's choice (input and rate, k, C) is
    the one that the test set was judged with.

    It adds "probes" to train_results.json, {"best": method, "methods": {method: {"chosen", "val", "test", "low",
    "high"}}}, says the same on the console, and gives the report a table, and the grid of linear probes by learning
    rate where the metric of the last evaluation does not show it.
    """

    def on_run_end(self, run: Run, results: dict[str, Any]) -> dict[str, Any]:
        found = compared(results, tested=bool(run.config["test_dataloader"] and run.config["test_evaluator"]))
        if not found:
            run.warn(
                "classification.CompareProbes finds no number of classification.ProbeAccuracy, classification.KNN or "
                "classification.LogisticRegression."
            )
            return {}
        for method, row in found["methods"].items():
            mark = " (best on the validation set, so it predicts)" if method == found["best"] else ""
            run.info(f"{METHODS[method]}{mark}: {row['chosen']}; validation {row['val']:.4f}{_tested(row)}")
        if where := edge(results["best"]["metrics"]):
            run.info(f"The best learning rate is the {where} of the grid: try {where.replace('est', 'er')} ones.")
        return {"probes": found}

    def report_items(self, results: dict[str, Any]) -> list[ReportItem]:
        found = results.get("probes")
        if not found:
            return []
        rows = [
            [
                METHODS[method] + (" *" if method == found["best"] else ""),
                row["chosen"],
                row["val"],
                row["test"],
                None if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}",
            ]
            for method, row in found["methods"].items()
        ]
        note = (
            "* the best on the validation set, by which methods compare, and what `predict` uses. Test: judged "
            "once, 95 % over its items."
        )
        table = Table("Probes", ["method", "chosen", "validation", "test", "test interval"], rows, note)
        grid = [] if grid_of(results.get("after") or {}) else grid_report_items(results["best"]["metrics"])
        return [table, *grid]


def compared(results: dict[str, Any], *, tested: bool) -> dict[str, Any]:
    """What train_results.json is told; empty where nothing was probed.

    - `results`: what else it holds; `tested`: whether what it knows "after" is of a test set.
    """
    val = (results.get("best") or {}).get("metrics") or {}
    test = (results.get("after") or {}) if tested else {}  # without a test set that is the validation
    methods = {
        method: {
            "chosen": _choice(method, val, test),
            "val": val[method],
            "test": test.get(method),
            "low": test.get(f"{method}_low"),
            "high": test.get(f"{method}_high"),
        }
        for method in METHODS
        if method in val
    }
    return {"best": best_method(val), "methods": methods} if methods else {}


def _choice(method: str, val: dict[str, float], test: dict[str, float]) -> str:
    if method == PREFIX:
        grid = grid_of(val)
        best = max(grid, key=lambda key: (grid[key], -key[1]), default=None)
        return "" if best is None else f"{best[0]} at rate {best[1]:g}"
    name, shown = ("knn_k", "k") if method == "knn" else ("logistic_c", "C")
    value = test.get(name, val.get(name))
    return "" if value is None else f"{shown} = {value:g}"


def edge(val: dict[str, float]) -> str:
    """Whether the best head's rate is the "lowest" or the "highest" of several, "" for neither."""
    grid = grid_of(val)
    rates = sorted({rate for _, rate in grid})
    if len(rates) < 3:
        return ""
    _, best = max(grid, key=lambda key: (grid[key], -key[1]))
    return "lowest" if best == rates[0] else "highest" if best == rates[-1] else ""


def _tested(row: dict[str, Any]) -> str:
    if row["test"] is None:
        return ""
    return f", test {row['test']:.4f}" + ("" if row["low"] is None else f" ({row['low']:.4f} to {row['high']:.4f})")
