"""The plugin `alignment`: dual encoders of images and texts, and how they are evaluated."""

from toolbox.plugin import Component, hookimpl

COMPONENTS: tuple[tuple[str, str, str, str], ...] = ()
"""Of each component its kind, name, module and summary."""


@hookimpl
def toolbox_components():
    return [
        Component(kind, name, f"toolbox_alignment.{module}:{name}", summary)
        for kind, name, module, summary in COMPONENTS
    ]
