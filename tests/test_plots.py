import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colors, image

from anytime_jax.reporting import comparison, dots, looks, plots, runs
from tests import folders

AVERAGE, COOLDOWN = looks.TRUNKS[0]
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
    for color in (AVERAGE, COOLDOWN, looks.RAW, looks.OTHERS, looks.FIXED):
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
    assert _count(pixels, AVERAGE) == _count(pixels, looks.RAW) == 0
    assert _count(pixels, looks.FIXED, GAP) >= 60
    linear = folders.write(tmp_path / "linear", "linear", {400: {"raw": 2.0}})
    pixels = _draw(tmp_path, *names, linear)
    assert _count(pixels, looks.FIXED, GAP) == 0


def test_two_trunks_have_two_colours(tmp_path):
    other = folders.write(tmp_path / "other", "inverse_sqrt", folders.TRUNK)
    pixels = _draw(tmp_path, *folders.write_all(tmp_path), other)
    for color in (AVERAGE, COOLDOWN, looks.TRUNKS[1][0], looks.RAW):
        assert _count(pixels, color) > 50, color
    assert _count(pixels, looks.OTHERS) == 0


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
    assert _count(pixels, looks.RAW) == 0
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
    assert _count(pixels, looks.RAW) > 50


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


def _draw_merges(tmp_path, *names):
    path = tmp_path / "merges.png"
    found = comparison.compare([runs.read(name) for name in names])
    plots.draw(found, path)
    return found, image.imread(path)[..., :3]


def test_merges_are_dots_below_the_curves(tmp_path):
    names = folders.write_all(tmp_path)
    trunk = names[0]
    window = dict(name="window", start=320, stop=400)
    names.append(folders.write_merge(tmp_path / "w", trunk, window, 1.75, span=80))
    found, pixels = _draw_merges(tmp_path, *names)
    rows, columns, _ = pixels.shape
    assert columns == COLUMNS
    assert rows == pytest.approx(150 * (4.2 + dots.height(found)), abs=1)
    below = pixels[630:]
    # The only merge is at 4x, in the right one of three panels.
    assert _count(below, dots._MERGE, slice(1200, COLUMNS)) > 50
    assert _count(below, dots._MERGE, slice(300, 1100)) == 0
    for color in (AVERAGE, COOLDOWN, looks.RAW, looks.FIXED):
        assert _count(below, color) > 50, color
    folders.write_merge(tmp_path / "t", trunk, dict(name="uniform"), 1.875, span=200)
    _, taller = _draw_merges(tmp_path, *names, tmp_path / "t")
    assert len(taller) - rows == pytest.approx(150 * dots._ROW, abs=1)


def test_the_snapshots_of_a_merged_trunk_are_ticks(tmp_path):
    names = folders.write_all(tmp_path)
    merge = folders.write_merge(
        tmp_path / "u", names[0], dict(name="uniform"), 1.875, span=200
    )
    _, without = _draw_merges(tmp_path, *names, merge)
    for step in range(50, 401, 10):
        (tmp_path / "trunk" / "snapshots" / f"{step}").mkdir(parents=True)
    _, pixels = _draw_merges(tmp_path, *names, merge)
    changed = np.argwhere(np.abs(pixels - without).max(axis=-1) > 0.2)
    # A name in the legend, and ticks that stand on the axis.
    ticks = changed[changed[:, 0] > 450]
    assert len(ticks) > 30 * 15
    assert ticks[:, 0].max() - ticks[:, 0].min() < 25
    assert ticks[:, 0].max() < 560


def test_merges_without_an_envelope_or_a_finite_loss(tmp_path):
    trunk = folders.write(tmp_path / "t", "constant", folders.TRUNK)
    uniform, linear = dict(name="uniform"), dict(name="linear")
    _, pixels = _draw_merges(
        tmp_path,
        trunk,
        folders.write_merge(tmp_path / "a", trunk, uniform, 1.75, span=100),
        folders.write_merge(tmp_path / "b", trunk, linear, math.nan, span=100),
    )
    assert _count(pixels[630:], dots._MERGE) > 50


