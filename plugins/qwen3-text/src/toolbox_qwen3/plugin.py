"""The plugin `qwen3`: Qwen3-Embedding text encoders."""

from toolbox.plugin import Component, hookimpl

COMPONENTS = (("backbone", "Embedding", "embedding", "Qwen3-Embedding: texts, read at their end"),)
"""Of each component its kind, name, module and summary."""


@hookimpl
def toolbox_components():
    return [
        Component(kind, name, f"toolbox_qwen3.{module}:{name}", summary, requires=("transformers",))
        for kind, name, module, summary in COMPONENTS
    ]
