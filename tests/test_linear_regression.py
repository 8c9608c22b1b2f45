"""Problems: what they refuse, how they are represented, when SGD is stable."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax.theory import LinearRegression, linear_regression, sgd_risk

LAW = dict(capacity=1.5, source=2, dimension=100, noise=1)
ARRAYS = dict(eigenvalues=[1.0, 0.5], squared_target=[1.0, 2.0], noise=1)
ONE_OF = (
    "a problem is capacity, source and dimension, or eigenvalues and squared_target"
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(noise=-0.1), "noise=-0.1 must be finite and >= 0"),
        (dict(noise=math.inf), "noise=inf must be finite and >= 0"),
        (dict(noise=math.nan), "noise=nan must be finite and >= 0"),
        (
            dict(noise="1"),
            "noise='1' must be a Python or NumPy number, finite and >= 0",
        ),
        (
            dict(noise=True),
            "noise=True must be a Python or NumPy number, finite and >= 0",
        ),
        (dict(rtol=0), "rtol=0 must be in [1e-12, 1)"),
        (dict(rtol=1.0), "rtol=1.0 must be in [1e-12, 1)"),
        (dict(normalize=1), "normalize=1 must be True or False"),
        (dict(capacity=0), "capacity=0 must be finite and > 0"),
        (dict(capacity=math.nan), "capacity=nan must be finite and > 0"),
        (dict(source=-1.5), "source=-1.5 must be finite and > 0"),
        (dict(source=math.inf), "source=inf must be finite and > 0"),
        (dict(dimension=0), "dimension=0 must be an integer >= 1, or math.inf"),
        (dict(dimension=2.5), "dimension=2.5 must be an integer >= 1, or math.inf"),
        (
            dict(dimension="9"),
            "dimension='9' must be a Python or NumPy number, an integer >= 1, or "
            "math.inf",
        ),
        (
            dict(dimension=math.nan),
            "dimension=nan must be an integer >= 1, or math.inf",
        ),
        (
            dict(capacity=1.0, dimension=math.inf),
            "capacity=1.0 must be > 1 in infinite dimension: the sum of i^-capacity "
            "diverges",
        ),
        (
            dict(source=0.5, dimension=math.inf),
            "source=0.5 must be > 1 in infinite dimension: the sum of i^-source "
            "diverges",
        ),
        (
            dict(dimension=math.inf, normalize=True),
            "normalize=True with source - capacity = 0.5: in infinite dimension the "
            "target has a norm only if that is > 1",
        ),
        (
            dict(capacity=51.0, dimension=1000),
            "capacity=51.0 must be <= 50 in dimension=1000, or eigenvalues are below "
            "1e-150",
        ),
        (
            dict(capacity=9, dimension=math.inf),
            "capacity=9 must be <= 7.5 in dimension=inf, or eigenvalues are below "
            "1e-150",
        ),
        (dict(source=None), f"capacity, dimension given: {ONE_OF}"),
        (
            dict(eigenvalues=[1.0]),
            f"capacity, source, dimension, eigenvalues given: {ONE_OF}",
        ),
        (
            dict(capacity=None, source=None, dimension=None),
            f"nothing given: {ONE_OF}",
        ),
    ],
)
def test_refuses_bad_laws(change, message):
    with pytest.raises(ValueError) as caught:
        LinearRegression(**(LAW | change))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(squared_target=None), f"eigenvalues given: {ONE_OF}"),
        (
            dict(dimension=2),
            f"dimension, eigenvalues, squared_target given: {ONE_OF}",
        ),
        (
            dict(eigenvalues=["a", "b"]),
            "eigenvalues=['a', 'b'] must be an array of numbers",
        ),
        (dict(eigenvalues=[]), "eigenvalues of shape (0,) must be [d], d >= 1"),
        (dict(eigenvalues=3.0), "eigenvalues of shape () must be [d], d >= 1"),
        (
            dict(eigenvalues=np.eye(2)),
            "eigenvalues of shape (2, 2) must be [d], d >= 1",
        ),
        (
            dict(eigenvalues=[1.0, -2.0]),
            "eigenvalues[1]=-2.0 must be finite and >= 0",
        ),
        (
            dict(squared_target=[math.nan, 1.0]),
            "squared_target[0]=nan must be finite and >= 0",
        ),
        (
            dict(squared_target=[1.0]),
            "{'eigenvalues': (2,), 'squared_target': (1,)} must be one and the same "
            "shape",
        ),
        (dict(eigenvalues=[0.0, 0.0]), "eigenvalues must not be all zero"),
        (
            dict(squared_target=[0.0, 0.0], normalize=True),
            "squared_target must not be all zero",
        ),
    ],
)
def test_refuses_bad_arrays(change, message):
    with pytest.raises(ValueError) as caught:
        LinearRegression(**(ARRAYS | change))
    assert str(caught.value) == message


def test_refuses_what_no_nodes_reach(monkeypatch):
    monkeypatch.setattr(linear_regression, "_ORDERS", (4, 6))
    # Almost flat, so that the one node beyond 1e20 does move.
    law = dict(capacity=0.01, source=0.01, dimension=1e30, noise=1)
    message = (
        "^rtol=1e-08 is not reached with 6 nodes for each factor of e: "
        r"bias is off by [1-9]\.\de-01$"
    )
    with pytest.raises(ValueError, match=message):
        _ = LinearRegression(**law).spectrum


def test_takes_arrays_as_they_are():
    target = np.array([0.0, 3.0, 1.0])
    problem = LinearRegression(
        eigenvalues=(2, 0, 1), squared_target=target.astype(np.float32), noise=0
    )
    assert [x.dtype for x in problem.spectrum] == [np.float64] * 3
    assert_array_equal(problem.spectrum.eigenvalues, [2, 0, 1])
    assert_array_equal(problem.spectrum.squared_target, target)
    assert_array_equal(problem.spectrum.multiplicity, 1)
    assert (problem.trace, problem.initial_risk) == (3.0, 0.5)
    assert problem.quadrature_error == 0
    assert problem.expanded() is problem


def test_a_law_is_its_arrays():
    problem = LinearRegression(capacity=1.3, source=2.1, dimension=500, noise=0.25)
    every = problem.expanded()
    i = np.arange(1, 501)
    assert_allclose(every.eigenvalues, i**-1.3, rtol=1e-14)
    assert_allclose(every.squared_target, i**-0.8, rtol=1e-14)
    assert every.noise == 0.25
    assert_allclose(problem.trace, math.fsum(i**-1.3), rtol=1e-8)
    assert_allclose(problem.initial_risk, math.fsum(i**-2.1) / 2, rtol=1e-8)


@pytest.mark.parametrize("source", [1.5, 2.2, 4])
def test_a_normalized_target_has_norm_1(source):
    law = LAW | dict(source=source, dimension=4000, normalize=True)
    problem = LinearRegression(**law)
    every = problem.expanded().spectrum
    assert_allclose(every.squared_target.sum(), 1, rtol=1e-12)
    plain = LinearRegression(**law | dict(normalize=False))
    squared_norm = math.fsum(np.arange(1, 4001) ** (1.5 - source))
    assert_allclose(problem.initial_risk * squared_norm, plain.initial_risk, rtol=1e-12)
    assert problem.trace == plain.trace
    assert_array_equal(problem.spectrum.multiplicity, plain.spectrum.multiplicity)


def test_normalized_arrays():
    problem = LinearRegression(**ARRAYS, normalize=True)
    assert_allclose(problem.spectrum.squared_target, [1 / 3, 2 / 3], rtol=1e-15)
    assert_allclose(problem.initial_risk, 1 / 3, rtol=1e-15)


@pytest.mark.parametrize("dimension", [10**6 + 1, math.inf])
def test_huge_problems_are_not_expanded(dimension):
    problem = LinearRegression(**LAW | dict(dimension=dimension))
    message = f"^dimension={dimension:g} must be <= 1000000 for every direction to be "
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        problem.expanded()


def _laws(count):
    """Corners, and some laws between them."""
    random = np.random.default_rng(0)
    corners = [(a, b) for a in (0.2, 1.01, 4) for b in (0.2, 1.01, 9)]
    between = [tuple(random.uniform(0.2, [3, 8])) for _ in range(count)]
    for a, b in corners + between:
        dimensions = [1, 33, round(10 ** random.uniform(2, 4)), 10**6, 10**12]
        if min(a, b) > 1:
            dimensions += [1e21, math.inf]
        yield a, b, dimensions


def test_the_error_is_below_rtol_everywhere():
    for a, b, dimensions in _laws(10):
        for dimension in dimensions:
            law = dict(capacity=a, source=b, dimension=dimension, noise=1)
            problem = LinearRegression(**law)
            assert problem.quadrature_error <= 1e-8, law
            assert len(problem.spectrum.eigenvalues) < 1000, law


@pytest.mark.parametrize("source", [40, 90, 150])
def test_steep_targets_leave_nothing_to_compare(source):
    """After 1e12 updates less than the smallest float, but for the first few."""
    for dimension in (10**12, math.inf):
        problem = LinearRegression(**LAW | dict(source=source, dimension=dimension))
        assert problem.quadrature_error <= 1e-8
        assert_allclose(problem.initial_risk, 0.5 + 0.5**source / 2, rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_dimensions_may_be_numpy_s(dtype):
    law = LAW | dict(capacity=2)  # NumPy refuses 200 ** -2 in integers.
    found, expected = (
        LinearRegression(**law | dict(dimension=dimension))
        for dimension in (dtype(200), 200)
    )
    assert found.trace == expected.trace
    assert_array_equal(found.expanded().eigenvalues, expected.expanded().eigenvalues)


def test_a_smaller_rtol_takes_more_nodes():
    counts = []
    for rtol in (1e-2, 1e-5, 1e-8, 1e-11):
        problem = LinearRegression(**LAW | dict(dimension=10**7, rtol=rtol))
        assert problem.quadrature_error <= rtol
        counts.append(len(problem.spectrum.eigenvalues))
    assert counts == sorted(set(counts))


def test_nodes_grow_with_the_logarithm_of_the_dimension():
    counts = [
        len(LinearRegression(**LAW | dict(dimension=10**n)).spectrum.eigenvalues)
        for n in (4, 6, 8, 10, 12)
    ]
    # From 10^6 on the same number for each factor of e, of which 100 has 4.6.
    per_panel = np.diff(counts[1:]) / math.log(100)
    assert_allclose(per_panel, per_panel[0], rtol=0.25)
    assert counts[-1] < 300


def _update_matrix(problem, rate, batch_size):
    """What an update makes of the second moments, without noise."""
    eigenvalues = problem.spectrum.eigenvalues
    diagonal = (1 - rate * eigenvalues) ** 2 + (rate * eigenvalues) ** 2 / batch_size
    return np.diag(diagonal) + rate**2 / batch_size * np.outer(eigenvalues, eigenvalues)


PROBLEM = LinearRegression(capacity=1.5, source=3, dimension=40, noise=0.3).expanded()


@pytest.mark.parametrize("batch_size", [1, 1.5, 2, 49, 1e3, 1e6])
def test_the_critical_rate_has_a_spectral_radius_of_1(batch_size):
    rate = PROBLEM.critical_rate(batch_size)
    for factor, least, most in ((0.99, 0, 1), (1, 1 - 1e-12, 1 + 1e-12), (1.01, 1, 9)):
        matrix = _update_matrix(PROBLEM, factor * rate, batch_size)
        radius = np.abs(np.linalg.eigvals(matrix)).max()
        assert least < radius < most


def test_the_critical_rate_of_the_reference():
    assert round(PROBLEM.critical_rate() * PROBLEM.trace, 2) == 1.26


def test_critical_rates_grow_with_the_batch_size():
    sizes = [1, 2, 4, 64, 49**3, 1e9, 1e12, 1e16, 1e300, math.inf]
    rates = [PROBLEM.critical_rate(size) for size in sizes]
    assert rates == sorted(rates)
    assert rates[-1] == 2  # The largest eigenvalue is 1.
    assert_allclose(rates[-4:-1], 2, rtol=1e-11)


def test_the_critical_rate_of_a_law_is_that_of_all_directions():
    problem = LinearRegression(capacity=0.6, source=2, dimension=3000, noise=1)
    for size in (1, 16):
        assert_allclose(
            problem.critical_rate(size),
            problem.expanded().critical_rate(size),
            rtol=1e-7,
        )


def test_zero_eigenvalues_do_not_matter_to_stability():
    spectra = [[3.0, 1.0], [3.0, 1.0, 0.0]]
    rates = {
        LinearRegression(
            eigenvalues=spectrum, squared_target=spectrum, noise=1
        ).critical_rate()
        for spectrum in spectra
    }
    assert len(rates) == 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_long_runs_reach_the_stationary_risk(batch_size):
    """S / (1 - S) noise / 2, from the update matrix and from a run."""
    problem = LinearRegression(
        eigenvalues=[1.0, 0.7, 0.4, 0.2], squared_target=[1.0] * 4, noise=0.3
    )
    rate = problem.critical_rate(batch_size) / 3
    eigenvalues = problem.spectrum.eigenvalues
    matrix = np.eye(4) - _update_matrix(problem, rate, batch_size)
    noise = rate**2 / batch_size * problem.noise * eigenvalues
    stationary = eigenvalues @ np.linalg.solve(matrix, noise) / 2
    step = rate * eigenvalues
    total = np.sum(step / batch_size / (2 - (1 + 1 / batch_size) * step))
    assert_allclose(problem.noise * total / (1 - total) / 2, stationary, rtol=1e-12)
    risk = sgd_risk(problem, rate, {}, 2000, batch_size)
    assert_allclose(risk["raw"], stationary, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [0, 0.5, -1, math.nan])
def test_the_critical_rate_refuses_batch_sizes_below_1(batch_size):
    with pytest.raises(ValueError, match=f"^batch_size={batch_size!r} must be >= 1$"):
        PROBLEM.critical_rate(batch_size)
