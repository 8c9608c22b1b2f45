import math

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules
from anytime_jax.schedules import refined

NORMS = [1.0, 2.0, 1.0, 0.5, 1.0]
GOLDEN = {2.0: [1, 0.24, 0.8, 0.64, 0], 1.0: [1, 4 / 9, 2 / 3, 4 / 9, 0]}


def refine(norms, **arguments):
    raw = dict(peak=1.0, smoothing=0.0, discard=0)
    return schedules.refined_from_gradient_norms(norms=norms, **(raw | arguments))


def noisy(n, seed=0):
    """Norms that fall, rise at the end, and have outliers."""
    noise = np.random.default_rng(seed).lognormal(sigma=0.3, size=n)
    x = np.linspace(0, 1, n)
    return (1 + 3 * np.exp(-9 * x) + x**4) * noise


def filtered(norms, smoothing):
    """The authors' filter as it is described: the right padded by twice the width."""
    n = len(norms)
    width = 2 * (math.floor(smoothing * n) // 2) + 1
    padded = list(norms) + [norms[n - 2 - i] for i in range(min(2 * width, n - 1))]
    medians = []
    for i in range(n):
        window = [padded[max(j, 0)] for j in range(i - width // 2, i + width // 2 + 1)]
        medians.append(sorted(window)[width // 2])
    return medians


def by_hand(norms, power):
    weights = [g**-power for g in norms]
    rates = [w * sum(weights[t + 1 :]) / sum(weights) for t, w in enumerate(weights)]
    return [rate / max(rates) for rate in rates]


@pytest.mark.parametrize("power", GOLDEN)
def test_published_values(power):
    schedule = refine(NORMS, power=power)
    assert_allclose(schedule(np.arange(5)), GOLDEN[power], rtol=1e-6)
    assert schedule(5) == schedule(10**9) == 0


@pytest.mark.parametrize("n", [2, 3, 40, 199])
@pytest.mark.parametrize("total_steps", [2, 50, 12_345])
def test_equal_norms_make_a_straight_line_to_zero(n, total_steps):
    arguments = dict(total_steps=total_steps, smoothing=0.1)
    schedule = refine(np.full(n, 3.0), peak=0.5, **arguments)
    counts = np.arange(total_steps)
    expected = 0.5 * (1 - counts / (total_steps - 1))
    assert_allclose(schedule(counts), expected, rtol=1e-4, atol=1e-7)
    assert schedule(total_steps - 1) == schedule(10**9) == 0


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.25, 1.0])
def test_smoothing_weights_and_tail_sums_by_hand(power, smoothing):
    norms = noisy(63)
    schedule = refine(norms, power=power, smoothing=smoothing)
    expected = by_hand(filtered(norms.tolist(), smoothing), power)
    assert_allclose(schedule(np.arange(63)), expected, rtol=1e-5, atol=1e-7)
    with jax.enable_x64(True):
        assert_allclose(schedule(np.arange(63)), expected, rtol=1e-12, atol=1e-15)


def test_discards_at_both_ends_by_default_and_stretches_the_rest():
    norms = noisy(44)
    spoiled = np.concatenate([[1e9, 1e-9], norms, [1e-9, 1e9]])
    schedule = schedules.refined_from_gradient_norms(
        norms=spoiled, peak=1.0, total_steps=44
    )
    expected = by_hand(filtered(norms.tolist(), 0.1), 1)
    assert_allclose(schedule(np.arange(44)), expected, rtol=1e-5, atol=1e-7)
    # By default as many steps as norms, those that are left out included.
    assert schedules.refined_from_gradient_norms(norms=spoiled, peak=1.0)(46) > 0


def test_only_ratios_of_norms_matter():
    counts = np.arange(50)
    expected = refine(noisy(50), power=2.0)(counts)
    for scale in (1e-200, 1e200):
        scaled = refine(scale * noisy(50), power=2.0)(counts)
        assert_allclose(scaled, expected, rtol=1e-6)


def test_large_norms_at_first_are_a_warmup():
    norms = 1 + 9 * np.exp(-np.arange(200) / 20)
    rates = np.asarray(refine(norms)(np.arange(200)))
    top = int(np.argmax(rates))
    assert 20 < top < 150 and rates[top] == 1
    assert np.all(np.diff(rates[: top + 1]) > 0) and np.all(np.diff(rates[top:]) < 0)


def test_a_stretched_schedule_has_the_same_shape():
    short, long = refine(noisy(51)), refine(noisy(51), total_steps=501)
    assert_allclose(long(np.arange(51) * 10), short(np.arange(51)), rtol=1e-5)


def test_many_norms_are_resampled(monkeypatch):
    smooth = 2 + np.cos(np.linspace(0, 5, 3_001))
    fine = refine(smooth, smoothing=0.1)(np.arange(3_001))
    monkeypatch.setattr(refined, "_POINTS", 500)
    coarse = refine(smooth, smoothing=0.1)(np.arange(3_001))
    assert_allclose(coarse, fine, atol=3e-3)
    assert np.max(np.abs(coarse - fine)) > 0
    assert coarse[-1] == 0


def test_one_step():
    schedule = refine(NORMS, total_steps=1, peak=0.5)
    assert_array_equal(schedule(np.array([0, 1, 10**9])), 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(norms=[]), "norms of shape .* must be|norms, 0 of them, must be at leas"),
        (dict(norms=3.0), r"norms of shape \(\) and type float64 must be a one-dim"),
        (dict(norms=["a", "b"]), "must be a one-dimensional table of numbers"),
        (dict(norms=[1.0, 0.0]), r"norms\[1\]=0.0 must be a finite number above 0"),
        (dict(norms=[1.0, math.inf]), r"norms\[1\]=inf must be a finite number above"),
        (dict(norms=[1.0]), "norms, 1 of them, must be at least 2 with discard=0"),
        (dict(discard=2), "norms, 5 of them, must be at least 6 with discard=2"),
        (dict(power=0), "power=0 must be a finite number above 0"),
        (dict(smoothing=1.5), r"smoothing=1.5 must be a number in \[0, 1\]"),
        (dict(total_steps=0), "total_steps=0 must be a finite number above 0"),
        (dict(total_steps=5.0), "total_steps=5.0 must be an integer in"),
        (dict(peak=-1), "peak=-1 must be a finite number, at least 0"),
    ],
)
def test_errors_name_the_argument_and_the_value(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        refine(**(dict(norms=NORMS) | changes))
    assert "\n" not in str(error.value)
