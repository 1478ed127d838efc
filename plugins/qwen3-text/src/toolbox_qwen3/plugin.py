"""The plugin `qwen3`: Qwen3-Embedding text encoders."""

from toolbox.plugin import Component, hookimpl

COMPONENTS: tuple[tuple[str, str, str, str], ...] = ()
"""Of each component its kind, name, module and summary."""


@hookimpl
def toolbox_components():
    return [
        Component(kind, name, f"toolbox_qwen3.{module}:{name}", summary) for kind, name, module, summary in COMPONENTS
    ]
