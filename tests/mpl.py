"""The multi-power law's published curves and parameters, where they are found."""

import functools

import pytest

from experiments.multi_power_law import curves

needs_curves = pytest.mark.skipif(
    curves.folder() is None,
    reason="no mpl folder: ANYTIME_DATA names none (see experiments/published.py)",
)
SIZES = curves.SIZES
PUBLISHED = curves.PARAMETERS


@functools.cache
def load(size: int):
    return curves.load(size)


def train(size: int):
    return [load(size)[name] for name in curves.TRAIN]


def test(size: int):
    return [load(size)[name] for name in curves.TEST]


test.__test__ = False
