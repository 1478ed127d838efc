"""What the namespace `datasets` offers."""

from toolbox.plugin import Component, hookimpl


@hookimpl
def toolbox_components():
    return [
        Component("dataset", "SOP", "toolbox_datasets.sop:SOP", "Stanford Online Products: 120,053 product photos"),
        Component(
            "dataset", "ImageFolder", "toolbox_datasets.imagefolder:ImageFolder", "your own images, one folder a class"
        ),
    ]
