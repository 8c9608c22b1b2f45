"""Sums over power laws: SciPy's zeta function, `math.fsum` and every direction."""

import math

import numpy as np
import pytest
import scipy.special
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax.theory import spectrum

LAWS = [(1.1, 1.1), (1.5, 3.0), (1.9, 1.9), (2.0, 1.5), (0.5, 4.0), (4.0, 0.3)]


def _brute_force(capacity, source, dimension):
    i = np.arange(1.0, dimension + 1)
    return spectrum.Spectrum(i**-capacity, i ** (capacity - source), np.ones(len(i)))


@pytest.mark.parametrize("exponent", [1.0001, 1.1, 1.5, 2, 3, 10.5, 40, 90])
@pytest.mark.parametrize("first", [1, 2, 63, 64, 65, 1000])
def test_infinite_power_sums_are_zeta(exponent, first):
    total = spectrum.power_sum(exponent, math.inf, first)
    assert_allclose(total, scipy.special.zeta(exponent, first), rtol=1e-13)


@pytest.mark.parametrize(
    "exponent", [-2, -1, -0.5, 0, 0.3, 1 - 1e-9, 1, 1 + 1e-9, 1.5, 3, 50]
)
@pytest.mark.parametrize("last", [1, 2, 63, 64, 65, 100, 1000, 54321])
def test_finite_power_sums(exponent, last):
    for first in (1, 7, 64, 500):
        exact = math.fsum(i**-exponent for i in range(first, last + 1))
        total = spectrum.power_sum(exponent, last, first)
        assert_allclose(total, exact, rtol=1e-13)


