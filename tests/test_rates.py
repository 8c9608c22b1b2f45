import numpy as np
import pytest
from matplotlib import colors, image

from anytime_jax import reporting
from anytime_jax.reporting import rates

ROWS, COLUMNS = 600, 1200
LEFT, RIGHT, TOP, BOTTOM = 0.11, 0.95, 0.84, 0.13  # of the axes, in the figure


@pytest.fixture
def draw(tmp_path):
    def run(counts, learning_rates, **arguments):
        path = tmp_path / "rates.png"
        arguments = dict(title="schedule") | arguments
        reporting.draw_rates(counts, learning_rates, path, **arguments)
        pixels = image.imread(path)[..., :3]
        assert pixels.shape == (ROWS, COLUMNS, 3)
        return pixels

    return run


def _where(pixels, color):
    """Rows and columns inside the axes of the pixels that have a colour."""
    inside = np.zeros((ROWS, COLUMNS), bool)
    rows = slice(round((1 - TOP) * ROWS), round((1 - BOTTOM) * ROWS) + 1)
    inside[rows, round(LEFT * COLUMNS) : round(RIGHT * COLUMNS) + 1] = True
    distance = np.abs(pixels - np.array(colors.to_rgb(color))).max(axis=-1)
    return np.argwhere((distance < 0.02) & inside)


def _column(count, last):
    return (LEFT + (RIGHT - LEFT) * count / last) * COLUMNS


def _row(rate, largest):
    return (1 - BOTTOM - (TOP - BOTTOM) * rate / (1.06 * largest)) * ROWS


def test_the_line_is_the_rates(draw):
    counts = np.arange(1000)
    learning_rates = 3e-3 * (1 - counts / 1000)
    where = _where(draw(counts, learning_rates), rates._RATE)
    for count in (100, 500, 900):
        rows = where[np.abs(where[:, 1] - _column(count, 1000)) < 1][:, 0]
        assert abs(rows.mean() - _row(learning_rates[count], 3e-3)) < 3


def test_warmup_and_horizons_are_marked(draw):
    counts, flat = np.arange(1000), np.full(1000, 1e-2)
    pixels = draw(counts, flat, warmup_steps=200, horizons=[500, 800])
    shaded = _where(pixels, rates._WARMUP)
    assert abs(shaded[:, 1].min() - LEFT * COLUMNS) < 4
    assert abs(shaded[:, 1].max() - _column(200, 1000)) < 3
    plain = draw(counts, flat)
    assert len(_where(plain, rates._WARMUP)) == 0
    for horizon in (500, 800):
        column = round(_column(horizon, 1000))
        near = slice(column - 2, column + 3)
        marked, before = pixels[200:480, near], plain[200:480, near]
        assert marked.min(axis=(1, 2)).max() < 0.95 < before.min()


def test_a_branch_has_a_colour_of_its_own(draw):
    counts = np.arange(1000)
    learning_rates = np.where(counts < 600, 1.0, 1 - (counts - 600) / 400)
    pixels = draw(counts, learning_rates, branch_step=600)
    trunk, branch = (_where(pixels, c) for c in (rates._RATE, rates._BRANCH))
    assert trunk[:, 1].max() <= _column(600, 1000) + 3
    assert branch[:, 1].min() >= _column(600, 1000) - 3
    assert branch[:, 1].max() > _column(990, 1000)
    assert len(_where(draw(counts, learning_rates), rates._BRANCH)) == 0


@pytest.mark.parametrize(
    ("counts", "learning_rates"),
    [([0], [0.5]), ([0, 1], [0.0, 0.0]), ([0, 2**31 - 2], [1e-9, 1e3])],
)
def test_extreme_runs_can_be_drawn(draw, counts, learning_rates):
    marks = dict(warmup_steps=counts[-1], horizons=[counts[-1] + 1])
    pixels = draw(np.array(counts), np.array(learning_rates), **marks)
    assert pixels.min() < 0.1


@pytest.mark.parametrize(("n", "rates_n"), [(3, 2), (0, 0)])
def test_refuses_what_does_not_fit_together(draw, n, rates_n):
    with pytest.raises(
        ValueError, match=r"rates of shape \(\d,\) must be one for each"
    ):
        draw(np.arange(n), np.ones(rates_n))
