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
from toolbox.report.paired import Paired, hits, number_of, pair, unfit
from toolbox.report.recipe import find_evaluated_split, list_differences
from toolbox.report.runs import RunRecord, read_runs
from toolbox.utils.key_paths import flatten

_SAME = 1e-4
_MACHINE = ("command", "platform")


@dataclass(frozen=True)
class Duel:
    """The first run against another, item by item; `paired` is None where that is impossible, and `why` says it."""

    label: str
    paired: Paired | None
    why: str = ""


@dataclass
class Comparison:
    """Runs in the order in which they were given; the first is what the others are compared with.

    - `metrics`: {name: the number of each run, None where it has none}.
    - `settings`, `environment`: (key path, text of each run) where they differ.
    - `duels`: one for each run after the first and each kind of outcome.
    - `alarms`: why the numbers may not be comparable; `notes`: (label, what is missing in a run).
    """

    runs: list[RunRecord]
    metrics: dict[str, list[Any]]
    settings: list[tuple[str, list[str]]]
    environment: list[tuple[str, list[str]]]
    duels: list[Duel] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The names of the runs."""
        return [run.label for run in self.runs]

    def differences(self, name: str) -> list[float | None]:
        """What each run has more than the first, None where either has no finite number."""
        first, *_ = values = self.metrics[name]
        return [value - first if is_finite(value) and is_finite(first) else None for value in values]

    def record(self) -> dict[str, Any]:
        """The comparison in strict JSON's types; keys are only ever added."""
        return {
            "runs": [
                {
                    "label": run.label,
                    "path": str(run.path),
                    "metrics": _finite(run.metrics),
                    "seconds": _or_none(run.info.get("seconds")),
                    "parameters": run.parameters,
                    "best_step": run.best_step,
                    "notes": run.notes,
                }
                for run in self.runs
            ],
            "differences": {name: self.differences(name) for name in self.metrics},
            "settings": {name: dict(zip(self.labels, texts, strict=True)) for name, texts in self.settings},
            "environment": {name: dict(zip(self.labels, texts, strict=True)) for name, texts in self.environment},
            "paired": [_duel_record(self.labels[0], duel) for duel in self.duels],
            "alarms": self.alarms,
        }


def compare(paths: list[str | Path]) -> Comparison:
    """Compare the runs in these folders. Raises ToolboxError as `read_runs` does."""
    runs = read_runs(paths)
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    machines = [_machine(run.environment) for run in runs]
    comparison = Comparison(
        runs,
        {name: [run.metrics.get(name) for run in runs] for name in names},
        list_differences([run.recipe for run in runs]),
        list_differences(machines, text=str),
    )
    comparison.alarms = [*_other_items(runs), *_other_data(runs)]
    comparison.duels = list(_duels(runs))
    for run in runs:
        run.notes += _disagreements(run)
    comparison.notes = [(run.label, note) for run in runs for note in run.notes]
    return comparison


def _machine(environment: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of environment.json may change a result; checksums are cut to what the eye compares."""
    if environment is None:
        return None
    found = {key: value for key, value in environment.items() if key not in _MACHINE}
    return {
        name: value[:12] if name.endswith(".sources") and isinstance(value, str) else value
        for name, value in flatten(found).items()
    }


def _outcomes(run: RunRecord) -> dict[str, Outcomes]:
    found: dict[str, Outcomes] = {}
    for outcomes in run.of(Outcomes):
        found.setdefault(outcomes.title, outcomes)
    return found


def _other_items(runs: list[RunRecord]) -> Iterator[str]:
    """Runs that were judged on different items, by their ids or else by how many there were."""
    for a, b in combinations(runs, 2):
        found = [(_outcomes(a)[title], _outcomes(b)[title]) for title in _outcomes(a) if title in _outcomes(b)]
        apart = next((p for p in found if set(p[0].ids) != set(p[1].ids)), None)
        counts = [run.metrics.get("queries") for run in (a, b)]
        if apart:
            first, second = (set(outcomes.ids) for outcomes in apart)
            yield (
                f"{a.label} and {b.label} were judged on different test sets, of {len(first):,} and {len(second):,} "
                f"items with {len(first & second):,} in common: their metrics cannot be compared, and nothing of "
                "them is compared item by item."
            )
        elif not found and all(map(is_number, counts)) and counts[0] != counts[1]:
            yield (
                f"{a.label} and {b.label} were judged on different test sets, of {counts[0]:,} and {counts[1]:,} "
                "queries: their metrics cannot be compared."
            )


def _other_data(runs: list[RunRecord]) -> Iterator[str]:
    """Runs whose recipes name other test data than the first, which equal ids would hide."""
    known = [(run, judged_on(run)) for run in runs]
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


def judged_on(run: RunRecord) -> dict[str, Any] | None:
    """The dataset that a run was evaluated on, as its recipe describes it; None if that is not known."""
    recipe = run.recipe or {}
    loader = recipe.get(f"{run.info.get('split') or find_evaluated_split(recipe)}_dataloader")
    dataset = loader.get("dataset") if isinstance(loader, dict) else None
    return dataset if isinstance(dataset, dict) else None


def _duels(runs: list[RunRecord]) -> Iterator[Duel]:
    first, *others = runs
    mine = _outcomes(first)
    for run in others:
        theirs = _outcomes(run)
        titles = [title for title in mine if title in theirs]
        if not titles:
            lacking = [r.label for r, found in ((first, mine), (run, theirs)) if not found]
            why = f"{' and '.join(lacking)} kept no outcomes" if lacking else "they kept no outcomes of one name"
            yield Duel(run.label, None, f"{why}.")
        for title in titles:
            try:
                yield Duel(run.label, pair(mine[title], theirs[title]))
            except ValueError as error:
                yield Duel(run.label, None, f"{title}: {error}.")


def _disagreements(run: RunRecord) -> list[str]:
    """Where the outcomes of a run are of another evaluation than its metrics."""
    ranks = next((found for found in run.of(Outcomes) if not unfit(found)), None)
    said = run.metrics.get(ranks.mean or "recall@1") if ranks is not None else None
    if not is_finite(said):
        return []
    count, right = len(ranks.ids), sum(hits(ranks.values))
    found = sum(math.isfinite(value) for value in ranks.values)
    # queries without any match may be left out of the one or of the other
    counts = (count, found, run.metrics.get("queries"))
    if any(is_finite(items) and items > 0 and abs(right / items - said) < _SAME for items in counts):
        return []
    return [
        f"Its outcomes give {number_of(ranks)} {right / count:.4f} and its results say {said:.4f}: they are of "
        "different evaluations, or rank differently. Trust the results; what is said item by item is of the outcomes."
    ]


def _duel_record(first: str, duel: Duel) -> dict[str, Any]:
    found = duel.paired
    if found is None:
        return {"first": first, "second": duel.label, "why_not": duel.why}
    return {
        "first": first,
        "second": duel.label,
        "outcomes": found.title,
        "number": found.number,
        "items": found.items,
        "first_hits": found.first_hits,
        "second_hits": found.second_hits,
        "only_first": len(found.lost),
        "only_second": len(found.gained),
        "p_value": found.p_value,
        "difference": found.difference,
        "interval": list(found.interval),
    }


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: _or_none(value) for name, value in numbers.items()}


def _or_none(value: Any) -> Any:
    return value if is_finite(value) else None
