"""What the namespace `glyphs` offers."""

from toolbox.plugin import Component, hookimpl


@hookimpl
def toolbox_components():
    return [
        Component(
            "dataset", "Glyphs", "toolbox_glyphs.glyphs:Glyphs", "letters of five scripts drawn from fonts, no download"
        )
    ]
