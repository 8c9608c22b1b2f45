import numpy as np
import pytest
from matplotlib import axes, figure, image

from anytime_jax.reporting import losses

STEPS = np.arange(1, 101)
FALLING = 2 + STEPS**-0.5


@pytest.fixture
def drawn(monkeypatch):
    """The lines of each panel: label, steps, values, colour, and where it ends."""
    kept = {}
    save = figure.Figure.savefig

    def keep(self, path):
        for panel in self.axes:
            kept[panel.get_title(loc="left")] = panel
        return save(self, path)

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    return kept


def lines(panel: axes.Axes):
    return [line for line in panel.get_lines() if len(line.get_xdata()) > 2]


def size(path):
    return image.imread(path).shape[:2]


def test_measured_is_wide_and_predicted_is_thin(drawn, tmp_path):
    path = tmp_path / "fit.png"
    both = losses.Line(STEPS, FALLING + 0.01, FALLING)
    alone = losses.Line(STEPS[:50], FALLING[:50] + 1e-3)
    losses.draw_fits({"both": both, "alone": alone}, path, title="A fit")
    assert size(path) == (650, 1600)
    wide, thin, other = lines(drawn["A fit"])
    assert wide.get_linewidth() > 2 * thin.get_linewidth()
    assert wide.get_color() == thin.get_color() != other.get_color()
    np.testing.assert_array_equal(wide.get_ydata(), FALLING)
    np.testing.assert_array_equal(thin.get_ydata(), FALLING + 0.01)
    np.testing.assert_array_equal(other.get_xdata(), STEPS[:50])
    legend = drawn["A fit"].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["both", "alone"]
    [off] = lines(drawn["Prediction - measurement"])
    np.testing.assert_allclose(off.get_ydata(), 0.01)


def test_what_is_early_or_far_off_does_not_fill_the_picture(drawn, tmp_path):
    predicted = FALLING.copy()
    predicted[:3] += 5
    predicted[3:] += 0.01
    line = losses.Line(STEPS, predicted, FALLING)
    losses.draw_fits({"one": line}, tmp_path / "fit.png", title="A fit")
    low, high = drawn["A fit"].get_ylim()
    assert low < FALLING.min() and predicted[9] < high < predicted[9] + 0.1
    low, high = drawn["Prediction - measurement"].get_ylim()
    assert -low == high == pytest.approx(2 * 0.01 * 1.06)


def test_no_line_is_left_out_for_being_further_off_than_the_others(drawn, tmp_path):
    near = {f"{i}": losses.Line(STEPS, FALLING + 1e-3, FALLING) for i in range(20)}
    far = losses.Line(STEPS, FALLING + 0.1, FALLING)
    losses.draw_fits(near | dict(far=far), tmp_path / "fit.png", title="A fit")
    low, high = drawn["Prediction - measurement"].get_ylim()
    assert -low == high == pytest.approx(0.1 * 1.06)


def test_more_lines_than_colours_can_be_told_apart(drawn, tmp_path):
    many = {f"line {i}": losses.Line(STEPS, FALLING + i) for i in range(12)}
    losses.draw_fits(many, tmp_path / "fit.png", title="Many")
    looks = {(line.get_color(), line.get_linestyle()) for line in lines(drawn["Many"])}
    assert len(looks) == 12


def test_predictions_beside_their_schedules(drawn, tmp_path):
    path = tmp_path / "best.png"
    rates = {"best": (STEPS, STEPS[::-1] / 1e4), "cosine": (STEPS, STEPS / 1e4)}
    curves = {name: (STEPS, FALLING + i) for i, name in enumerate(rates)}
    losses.draw_predictions(curves, rates, path, title="Best")
    assert size(path) == (650, 1600)
    left, right = lines(drawn["Best"]), lines(drawn["Schedule"])
    for a, b, name in zip(left, right, rates, strict=True):
        assert a.get_color() == b.get_color()
        assert a.get_label() == b.get_label() == name
        np.testing.assert_array_equal(b.get_ydata(), rates[name][1])
    assert drawn["Schedule"].get_legend() is None
    assert drawn["Schedule"].get_ylim() == pytest.approx((0, 1.06e-2))


def test_a_schedule_of_no_line_is_in_no_colour_of_one(drawn, tmp_path):
    curves = {"raw": (STEPS, FALLING), "ema": (STEPS, FALLING - 0.1)}
    path = tmp_path / "p.png"
    losses.draw_predictions(curves, {"wsd": (STEPS, 0 * STEPS)}, path, title="Two")
    [rate] = lines(drawn["Schedule"])
    assert rate.get_color() not in [line.get_color() for line in lines(drawn["Two"])]
    assert drawn["Schedule"].get_ylim() == (0, 1)


def test_refuses_what_does_not_fit_together(tmp_path):
    path = tmp_path / "p.png"
    short = r"one: values of shape \(99,\) must be one for each of at least one step, "
    with pytest.raises(ValueError, match=short):
        losses.draw_fits({"one": losses.Line(STEPS, FALLING[1:])}, path, title="t")
    with pytest.raises(ValueError, match=short):
        line = losses.Line(STEPS, FALLING, FALLING[1:])
        losses.draw_fits({"one": line}, path, title="t")
    with pytest.raises(ValueError, match="lines must hold at least one"):
        losses.draw_fits({}, path, title="t")
    with pytest.raises(ValueError, match=short):
        pair = {"one": (STEPS, FALLING)}
        losses.draw_predictions(pair, {"one": (STEPS, STEPS[1:])}, path, title="t")
    assert not path.exists()
