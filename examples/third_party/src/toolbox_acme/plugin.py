"""The plugin `acme`. It imports nothing but toolbox.plugin, so that listing components stays instant."""

from pathlib import Path

from toolbox.plugin import Command, Component, Kind, hookimpl


@hookimpl
def toolbox_components():
    return [
        Component("backbone", "PatchMixer", "toolbox_acme.patchmixer:PatchMixer", "MLP-Mixer, without attention"),
        Component("loss", "Angular", "toolbox_acme.angular:Angular", "angular prototypes with a learned scale"),
        Component("token_mixer", "TokenMLP", "toolbox_acme.token_mixers:TokenMLP", "an MLP over all patches"),
        Component("token_mixer", "TokenMean", "toolbox_acme.token_mixers:TokenMean", "the mean of all patches"),
    ]


@hookimpl
def toolbox_kinds():
    return [Kind("token_mixer", "toolbox_acme.token_mixers:TokenMixer", "mixes across the patches of an image")]


@hookimpl
def toolbox_commands():
    target = "toolbox_acme.commands.find_similar:main"
    return [Command("find_similar", target, "print the images of a folder that are most like one image")]


@hookimpl
def toolbox_config_dirs():
    return [str(Path(__file__).parent / "configs")]
