"""The multi-power law's published curves and parameters, where they are found."""

import functools

import pytest

from experiments.multi_power_law import curves

needs_curves = pytest.mark.skipif(
    curves.folder() is None,
    reason="no mpl folder: ANYTIME_DATA names none (see experiments/published.py)",
)
SIZES = (25, 100)
# In the authors' convention of the warmup.
PUBLISHED = {
    25: (
        *(3.04045406, 0.52468604, 0.50786857, 363.78751622),
        *(2.06560812, 0.58279013, 0.64142257),
    ),
    100: (
        *(2.6514477, 0.60115152, 0.45295811, 437.9464276),
        *(2.13245612, 0.59785199, 0.65523644),
    ),
}


@functools.cache
def load(size: int):
    return curves.load(size)


def train(size: int):
    return [load(size)[name] for name in curves.TRAIN]


def test(size: int):
    return [load(size)[name] for name in curves.TEST]


test.__test__ = False