def test_what_is_far_worse_than_the_weights_is_off_the_scale():
    write = comparison.Loss(1.0, 0.0, 1)
    rows = [comparison.Row("t", name, {1: write}, ()) for name in ("raw", "a", "b")]
    lines = dict(zip(rows, ([0.25], [-0.25], [8.0]), strict=True))
    low, high = dots._scale(lines)
    assert -0.35 < low < -0.25
    assert 0.25 < high < 0.35
    assert dots._scale({rows[2]: [8.0]})[1] > 8.0


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.3)), min_size=1, max_size=12)
)
def test_labels_are_moved_apart_and_keep_their_order(labels):
    places, gaps = map(list, zip(*labels, strict=True))
    found = looks.apart(places, gaps)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for one, other in itertools.pairwise(order):
        assert found[other] - found[one] >= (gaps[one] + gaps[other]) / 2 - 1e-9


def test_labels_with_room_stay_where_they_are():
    places = [0.9, 0.1, 0.5]
    np.testing.assert_allclose(looks.apart(places, [0.3, 0.3, 0.3]), places)


def test_labels_that_meet_are_around_their_mean():
    np.testing.assert_allclose(looks.apart([0.5, 0.5], [0.1, 0.1]), [0.45, 0.55])


def test_texts_that_would_meet_are_left_out_from_the_left():
    texts = looks.legible([0.1, 0.5, 0.51, 0.9], ["1x", "2x", "3x", "4x"])
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
    assert looks.short(number) == text


def test_averages_of_a_cooldown_are_dots_and_no_lines(tmp_path):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    losses = {"raw": 2.25, "ema25": 2.0, "uniform": 2.125}
    plain = folders.write(
        tmp_path / "plain", "cooldown", {400: {"raw": 2.25}}, trunk=trunk
    )
    averaged = folders.write(tmp_path / "b", "cooldown", {400: losses}, trunk=trunk)
    pixels = _draw(tmp_path, trunk, plain)
    assert _count(pixels, COOLDOWN, RIGHT) > 50
    np.testing.assert_array_equal(_draw(tmp_path, trunk, averaged), pixels)
    window = dict(name="window", start=320, stop=400)
    merge = folders.write_merge(tmp_path / "w", trunk, window, 1.75, span=80)
    _, two = _draw_merges(tmp_path, trunk, merge, plain)
    _, four = _draw_merges(tmp_path, trunk, merge, averaged)
    assert len(four) - len(two) == pytest.approx(2 * 150 * dots._ROW, abs=1)
    assert _count(four[630:], COOLDOWN) > _count(two[630:], COOLDOWN) + 50


def test_the_colours_of_the_dots_have_names_beside_the_title(tmp_path):
    names = folders.write_all(tmp_path)
    window = dict(name="window", start=320, stop=400)
    synthesis = dict(name="synthesize", target="uniform")
    merge = folders.write_merge
    names.append(merge(tmp_path / "w", names[0], window, 1.75, span=80))
    _, pixels = _draw_merges(tmp_path, *names)
    title = slice(630, 680)
    assert _count(pixels[title], dots._MERGE) > 20
    assert _count(pixels[title], COOLDOWN) > 20
    assert _count(pixels[title], dots._SYNTHESIS) == 0
    names.append(merge(tmp_path / "s", names[0], synthesis, 1.75))
    # With a schedule that is not the envelope there are all six.
    names.append(folders.write(tmp_path / "l", "linear", {400: {"raw": 2.0}}))
    _, pixels = _draw_merges(tmp_path, *names)
    assert _count(pixels[title], dots._SYNTHESIS) > 20
    # The title ends before the names begin, and the names where the panels do.
    dark = np.flatnonzero((pixels[title] < 0.5).all(axis=2).any(axis=0))
    gap = dark[(dark > 470) & (dark < 500)]
    assert len(gap) == 0
    assert dark.max() < COLUMNS - 20
