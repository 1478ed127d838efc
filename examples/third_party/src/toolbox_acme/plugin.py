"""The plugin `acme`. It imports nothing but toolbox.plugin, so that listing components stays instant."""

from pathlib import Path

from toolbox.plugin import Component, hookimpl


@hookimpl
def toolbox_components():
    return [
        Component("backbone", "PatchMixer", "toolbox_acme.patchmixer:PatchMixer", "MLP-Mixer, without attention"),
        Component("loss", "Angular", "toolbox_acme.angular:Angular", "angular prototypes with a learned scale"),
    ]


@hookimpl
def toolbox_config_dirs():
    return [str(Path(__file__).parent / "configs")]
