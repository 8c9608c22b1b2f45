"""Mixing weights and masses against definitions in 50-digit decimal arithmetic."""

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anytime_jax import averaging

decimal.getcontext().prec = 50


def _power_weight(exponent):
    # (1 - 1/t)^exponent, which is 0^exponent = 0 at t = 1.
    return lambda t: 1 - (1 - 1 / Decimal(t)) ** exponent if t > 1 else Decimal(1)


def _gamma_of(sigma_rel):
    """Bisects sigma_rel = sqrt((g+1) / ((g+2)^2 (g+3))) for g, without the cubic."""
    low, high = Decimal(0), Decimal(1000)
    for _ in range(150):
        gamma = (low + high) / 2
        wider = (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) > Decimal(sigma_rel) ** 2
        low, high = (gamma, high) if wider else (low, gamma)
    return low


# Each average beside its definition, t -> w_t, written from the table of formulas.
CASES = {
    "latest": (averaging.latest(), lambda t: Decimal(1)),
    "uniform": (averaging.uniform(), lambda t: 1 / Decimal(t)),
    "ema6_25": (
        averaging.age_ema(divisor=6.25),
        lambda t: 1 - Decimal(2) ** (Decimal("-6.25") / t),
    ),
    "ema100": (
        averaging.age_ema(divisor=100),
        lambda t: 1 - Decimal(2) ** (Decimal(-100) / t),
    ),
    "power-0.5": (averaging.power(gamma=-0.5), _power_weight(Decimal("0.5"))),
    "power8": (averaging.power(gamma=8), _power_weight(9)),
    "sigma0.05": (
        averaging.power(sigma_rel=0.05),
        _power_weight(_gamma_of(0.05) + 1),
    ),
    "polynomial3": (
        averaging.polynomial(eta=3),
        lambda t: Decimal(4) / (t + 3),
    ),
    "ema": (
        averaging.ema(decay=0.999),
        lambda t: (1 - Decimal("0.999")) / (1 - Decimal("0.999") ** t),
    ),
    "ema biased": (
        averaging.ema(decay=0.999, debias=False),
        lambda t: 1 - Decimal("0.999"),
    ),
    "ema0": (averaging.ema(decay=0), lambda t: Decimal(1)),
    "tail0": (averaging.tail(start=0), lambda t: 1 / Decimal(t)),
    "tail20": (
        averaging.tail(start=20),
        lambda t: 1 / Decimal(t - 20) if t > 20 else Decimal(1),
    ),
}
COUNTS = np.array([1, 2, 3, 10, 19, 20, 21, 22, 1000, 10**5, 10**7])
INTERVALS = np.array(
    [
        *[(0, 1), (0, 7), (3, 4), (5, 40), (15, 18), (18, 24), (20, 23), (90, 100)],
        *[(990, 1000), (10**7 - 10, 10**7), (10**7 - 300, 10**7)],
    ]
).T


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return CASES[request.param]


def _mass_by_definition(weight, start, stop):
    kept = Decimal(1)
    for t in range(start + 1, stop + 1):
        kept *= 1 - weight(t)
    return float(1 - kept)


@pytest.fixture(scope="module")
def expected_weights(case):
    return np.array([float(case[1](t)) for t in COUNTS.tolist()])


@pytest.fixture(scope="module")
def expected_masses(case):
    return np.array([_mass_by_definition(case[1], *i) for i in INTERVALS.T.tolist()])


def test_weights_follow_their_definition(case, expected_weights):
    actual = [case[0](t) for t in COUNTS.tolist()]
    np.testing.assert_allclose(actual, expected_weights, rtol=1e-12)
    np.testing.assert_array_equal(case[0](COUNTS), actual)


def test_float32_weights_stay_right_for_ten_million_updates(case, expected_weights):
    actual = jax.jit(case[0])(jnp.asarray(COUNTS, jnp.int32))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected_weights, rtol=1e-6)


def test_mass_is_the_product_of_its_definition(case, expected_masses):
    actual = [case[0].mass(*interval) for interval in INTERVALS.T.tolist()]
    np.testing.assert_allclose(actual, expected_masses, rtol=2e-12)


def test_float32_mass_stays_right_for_ten_million_updates(case, expected_masses):
    starts, stops = jnp.asarray(INTERVALS, jnp.int32)
    actual = jax.jit(jax.vmap(case[0].mass))(starts, stops)
    assert actual.dtype == jnp.float32
    # A product over 300 updates rounds 300 times.
    rtol = 1e-5 if case[0].share is None else 1e-6
    np.testing.assert_allclose(actual, expected_masses, rtol=rtol)


def test_consecutive_intervals_leave_the_product_of_what_each_leaves(case):
    rng = np.random.default_rng(0)
    limit = 300 if case[0].share is None else 10**8
    bounds = np.sort(rng.choice(limit, (100, 3), replace=False), axis=1)
    for a, b, c in bounds.tolist():
        first, second = case[0].mass(a, b), case[0].mass(b, c)
        whole = first + second - first * second
        np.testing.assert_allclose(case[0].mass(a, c), whole, rtol=1e-9)


