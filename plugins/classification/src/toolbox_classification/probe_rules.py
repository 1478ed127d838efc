"""Checks of a recipe with a probe: its heads are trained independently, and the validation set alone chooses."""

from __future__ import annotations

from typing import Any

from toolbox.plugin import Problem


def check_recipe(config: dict[str, Any]) -> list[Problem]:
    """The problems of a whole recipe, complete or not; none where its model is no probe."""
    if (config.get("model") or {}).get("type") != "classification.Probe":
        return []
    repeats = config["model"].get("repeats", 1)
    return _check_updates(config.get("optim_wrapper") or {}, repeats) + _check_sampler(config) + _check_metrics(config)


def _check_updates(settings: dict[str, Any], repeats: int) -> list[Problem]:
    """Settings of the optimizer by which one head would change the updates of another."""
    shares = "and the heads of a probe are trained as if each were alone."
    overflow = f"It leaves an update of all heads out where one overflows, {shares}"
    blocks = "Its blocks of 256 numbers share a scale, and the repeats of a head are in one tensor."
    uses_blocks = (settings.get("optimizer") or {}).get("type") == "core.AdamW8bit"
    rules = [
        (
            settings.get("clip_grad"),
            f"It clips the gradients of all heads together, {shares}",
            "clip_grad",
            "Remove it.",
        ),
        (settings.get("on_nonfinite") == "skip", overflow, "on_nonfinite", "Remove it."),
        (settings.get("precision") == "fp16", overflow, "precision", "Use 'bf16' or 'fp32'."),
        (repeats > 1 and uses_blocks, blocks, "optimizer", "Use core.AdamW or core.SGD."),
    ]
    for path, part in (settings.get("parts") or {}).items():
        replaces = isinstance(part, dict) and "lr" in part and (path == "model" or path.startswith("model.heads"))
        message = "It replaces the learning rates that classification.Probe gives its heads."
        rules.append((replaces, message, f"parts.{path}.lr", "Remove it, and set model.rates."))
    return [Problem(message, f"optim_wrapper.{key}", hint) for broken, message, key, hint in rules if broken]


def _check_sampler(config: dict[str, Any]) -> list[Problem]:
    """Each repeat needs an order of the data of its own."""
    loader, repeats = config.get("train_dataloader") or {}, config["model"].get("repeats", 1)
    sampler = loader.get("sampler") or {}
    if sampler.get("type", "core.Shuffled") == "core.Shuffled" and sampler.get("repeats", 1) != repeats:
        message = f"classification.Probe has repeats={repeats}, and each of them takes an order of the data of its own."
        hint = f"Use sampler=dict(type='core.Shuffled', batch_size=..., repeats={repeats})."
        return [Problem(message, "train_dataloader.sampler", hint)]
    return []


def _check_metrics(config: dict[str, Any]) -> list[Problem]:
    """The validation set chooses a head, and the test set never does."""
    val_metrics, test_metrics = _list_metrics(config, "val"), _list_metrics(config, "test")
    name, classifier = "classification.ProbeAccuracy", config["model"].get("classifier", "best")
    problems = [
        Problem("The best of many heads on the test set would be too good.", f"{path}.choose", "Remove it.")
        for path, metric in test_metrics
        if metric.get("type") == name and metric.get("choose")
    ]
    problems += [
        Problem("It reads the chosen head, and the validation set chooses it.", path, "Move it to test_evaluator.")
        for path, metric in val_metrics
        if metric.get("type") in ("classification.Accuracy", "classification.CalibrationError")
        or (metric.get("type") == name and not metric.get("choose"))
    ]
    val, test = ((config.get(f"{split}_dataloader") or {}).get("dataset") for split in ("val", "test"))
    metric_type = {"knn": "classification.KNN", "logistic": "classification.LogisticRegression"}.get(classifier)
    rules = (
        (
            val is not None and val == test,
            "It is the data of val_dataloader: the head would be chosen by the very images that evaluate it.",
            "test_dataloader.dataset",
            "Choose by other images, split off the training data.",
        ),
        (
            metric_type is not None and metric_type not in [metric.get("type") for _, metric in val_metrics],
            f"The probe shall predict by '{classifier}', and no metric of the validation set fits it.",
            "model.classifier",
            f"Add dict(type='{metric_type}') to val_evaluator.",
        ),
        (
            not any(metric.get("type") == name and metric.get("choose") for _, metric in val_metrics),
            "classification.Probe has many heads, and nothing chooses one of them.",
            "val_evaluator",
            f"Give val_dataloader, and dict(type='{name}', choose=True) in val_evaluator.",
        ),
    )
    return problems + [Problem(message, key, hint) for broken, message, key, hint in rules if broken]


def _list_metrics(config: dict[str, Any], split: str) -> list[tuple[str, dict[str, Any]]]:
    """(key path, settings) of the metrics of a split."""
    key = f"{split}_evaluator"
    metrics = config.get(key) or []
    if isinstance(metrics, dict):
        return [(key, metrics)]
    return [(f"{key}.{number}", metric) for number, metric in enumerate(metrics)]
