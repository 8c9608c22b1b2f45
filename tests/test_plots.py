import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colors, image

from anytime_jax.reporting import comparison, plots, runs
from tests import folders

AVERAGE, COOLDOWN = plots._TRUNKS[0]
ROWS, COLUMNS = 650, 1600


def _draw(tmp_path, *names):
    path = tmp_path / "picture.png"
    plots.draw(comparison.compare([runs.read(name) for name in names]), path)
    pixels = image.imread(path)[..., :3]
    assert pixels.shape == (ROWS, COLUMNS, 3)
    return pixels


def _count(pixels, color, columns=slice(None)):
    """How many pixels have a colour."""
    distance = np.abs(pixels[:, columns] - np.array(colors.to_rgb(color)))
    return int((distance.max(axis=-1) < 0.02).sum())


# Columns with the panels of a picture that has two, and with nothing but the names of
# the lines between them.
LEFT, GAP, RIGHT = slice(0, 630), slice(660, 720), slice(870, COLUMNS)


def test_everything(tmp_path):
    pixels = _draw(tmp_path, *folders.write_all(tmp_path))
    for color in (AVERAGE, COOLDOWN, plots._RAW, plots._OTHERS, plots._FIXED):
        assert _count(pixels, color, LEFT) > 50, color
        assert _count(pixels, color, RIGHT) > 50, color


def test_a_trunk_alone_is_beside_its_best_exit(tmp_path):
    pixels = _draw(tmp_path, folders.write(tmp_path / "t", "constant", folders.TRUNK))
    assert _count(pixels, COOLDOWN) == 0
    assert _count(pixels, AVERAGE, LEFT) > 50
    # ema25 is the best exit at every horizon: it lies on the line of zero.
    at_zero = np.argwhere(
        np.abs(pixels[:, RIGHT] - np.array(colors.to_rgb(AVERAGE))).max(-1) < 0.02
    )[:, 0]
    assert np.median(at_zero) > 0.7 * ROWS


def test_fixed_horizon_runs_alone_are_one_panel(tmp_path):
    names = [
        folders.write(
            tmp_path / f"{step}", "cosine", {50: {"raw": 3.0}, step: {"raw": end}}
        )
        for step, end in folders.COSINE.items()
    ]
    pixels = _draw(tmp_path, *names)
    assert _count(pixels, AVERAGE) == _count(pixels, plots._RAW) == 0
    assert _count(pixels, plots._FIXED, GAP) >= 60
    linear = folders.write(tmp_path / "linear", "linear", {400: {"raw": 2.0}})
    pixels = _draw(tmp_path, *names, linear)
    assert _count(pixels, plots._FIXED, GAP) == 0


def test_two_trunks_have_two_colours(tmp_path):
    other = folders.write(tmp_path / "other", "inverse_sqrt", folders.TRUNK)
    pixels = _draw(tmp_path, *folders.write_all(tmp_path), other)
    for color in (AVERAGE, COOLDOWN, plots._TRUNKS[1][0], plots._RAW):
        assert _count(pixels, color) > 50, color
    assert _count(pixels, plots._OTHERS) == 0


def test_runs_whose_small_set_was_not_evaluated(tmp_path):
    write = folders.write
    pixels = _draw(
        tmp_path,
        write(tmp_path / "t", "constant", folders.TRUNK, curves=False),
        write(tmp_path / "c", "cosine", {200: {"raw": 2.0}}, curves=False),
    )
    assert _count(pixels, AVERAGE, LEFT) == 0
    assert _count(pixels, AVERAGE, RIGHT) > 50


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_left_out(tmp_path, bad):
    trunk = {100: {"raw": bad, "ema25": 2.5}, 200: {"raw": bad, "ema25": bad}}
    pixels = _draw(
        tmp_path,
        folders.write(tmp_path / "t", "constant", trunk),
        folders.write(tmp_path / "a", "cosine", {100: {"raw": 2.0}}),
        folders.write(tmp_path / "b", "cosine", {200: {"raw": bad}}),
    )
    assert _count(pixels, plots._RAW) == 0
    assert _count(pixels, AVERAGE, RIGHT) > 50


def test_a_trunk_alone_that_diverged(tmp_path):
    losses = dict.fromkeys(("raw", "ema25"), math.nan)
    trunk = {100: folders.TRUNK[100], 200: losses}
    pixels = _draw(tmp_path, folders.write(tmp_path / "t", "constant", trunk))
    assert _count(pixels, AVERAGE, RIGHT) > 50


def test_one_horizon_of_one_step(tmp_path):
    pixels = _draw(
        tmp_path, folders.write(tmp_path / "t", "constant", {1: {"raw": 2.0}})
    )
    assert _count(pixels, plots._RAW) > 50


def test_only_a_branch(tmp_path):
    losses = {100: {"raw": 2.0}}
    pixels = _draw(
        tmp_path, folders.write(tmp_path / "b", "cooldown", losses, trunk="t")
    )
    assert _count(pixels, COOLDOWN, LEFT) > 50


def test_many_horizons(tmp_path):
    trunk = {step: {"raw": 2 + 1 / step, "ema25": 2.0} for step in range(101, 140)}
    pixels = _draw(tmp_path, folders.write(tmp_path / "t", "constant", trunk))
    assert _count(pixels, AVERAGE, RIGHT) > 50


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.3)), min_size=1, max_size=12)
)
def test_labels_are_moved_apart_and_keep_their_order(labels):
    places, gaps = map(list, zip(*labels, strict=True))
    found = plots._apart(places, gaps)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for one, other in itertools.pairwise(order):
        assert found[other] - found[one] >= (gaps[one] + gaps[other]) / 2 - 1e-9


def test_labels_with_room_stay_where_they_are():
    places = [0.9, 0.1, 0.5]
    np.testing.assert_allclose(plots._apart(places, [0.3, 0.3, 0.3]), places)


def test_labels_that_meet_are_around_their_mean():
    np.testing.assert_allclose(plots._apart([0.5, 0.5], [0.1, 0.1]), [0.45, 0.55])


def test_texts_that_would_meet_are_left_out_from_the_left():
    texts = plots._legible([0.1, 0.5, 0.51, 0.9], ["1x", "2x", "3x", "4x"])
    assert texts == ["1x", "", "3x", "4x"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (500, "500"),
        (2e3, "2k"),
        (5e5, "500k"),
        (2e6, "2M"),
        (3e10, "30B"),
        (1e12, "1T"),
    ],
)
def test_tokens_are_short(number, text):
    assert plots._short(number) == text