@pytest.mark.parametrize("t", [5, 5.0, np.int32(5), np.float32(5), np.array([5, 6])])
def test_numpy_in_float64_out(case, t):
    assert case[0](t).dtype == np.float64
    assert np.shape(case[0](t)) == np.shape(t)
    if case[0].share is not None or np.ndim(t) == 0:
        assert case[0].mass(t - 2, t).dtype == np.float64


def test_jax_in_default_float_out(case):
    average = case[0]
    t = jnp.int32(30)
    for start, stop in ((t, 40), (20, t), (t - 1, t)):
        expected = average.mass(int(start), int(stop))
        for mass in (average.mass, jax.jit(average.mass)):
            assert mass(start, stop).dtype == jnp.float32
            np.testing.assert_allclose(mass(start, stop), expected, rtol=1e-6)
    with jax.enable_x64(True):
        t = jnp.int32(30)
        assert average(t).dtype == average.mass(t - 1, t).dtype == jnp.float64
        np.testing.assert_allclose(average(t), average(30), rtol=1e-14)


def test_no_nan_is_ever_formed(case):
    with jax.debug_nans(True):  # without jit, so that every operation is looked at
        for start, stop in ((0, 1), (1, 2), (0, 25), (10**7 - 1, 10**7)):
            assert 0 <= case[0](jnp.int32(stop)) <= 1
            assert 0 <= case[0].mass(jnp.int32(start), jnp.int32(stop)) <= 1


def test_mass_of_a_plain_callable_is_the_product():
    # The momentum annealing of mmengine, g = 100, in plain Python and traced.
    def weight(t):
        return 100.0 / (100.0 + t)

    expected = _mass_by_definition(lambda t: Decimal(100) / (100 + t), 7, 19)
    concrete = averaging.mass(weight, 7, 19)
    assert concrete.dtype == np.float64
    np.testing.assert_allclose(concrete, expected, rtol=1e-14)
    traced = jax.jit(lambda start: averaging.mass(weight, start, start + 12))(7)
    np.testing.assert_allclose(traced, expected, rtol=1e-6)


def test_a_mass_far_below_the_rounding_of_1_survives():
    tiny = averaging.mass(lambda t: 1e-20, 0, 1000)
    np.testing.assert_allclose(tiny, 1e-17, rtol=1e-12)


@pytest.mark.parametrize(
    ("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94), (0.20, 1.83), (0.25, 0.72)]
)
def test_sigma_rel_and_gamma_are_each_other_s_inverse(sigma_rel, gamma):
    kept = 1 - averaging.power(sigma_rel=sigma_rel).mass(50, 100)
    exponent = -np.log2(kept) - 1
    # Published values (Karras et al., 2024), and the width that the exponent gives.
    assert abs(exponent - gamma) < 0.005
    width = np.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))
    np.testing.assert_allclose(width, sigma_rel, rtol=1e-8)


def test_averages_compare_and_print_by_factory_and_arguments():
    assert averaging.age_ema(divisor=25) == averaging.age_ema(divisor=25)
    assert averaging.age_ema(divisor=25) != averaging.age_ema(divisor=50)
    assert len({averaging.uniform(), averaging.uniform(), averaging.latest()}) == 2
    assert str(averaging.ema(decay=0.9)) == "ema(decay=0.9, debias=True)"
    assert str(averaging.power(sigma_rel=0.1)) == "power(sigma_rel=0.1)"


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("age_ema", dict(divisor=0), "divisor=0 must be positive"),
        ("age_ema", dict(divisor=float("inf")), "divisor=inf must be"),
        ("age_ema", dict(divisor="25"), "divisor='25' must be"),
        ("power", dict(), "gamma=None and sigma_rel=None: give exactly one"),
        ("power", dict(gamma=1, sigma_rel=0.1), "gamma=1 and sigma_rel=0.1: give"),
        ("power", dict(gamma=-1), "gamma=-1 must be above -1"),
        ("power", dict(sigma_rel=0.2887), "sigma_rel=0.2887 must be in"),
        ("polynomial", dict(eta=-0.1), "eta=-0.1 must be at least 0"),
        ("polynomial", dict(eta=float("nan")), "eta=nan must be"),
        ("ema", dict(decay=1.0), "decay=1.0 must be in"),
        ("ema", dict(decay=0.9, debias=1), "debias=1 must be True or False"),
        ("ema", dict(decay=True), "decay=True must be"),
        ("tail", dict(start=-1), "start=-1 must be an integer >= 0"),
        ("tail", dict(start=2.0), "start=2.0 must be an integer >= 0"),
    ],
)
def test_bad_arguments_are_named_in_one_line(factory, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        getattr(averaging, factory)(**arguments)
    assert "\n" not in str(error.value)
