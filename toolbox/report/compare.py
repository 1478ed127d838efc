"""Two or more runs side by side: what they reached, what differs between them, which items flipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from toolbox.base.report_items import Outcomes
from toolbox.report.numbers import is_finite, is_number
from toolbox.report.paired import PairedOutcomes, describe_misfit, find_hits, name_share, pair_outcomes
from toolbox.report.recipe import find_evaluated_split, list_differences
from toolbox.report.runs import RunRecord, read_runs
from toolbox.utils.key_paths import flatten

_SAME = 1e-4
_MACHINE = ("command", "platform")


@dataclass(frozen=True)
class RunPair:
    """The first run against another, item by item; `outcomes` is None where that is impossible, and `why` says it."""

    label: str
    outcomes: PairedOutcomes | None
    why: str = ""


@dataclass
class Comparison:
    """Runs in the order in which they were given; the first is what the others are compared with.

    - `metrics`: {name: the number of each run, None where it has none}.
    - `settings`, `environment`: (key path, text of each run) where they differ.
    - `pairs`: one for each run after the first and each kind of outcome.
    - `alarms`: why the numbers may not be comparable; `notes`: (label, what is missing in a run).
    """

    runs: list[RunRecord]
    metrics: dict[str, list[Any]]
    settings: list[tuple[str, list[str]]]
    environment: list[tuple[str, list[str]]]
    pairs: list[RunPair] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The names of the runs."""
        return [run.label for run in self.runs]

    def compute_differences(self, name: str) -> list[float | None]:
        """What each run has more than the first, None where either has no finite number."""
        first, *_ = values = self.metrics[name]
        return [value - first if is_finite(value) and is_finite(first) else None for value in values]

    def to_record(self) -> dict[str, Any]:
        """The comparison in strict JSON's types; keys are only ever added."""
        return {
            "runs": [
                {
                    "label": run.label,
                    "path": str(run.path),
                    "metrics": {name: _get_finite(value) for name, value in run.metrics.items()},
                    "seconds": _get_finite(run.info.get("seconds")),
                    "parameters": run.parameters,
                    "best_step": run.best_step,
                    "notes": run.notes,
                }
                for run in self.runs
            ],
            "differences": {name: self.compute_differences(name) for name in self.metrics},
            "settings": {name: dict(zip(self.labels, texts, strict=True)) for name, texts in self.settings},
            "environment": {name: dict(zip(self.labels, texts, strict=True)) for name, texts in self.environment},
            "paired": [_make_pair_record(self.labels[0], pair) for pair in self.pairs],
            "alarms": self.alarms,
        }


def compare_runs(paths: list[str | Path]) -> Comparison:
    """Compare the runs in these folders. Raises ToolboxError as `read_runs` does."""
    runs = read_runs(paths)
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    machines = [_select_machine(run.environment) for run in runs]
    comparison = Comparison(
        runs,
        {name: [run.metrics.get(name) for run in runs] for name in names},
        list_differences([run.recipe for run in runs]),
        list_differences(machines, text=str),
    )
    comparison.alarms = [*_find_item_differences(runs), *_find_data_differences(runs)]
    comparison.pairs = list(_pair_runs(runs))
    for run in runs:
        run.notes += _find_disagreements(run)
    comparison.notes = [(run.label, note) for run in runs for note in run.notes]
    return comparison


