"""The plugin `classification`: classifiers, linear probes and their metrics, k-NN and logistic regression."""

from pathlib import Path

from toolbox.plugin import Command, Component, Problem, hookimpl

COMPONENTS = (
    ("model", "Classifier", "classifier", "backbone, pool and head that classify images"),
    ("model", "Probe", "probe", "a grid of linear probes of a frozen backbone"),
    ("head", "Linear", "class_heads", "one linear layer to the classes"),
    ("head", "MLP", "class_heads", "linear layers to the classes, ReLU between them"),
    ("metric", "Accuracy", "accuracy", "top-1, top-5, mean over classes"),
    ("metric", "CalibrationError", "calibration", "how far confidence and accuracy are apart"),
    ("metric", "KNN", "knn", "accuracy by the nearest training items"),
    ("metric", "LogisticRegression", "logistic", "accuracy of a regression on the training set"),
    ("metric", "ProbeAccuracy", "probe_accuracy", "accuracy of classification.Probe"),
    ("hook", "CompareProbes", "compare_probes", "compares linear probes, k-NN and logistic regression"),
)
"""Of each component its kind, name, module and summary."""


@hookimpl
def toolbox_components():
    return [
        Component(kind, name, f"toolbox_classification.{module}:{name}", summary)
        for kind, name, module, summary in COMPONENTS
    ]


@hookimpl
def toolbox_commands():
    target = "toolbox_classification.commands.predict:main"
    return [Command("predict", target, "classify images with a trained classifier")]


@hookimpl
def toolbox_check_config(config: dict) -> list[Problem]:
    """Check what no component sees alone: other parts of a recipe must not couple the heads of a probe."""
    from toolbox_classification.probe_rules import check_recipe

    return check_recipe(config)


@hookimpl
def toolbox_foreign_keys():
    return [str(Path(__file__).with_name("foreign_keys.toml"))]
