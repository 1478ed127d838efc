"""The comparison of linear probes, k-NN and logistic regression at the end of a run."""

from __future__ import annotations

from typing import Any

from toolbox.base import Hook, ReportItem, Run, Table
from toolbox_classification.probe_accuracy import make_grid_report_items
from toolbox_classification.probe_names import METHODS, PREFIX, choose_method, select_grid


class CompareProbes(Hook):
    """The best method of probing by the validation set, and the accuracy of each method on the test set.

    It reads the numbers of `ProbeAccuracy`, `KNN` and `LogisticRegression` of this plugin, those of them that evaluate
    the validation set, in the validation of the best checkpoint and in the one evaluation on the test set. The best
    method on the validation set is marked, whichever is the best on the test set. Each method's setting (input and
    rate, k, C) is the one that the test set was evaluated with.

    It adds "probes" to train_results.json, {"best": method, "methods": {method: {"chosen", "val", "test", "low",
    "high"}}}, and logs the same. The report gets a table, and the grid of linear probes by learning rate where the
    metric of the last evaluation does not show it.
    """

    def on_run_end(self, run: Run, results: dict[str, Any]) -> dict[str, Any]:
        tested = bool(run.config["test_dataloader"] and run.config["test_evaluator"])
        comparison = compare_methods(results, tested=tested)
        if not comparison:
            run.warn(
                "classification.CompareProbes finds no number of classification.ProbeAccuracy, classification.KNN or "
                "classification.LogisticRegression."
            )
            return {}
        for method, row in comparison["methods"].items():
            mark = " (best on the validation set, so it predicts)" if method == comparison["best"] else ""
            test = "" if row["test"] is None else f", test {row['test']:.4f}"
            test += "" if row["low"] is None else f" ({row['low']:.4f} to {row['high']:.4f})"
            run.info(f"{METHODS[method]}{mark}: {row['chosen']}; validation {row['val']:.4f}{test}")
        if edge := find_grid_edge(results["best"]["metrics"]):
            run.info(f"The best learning rate is the {edge} of the grid: try {edge.replace('est', 'er')} ones.")
        return {"probes": comparison}

    def report_items(self, results: dict[str, Any]) -> list[ReportItem]:
        comparison = results.get("probes")
        if not comparison:
            return []
        rows = []
        for method, row in comparison["methods"].items():
            name = METHODS[method] + (" *" if method == comparison["best"] else "")
            interval = None if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
            rows.append([name, row["chosen"], row["val"], row["test"], interval])
        note = (
            "* the best on the validation set, by which methods are compared, and what `predict` uses. The test set is "
            "evaluated once; 95 % over its items."
        )
        table = Table("Probes", ["method", "chosen", "validation", "test", "test interval"], rows, note)
        grid = [] if select_grid(results.get("after") or {}) else make_grid_report_items(results["best"]["metrics"])
        return [table, *grid]


def compare_methods(results: dict[str, Any], *, tested: bool) -> dict[str, Any]:
    """The comparison for train_results.json; empty where nothing was probed.

    - `results`: what that file holds otherwise; `tested`: whether its "after" is of a test set.
    """
    val = (results.get("best") or {}).get("metrics") or {}
    test = (results.get("after") or {}) if tested else {}  # without a test set that is the validation
    methods = {
        method: {
            "chosen": _describe_setting(method, val, test),
            "val": val[method],
            "test": test.get(method),
            "low": test.get(f"{method}_low"),
            "high": test.get(f"{method}_high"),
        }
        for method in METHODS
        if method in val
    }
    return {"best": choose_method(val), "methods": methods} if methods else {}


def _describe_setting(method: str, val: dict[str, float], test: dict[str, float]) -> str:
    if method == PREFIX:
        grid = select_grid(val)
        best = max(grid, key=lambda key: (grid[key], -key[1]), default=None)
        return "" if best is None else f"{best[0]} at rate {best[1]:g}"
    name, symbol = ("knn_k", "k") if method == "knn" else ("logistic_c", "C")
    value = test.get(name, val.get(name))
    return "" if value is None else f"{symbol} = {value:g}"


def find_grid_edge(val: dict[str, float]) -> str:
    """Whether the best head's rate is the "lowest" or the "highest" of at least three, "" for neither."""
    grid = select_grid(val)
    rates = sorted({rate for _, rate in grid})
    if len(rates) < 3:
        return ""
    _, best = max(grid, key=lambda key: (grid[key], -key[1]))
    return "lowest" if best == rates[0] else "highest" if best == rates[-1] else ""