def _select_machine(environment: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of environment.json may change a result; checksums are cut to what the eye compares."""
    if environment is None:
        return None
    settings = {key: value for key, value in environment.items() if key not in _MACHINE}
    return {
        name: value[:12] if name.endswith(".sources") and isinstance(value, str) else value
        for name, value in flatten(settings).items()
    }


def _get_outcomes(run: RunRecord) -> dict[str, Outcomes]:
    by_title: dict[str, Outcomes] = {}
    for outcomes in run.select_items(Outcomes):
        by_title.setdefault(outcomes.title, outcomes)
    return by_title


def _find_item_differences(runs: list[RunRecord]) -> Iterator[str]:
    """Runs that were evaluated on different items, by their ids or else by how many there were."""
    for a, b in combinations(runs, 2):
        first_outcomes, second_outcomes = _get_outcomes(a), _get_outcomes(b)
        shared = [
            (first_outcomes[title], second_outcomes[title]) for title in first_outcomes if title in second_outcomes
        ]
        apart = next((pair for pair in shared if set(pair[0].ids) != set(pair[1].ids)), None)
        counts = [run.metrics.get("queries") for run in (a, b)]
        if apart:
            first, second = (set(outcomes.ids) for outcomes in apart)
            yield (
                f"{a.label} and {b.label} were evaluated on different test sets, of {len(first):,} and {len(second):,} "
                f"items with {len(first & second):,} in common: their metrics cannot be compared, and nothing of "
                "them is compared item by item."
            )
        elif not shared and all(map(is_number, counts)) and counts[0] != counts[1]:
            yield (
                f"{a.label} and {b.label} were evaluated on different test sets, of {counts[0]:,} and {counts[1]:,} "
                "queries: their metrics cannot be compared."
            )


def _find_data_differences(runs: list[RunRecord]) -> Iterator[str]:
    """Runs whose recipes name other test data than the first, which equal ids would hide."""
    known = [(run, find_evaluated_data(run)) for run in runs]
    first, data = known[0]
    for run, other in known[1:]:
        if data is not None and other is not None and data != other:
            rows = "; ".join(
                f"{name} is {' and '.join(text or 'not set' for text in texts)}"
                for name, texts in list_differences([data, other])
            )
            yield (
                f"The recipes of {first.label} and {run.label} name different test data ({rows}): compare them only "
                "if these are the same items."
            )


def find_evaluated_data(run: RunRecord) -> dict[str, Any] | None:
    """The dataset that a run was evaluated on, as its recipe describes it; None if that is not known."""
    recipe = run.recipe or {}
    loader = recipe.get(f"{run.info.get('split') or find_evaluated_split(recipe)}_dataloader")
    dataset = loader.get("dataset") if isinstance(loader, dict) else None
    return dataset if isinstance(dataset, dict) else None


def _pair_runs(runs: list[RunRecord]) -> Iterator[RunPair]:
    first, *others = runs
    mine = _get_outcomes(first)
    for run in others:
        theirs = _get_outcomes(run)
        titles = [title for title in mine if title in theirs]
        if not titles:
            lacking = [other.label for other, outcomes in ((first, mine), (run, theirs)) if not outcomes]
            why = f"{' and '.join(lacking)} kept no outcomes" if lacking else "they kept no outcomes of one name"
            yield RunPair(run.label, None, f"{why}.")
        for title in titles:
            try:
                yield RunPair(run.label, pair_outcomes(mine[title], theirs[title]))
            except ValueError as error:
                yield RunPair(run.label, None, f"{title}: {error}.")


def _find_disagreements(run: RunRecord) -> list[str]:
    """Where the outcomes of a run are of another evaluation than its metrics."""
    outcomes = next((item for item in run.select_items(Outcomes) if not describe_misfit(item)), None)
    if outcomes is None or not is_finite(share := run.metrics.get(outcomes.mean or "recall@1")):
        return []
    count, right = len(outcomes.ids), sum(find_hits(outcomes.values))
    ranked = sum(math.isfinite(value) for value in outcomes.values)
    # queries without any match may be left out of the one or of the other
    counts = (count, ranked, run.metrics.get("queries"))
    if any(is_finite(items) and items > 0 and abs(right / items - share) < _SAME for items in counts):
        return []
    return [
        f"Its outcomes give {name_share(outcomes)} {right / count:.4f} and its results say {share:.4f}: they are of "
        "different evaluations, or rank differently. Trust the results; what is said item by item is of the outcomes."
    ]


def _make_pair_record(first: str, pair: RunPair) -> dict[str, Any]:
    outcomes = pair.outcomes
    if outcomes is None:
        return {"first": first, "second": pair.label, "why_not": pair.why}
    return {
        "first": first,
        "second": pair.label,
        "outcomes": outcomes.title,
        "number": outcomes.number,
        "items": outcomes.items,
        "first_hits": outcomes.first_hits,
        "second_hits": outcomes.second_hits,
        "only_first": len(outcomes.lost),
        "only_second": len(outcomes.gained),
        "p_value": outcomes.p_value,
        "difference": outcomes.difference,
        "interval": list(outcomes.interval),
    }


def _get_finite(value: Any) -> Any:
    return value if is_finite(value) else None