def test_huge_power_sums():
    n = 10**12
    assert_allclose(spectrum.power_sum(0, n), n, rtol=1e-14)
    integers = float(n * (n + 1) // 2)
    assert_allclose(spectrum.power_sum(-1, n), integers, rtol=1e-14)
    cubes = float((n * (n + 1) // 2) ** 2)
    assert_allclose(spectrum.power_sum(-3, n), cubes, rtol=1e-14)
    harmonic = math.log(n) + np.euler_gamma + 1 / (2 * n)
    assert_allclose(spectrum.power_sum(1, n), harmonic, rtol=1e-14)
    beyond = scipy.special.zeta(1.5, n + 1)
    assert_allclose(spectrum.power_sum(1.5, math.inf, n + 1), beyond, rtol=1e-13)
    assert_allclose(
        spectrum.power_sum(1.5, n), scipy.special.zeta(1.5) - beyond, rtol=1e-14
    )


def test_power_sums_without_a_limit_are_infinite():
    assert spectrum.power_sum(1, math.inf) == math.inf
    assert spectrum.power_sum(0.5, math.inf) == math.inf


@pytest.mark.parametrize("order", [4, 9, 24])
@pytest.mark.parametrize(
    "dimension", [1, 2, 31, 32, 33, 40, 41, 100, 12345, 200000, 200001, 10**7, 10**12]
)
def test_nodes_stand_for_all_directions(dimension, order):
    nodes, weights = spectrum.quadrature(dimension, order)
    assert nodes.dtype == weights.dtype == np.float64
    exact = min(dimension, 32)
    assert_allclose(nodes[:exact], np.arange(1, exact + 1), rtol=1e-14)
    assert_array_equal(weights[:exact], 1.0)
    assert (weights > 0).all()
    assert (np.diff(nodes) > 0).all()
    assert nodes[-1] < dimension + 0.5
    rtol = 2e-9 if order == 4 else 1e-12  # For panels that are integrals.
    assert_allclose(weights.sum(), dimension, rtol=rtol)
    assert len(nodes) <= exact + order * (1 + max(0, math.log(dimension / exact)))


@pytest.mark.parametrize("order", [3, 4])
def test_panels_are_gauss_rules(order):
    """Exact for polynomials in log i of degree below 2 order, and for no others."""
    nodes, weights = spectrum.quadrature(5000, order)
    logs = [math.log(i / 300) for i in range(1, 5001)]
    for degree in range(2 * order):
        exact = math.fsum(x**degree for x in logs)
        assert_allclose(weights @ np.log(nodes / 300) ** degree, exact, rtol=1e-11)
    exact = math.fsum(x ** (2 * order) for x in logs)
    found = weights @ np.log(nodes / 300) ** (2 * order)
    assert 1e-11 < abs(found / exact - 1) < 1e-3


def test_beyond_1e20_nothing_is_summed():
    for dimension in (1e25, math.inf):
        nodes, weights = spectrum.quadrature(dimension, 9)
        assert_allclose(weights.sum(), 1e20, rtol=1e-12)
        assert nodes[-1] < 1e20


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dimension", [1, 33, 700, 10**5])
def test_brute_force_has_no_errors(law, dimension):
    """So that what `errors` compares with is right."""
    errors = spectrum.errors(_brute_force(*law, dimension), *law, dimension)
    assert set(errors) == {
        *("trace", "initial_risk", "squared_eigenvalues", "weighted_risk"),
        *("bias", "variance"),
    }
    assert max(errors.values()) < 3e-12


@pytest.mark.parametrize("law", LAWS)
def test_nodes_sum_what_all_directions_sum(law):
    """At exponents and times that `errors` does not look at."""
    capacity, _ = law
    for dimension in (50, 3000, 10**5):
        nodes = spectrum.power_law(*law, dimension, 16)
        assert len(nodes.eigenvalues) < 170
        every = _brute_force(*law, dimension)
        # Not so late that nothing is left.
        for time in (0.0, 0.7, 33.0, 0.4 * dimension**capacity):
            sums = [
                (each.multiplicity * each.eigenvalues**power * each.squared_target)
                @ np.exp(-time * each.eigenvalues)
                for each in (nodes, every)
                for power in (0.5, 1, 2.3)
            ]
            assert_allclose(sums[:3], sums[3:], rtol=1e-9, atol=0)


def test_errors_fall_with_the_order():
    errors = [
        max(
            spectrum.errors(
                spectrum.power_law(1.5, 3, 10**6, n), 1.5, 3, 10**6
            ).values()
        )
        for n in (4, 6, 8, 12)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-7
    assert errors[-1] < 1e-10


def _scaled(field, index, factor):
    def spoil(nodes):
        values = getattr(nodes, field).copy()
        values[index] *= factor
        return nodes._replace(**{field: values})

    return spoil


# Spoiled nodes, and which errors have to show it.
SPOILED = dict(
    weight=(_scaled("multiplicity", 0, 1 + 1e-5), {"trace", "squared_eigenvalues"}),
    eigenvalue=(_scaled("eigenvalues", 2, 1 + 1e-4), {"trace", "weighted_risk"}),
    target=(_scaled("squared_target", 1, 1 - 1e-5), {"initial_risk", "weighted_risk"}),
    # What a long run has left is in directions that hardly count at the start.
    late=(_scaled("squared_target", 60, 1 + 1e-3), {"bias"}),
    tail=(_scaled("multiplicity", slice(60, None), 1 + 1e-3), {"bias", "variance"}),
    missing=(lambda nodes: spectrum.Spectrum(*(x[:-8] for x in nodes)), {"trace"}),
)


@pytest.mark.parametrize("name", SPOILED)
def test_errors_see_spoiled_nodes(name):
    law = 1.5, 3, 10**6
    nodes = spectrum.power_law(*law, 16)
    assert max(spectrum.errors(nodes, *law).values()) < 1e-11
    spoil, visible = SPOILED[name]
    errors = spectrum.errors(spoil(nodes), *law)
    assert visible <= {key for key, error in errors.items() if error > 1e-7}


@pytest.mark.parametrize(("capacity", "source"), [(1.1, 1.1), (1.5, 3), (3, 1.2)])
@pytest.mark.parametrize("dimension", [10**12, 1e19, 1e25, math.inf])
def test_huge_and_infinite_dimensions(capacity, source, dimension):
    nodes = spectrum.power_law(capacity, source, dimension, 16)
    assert len(nodes.eigenvalues) < 900
    risk = nodes.multiplicity * nodes.eigenvalues * nodes.squared_target
    end = 0.0 if dimension == math.inf else scipy.special.zeta(source, dimension + 1)
    assert_allclose(risk.sum(), scipy.special.zeta(source) - end, rtol=1e-10)
    trace = nodes.multiplicity @ nodes.eigenvalues
    end = 0.0 if dimension == math.inf else scipy.special.zeta(capacity, dimension + 1)
    assert_allclose(trace, scipy.special.zeta(capacity) - end, rtol=1e-10)
    errors = spectrum.errors(nodes, capacity, source, dimension)
    assert max(errors.values()) < 1e-9


def test_beyond_1e20_one_node_stands_for_the_rest():
    rest = [x[-1] for x in spectrum.power_law(1.5, 2.5, math.inf, 8)]
    eigenvalue, squared_target, multiplicity = rest
    sums = [scipy.special.zeta(p, 1e20) for p in (1.5, 2.5, 3)]
    found = multiplicity * eigenvalue * np.array([1, squared_target, eigenvalue])
    assert_allclose(found, sums, rtol=1e-12)
    assert eigenvalue < 1e-30
