"""Monte Carlo: what it estimates, from which samples, and what it refuses."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import averaging
from anytime_jax.theory import LinearRegression, sgd_risk, simulate, simulation

PROBLEM = LinearRegression(
    eigenvalues=[1.0, 0.5, 0.25], squared_target=[1.0, 2.0, 0.5], noise=0.5
)
AVERAGES = dict(uniform=averaging.uniform(), four=lambda t: min(4, t) / t)
RUN = (PROBLEM, lambda t: 0.3 / math.sqrt(t + 1), AVERAGES, 20)


@pytest.fixture(scope="module")
def found():
    return simulate(*RUN, record=[20, 0, 20, 7], replicas=500)


def test_gives_a_mean_and_its_error(found):
    assert list(found) == ["raw", "uniform", "four"]
    for mean, error in found.values():
        assert mean.dtype == error.dtype == np.float64
        assert mean.shape == error.shape == (4,)
        assert (mean[0], error[0]) == (mean[2], error[2])
        assert_allclose(mean[1], PROBLEM.initial_risk, rtol=1e-12)
        assert error[1] < 1e-12
        assert (error[[0, 3]] > 0).all()


def test_the_mean_is_the_exact_risk(found):
    exact = sgd_risk(*RUN, record=[7, 20])
    for name, (mean, error) in found.items():
        assert_array_equal(np.abs(mean[[3, 0]] - exact[name]) < 4 * error[[3, 0]], True)


def test_the_error_is_that_of_a_mean(monkeypatch):
    """Over the risks of the replicas, with one degree of freedom less."""
    kept, run = [], simulation._run

    def keep(*arguments):
        kept.append(np.asarray(run(*arguments)))
        return kept[0]

    monkeypatch.setattr(simulation, "_run", keep)
    found = simulate(*RUN, record=[20, 0, 20, 7], replicas=500)
    for index, (mean, error) in enumerate(found.values()):
        risks = kept[0][1, index].tolist()  # After 7 updates.
        assert len(risks) == 500
        exact = math.fsum(risks) / 500
        assert_allclose(mean[3], exact, rtol=1e-12)
        squares = math.fsum((x - exact) ** 2 for x in risks)
        assert_allclose(error[3], math.sqrt(squares / 499 / 500), rtol=1e-10)


def test_a_seed_fixes_the_samples(found):
    again, other = (
        simulate(*RUN, record=[0, 7, 20], replicas=500, seed=seed) for seed in (0, 1)
    )
    assert_array_equal(again["uniform"].mean[1:], found["uniform"].mean[[3, 0]])
    assert (other["uniform"].mean[1:] != again["uniform"].mean[1:]).all()


def test_batch_sizes_may_change():
    """And the samples that a small batch leaves out do not count."""
    run = (*RUN, lambda t: (1, 5, 49)[t % 3])
    exact, found = sgd_risk(*run), simulate(*run, replicas=1000)
    for name, (mean, error) in found.items():
        assert abs(mean[0] - exact[name][0]) < 4 * error[0]
        assert error[0] < 0.06 * mean[0]


def test_one_direction_without_noise_by_hand():
    """delta <- (1 - rate x^2) delta, and E (1 - rate x^2)^2 = 1 - 2 r + 3 r^2."""
    problem = LinearRegression(eigenvalues=[1.0], squared_target=[4.0], noise=0)
    mean, error = simulate(problem, 0.2, {}, 1, replicas=20_000)["raw"]
    assert abs(mean[0] - 2 * (1 - 0.4 + 3 * 0.04)) < 4 * error[0]
    assert error[0] < 0.02


def test_without_target_and_noise_nothing_moves():
    problem = LinearRegression(eigenvalues=[1.0, 2.0], squared_target=[0, 0], noise=0)
    for mean, error in simulate(problem, 0.1, AVERAGES, 9, replicas=5).values():
        assert (mean[0], error[0]) == (0, 0)


def test_a_law_is_expanded():
    law = dict(capacity=1.5, source=2.5, dimension=40, noise=0.1)
    problem = LinearRegression(**law)
    run = (0.3, {}, 10)
    found = simulate(problem, *run, replicas=100)
    every = simulate(problem.expanded(), *run, replicas=100)
    assert_array_equal(found["raw"], every["raw"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(replicas=1), "replicas=1 must be an integer >= 2"),
        (dict(steps=0), "steps=0 must be an integer >= 1"),
        (dict(steps="9", record=[1]), "steps='9' must be an integer >= 1"),
        (dict(record=[21]), "record: 21 must be from 0 to steps=20"),
        (dict(batch_size=2.5), "batch_size=2.5 at count 0 must be an integer"),
        (dict(batch_size=math.inf), "batch_size=inf at count 0 must be an integer"),
        (
            dict(batch_size=lambda t: 1 + t / 4),
            "batch_size=1.25 at count 1 must be an integer",
        ),
        (dict(batch_size=0), "batch_size=0 must be >= 1"),
        (
            dict(
                problem=LinearRegression(
                    capacity=2, source=2, dimension=math.inf, noise=1
                )
            ),
            "dimension=inf must be <= 1000000 for every direction to be held by itself",
        ),
    ],
)
def test_refuses_bad_runs(change, message):
    run = dict(zip(("problem", "schedule", "averages", "steps"), RUN, strict=True))
    with pytest.raises(ValueError) as caught:
        simulate(**run | dict(replicas=10) | change)
    assert str(caught.value) == message
