"""Classifiers, linear probes and what they are worth, and what the training set says without any training."""

from pathlib import Path

from toolbox.plugin import Command, Component, Problem, hookimpl


@hookimpl
def toolbox_components():
    package = "toolbox_classification"
    return [
        Component(
            "model", "Classifier", f"{package}.classifier:Classifier", "backbone, pool and head that classify images"
        ),
        Component("model", "Probe", f"{package}.probe:Probe", "a grid of linear probes of a frozen backbone"),
        Component("head", "Linear", f"{package}.class_heads:Linear", "one linear layer to the classes"),
        Component("head", "MLP", f"{package}.class_heads:MLP", "linear layers to the classes, ReLU between them"),
        Component("metric", "Accuracy", f"{package}.accuracy:Accuracy", "top-1, top-5, mean over classes"),
        Component(
            "metric",
            "CalibrationError",
            f"{package}.calibration:CalibrationError",
            "how far confidence and accuracy are apart",
        ),
        Component("metric", "KNN", f"{package}.knn:KNN", "accuracy by the nearest training items"),
        Component(
            "metric",
            "LogisticRegression",
            f"{package}.logistic:LogisticRegression",
            "accuracy of a regression on the training set",
        ),
        Component(
            "metric", "ProbeAccuracy", f"{package}.probe_accuracy:ProbeAccuracy", "accuracy of classification.Probe"
        ),
        Component(
            "hook",
            "CompareProbes",
            f"{package}.compare_probes:CompareProbes",
            "compares linear probes, k-NN and logistic regression",
        ),
    ]


@hookimpl
def toolbox_commands():
    target = "toolbox_classification.commands.predict:main"
    return [Command("predict", target, "classify images with a trained classifier")]


@hookimpl
def toolbox_check_config(config: dict) -> list[Problem]:
    """What no part sees alone: a probe's heads must not be coupled by what stands elsewhere in the recipe."""
    from toolbox_classification import probe_rules

    return probe_rules.problems(config)


@hookimpl
def toolbox_foreign_keys():
    return [str(Path(__file__).with_name("foreign_keys.toml"))]
