"""The plugin `contract`: toys of the jobs to come, for tests of the extension points and of whole runs."""

from __future__ import annotations

from toolbox.plugin import Component, hookimpl

namespace = "contract"


@hookimpl
def toolbox_components():
    parts, models = "contract_parts", "contract_models"
    return [
        Component("model", "DualEncoder", f"{models}:DualEncoder", "N vision towers and M text towers, aligned"),
        Component("model", "SwappedVisionLanguage", f"{models}:SwappedVisionLanguage", "a foreign tower that is read"),
        Component("model", "Pretrainer", f"{models}:Pretrainer", "a student and its moving-average teacher"),
        Component("backbone", "Patches", f"{parts}:Patches", "a vision tower of any number of tokens"),
        Component("backbone", "Letters", f"{parts}:Letters", "a text tower"),
        Component("backbone", "LanguageModel", f"{parts}:LanguageModel", "a text tower of ready embeddings"),
        Component("loss", "Contrastive", f"{parts}:Contrastive", "symmetric InfoNCE with a learned scale"),
        Component("dataset", "Shades", f"{parts}:Shades", "noise around four grays, with captions"),
        Component("dataset", "Captions", f"{parts}:Captions", "the same with one to four captions"),
        Component("dataset", "Questions", f"{parts}:Questions", "the same with a question and its answer"),
        Component("augment", "RandomCrops", f"{parts}:RandomCrops", "some crops of the size that is wanted"),
        Component("metric", "Matching", f"{parts}:Matching", "share of captions whose class is that of the best image"),
        Component("metric", "Answers", f"{parts}:Answers", "share of the answers' tokens that are right"),
    ]
