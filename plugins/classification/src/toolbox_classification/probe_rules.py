"""What a recipe must not say around a probe: its heads are trained as if each were alone, and one set chooses."""

from __future__ import annotations

from typing import Any

from toolbox.plugin import Problem


def problems(config: dict[str, Any]) -> list[Problem]:
    """Of a whole recipe, complete or not, whatever its model is."""
    if (config.get("model") or {}).get("type") != "classification.Probe":
        return []
    repeats = config["model"].get("repeats", 1)
    return _coupled(config.get("optim_wrapper") or {}, repeats) + _data(config) + _judged(config)


def _coupled(update: dict[str, Any], repeats: int) -> list[Problem]:
    """Settings by which one head would change the updates of another."""
    found = []
    for key, wrong, why in (
        ("clip_grad", update.get("clip_grad"), "clips the gradients of all heads together"),
        ("on_nonfinite", update.get("on_nonfinite") == "skip", "leaves an update of all heads out where one overflows"),
        ("precision", update.get("precision") == "fp16", "leaves an update of all heads out where one overflows"),
    ):
        if wrong:
            message = f"It {why}, and the heads of a probe are trained as if each were alone."
            hint = "Use 'bf16' or 'fp32'." if key == "precision" else "Remove it."
            found.append(Problem(message, f"optim_wrapper.{key}", hint))
    if repeats > 1 and (update.get("optimizer") or {}).get("type") == "core.AdamW8bit":
        message = "Its blocks of 256 numbers share a scale, and the repeats of a head stand in one tensor."
        found.append(Problem(message, "optim_wrapper.optimizer", "Use core.AdamW or core.SGD."))
    for path, settings in (update.get("parts") or {}).items():
        if isinstance(settings, dict) and "lr" in settings and (path == "model" or path.startswith("model.heads")):
            message = "It replaces the learning rates that classification.Probe gives its heads."
            found.append(Problem(message, f"optim_wrapper.parts.{path}.lr", "Remove it, and set model.rates."))
    return found


def _data(config: dict[str, Any]) -> list[Problem]:
    loader, repeats = config.get("train_dataloader") or {}, config["model"].get("repeats", 1)
    sampler = loader.get("sampler") or {}
    if sampler.get("type", "core.Shuffled") == "core.Shuffled" and sampler.get("repeats", 1) != repeats:
        message = f"classification.Probe has repeats={repeats}, and each of them takes an order of the data of its own."
        hint = f"Use sampler=dict(type='core.Shuffled', batch_size=..., repeats={repeats})."
        return [Problem(message, "train_dataloader.sampler", hint)]
    return []


def _judged(config: dict[str, Any]) -> list[Problem]:
    """The validation set chooses a head, and the test set never."""

    def of(split: str) -> list[tuple[str, dict[str, Any]]]:
        given = config.get(f"{split}_evaluator") or []
        listed = {f"{split}_evaluator": given} if isinstance(given, dict) else {}
        return list((listed or {f"{split}_evaluator.{i}": one for i, one in enumerate(given)}).items())

    name, wanted = "classification.ProbeAccuracy", config["model"].get("classifier", "best")
    found = [
        Problem("The best of many heads on the test set is a number too good.", f"{where}.choose", "Remove it.")
        for where, metric in of("test")
        if metric.get("type") == name and metric.get("choose")
    ]
    found += [
        Problem("It reads the chosen head, and the validation set chooses it.", where, "Move it to test_evaluator.")
        for where, metric in of("val")
        if metric.get("type") in ("classification.Accuracy", "classification.CalibrationError")
        or (metric.get("type") == name and not metric.get("choose"))
    ]
    val, test = ((config.get(f"{split}_dataloader") or {}).get("dataset") for split in ("val", "test"))
    if val is not None and val == test:
        message = "It is the data of val_dataloader: the head would be chosen by the very images that judge it."
        found.append(Problem(message, "test_dataloader.dataset", "Choose by others, carved from the training data."))
    fits = {"knn": "classification.KNN", "logistic": "classification.LogisticRegression"}.get(wanted)
    if fits is not None and fits not in [metric.get("type") for _, metric in of("val")]:
        message = f"The probe shall predict by '{wanted}', and no metric of the validation set fits it."
        found.append(Problem(message, "model.classifier", f"Add dict(type='{fits}') to val_evaluator."))
    if not any(metric.get("type") == name and metric.get("choose") for _, metric in of("val")):
        message = "classification.Probe has many heads, and nothing chooses one of them."
        hint = "Give val_dataloader, and dict(type='classification.ProbeAccuracy', choose=True) in val_evaluator."
        found.append(Problem(message, "val_evaluator", hint))
    return found
