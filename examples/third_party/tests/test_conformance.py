"""The contracts that the toolbox expects of a plugin, checked by its own kit."""

import pytest

from toolbox.testing import check_component, check_plugin


def test_plugin():
    check_plugin("acme")


SMALL = {"dim": 8, "depth": 2, "patch": 8, "size": 16}


@pytest.mark.parametrize("arguments", [{}, SMALL, {**SMALL, "mixer": {"type": "acme.TokenMean"}}])
def test_patchmixer(arguments):
    check_component("acme.PatchMixer", **arguments)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_angular(scale):
    check_component("acme.Angular", scale=scale)
