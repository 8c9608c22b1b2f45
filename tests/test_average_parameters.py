import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax.laws.average_parameters import AverageParameterLaw, GeometricPruning
from anytime_jax.laws.chinchilla import ChinchillaLaw

DENSE = ChinchillaLaw(A=420.0, B=1700.0, E=1.75, alpha=0.34, beta=0.36)
# The configurations that the authors ship: steps, pruning, mean density, and the share
# of compute before the end. The numbers are of a density that falls at every step.
SHIPPED = [
    (26_800, GeometricPruning(start=4_100, end=16_600, sparsity=0.6), 0.6106, 0.751),
    (72_200, GeometricPruning(start=12_500, end=47_200, sparsity=0.5), 0.6930, 0.750),
]


def twin(pruning, steps):
    """The density of every step, by walking through the run."""
    density, events = [], 0
    for step in range(steps):
        if pruning.start <= step <= pruning.end:
            events += (step - pruning.start) % pruning.every == 0
        density.append((1 - pruning.sparsity) ** (events / pruning.events))
    return np.array(density)


@pytest.mark.parametrize(("steps", "pruning", "mean", "end"), SHIPPED)
def test_shipped_configurations_prune_from_a_quarter_of_the_compute(
    steps, pruning, mean, end
):
    assert pruning.mean_density(steps) == pytest.approx(mean, abs=1.5e-4)
    smooth = dataclasses.replace(pruning, every=1)
    assert smooth.mean_density(steps) == pytest.approx(mean, abs=6e-5)
    assert pruning.compute_share(pruning.start, steps) == pytest.approx(0.25, abs=1e-3)
    assert pruning.compute_share(pruning.end, steps) == pytest.approx(end, abs=5e-4)
    assert pruning.events == (pruning.end - pruning.start) / 100 + 1


def test_sums_are_those_of_the_steps():
    for arguments in (
        dict(start=0, end=0, sparsity=0.5),
        dict(start=3, end=11, sparsity=0.9, every=4),
        dict(start=7, end=27, sparsity=0.3, every=1),
        dict(start=5, end=205, sparsity=0.0),
    ):
        pruning = GeometricPruning(**arguments)
        for steps in (1, 4, 9, 28, 300):
            density = twin(pruning, steps)
            assert_allclose(pruning.density(np.arange(steps)), density, rtol=1e-14)
            assert_allclose(pruning.mean_density(steps), density.mean(), rtol=1e-13)
            for step in (0, steps // 3, steps):
                share = density[:step].sum() / density.sum()
                assert_allclose(pruning.compute_share(step, steps), share, rtol=1e-12)


def test_every_event_keeps_the_same_share():
    pruning = GeometricPruning(start=100, end=1_000, sparsity=0.75)
    kept = pruning.density(np.arange(0, 1_001, 100))
    assert_allclose(kept[1:] / kept[:-1], 0.25**0.1, rtol=1e-13)
    assert kept[0] == 1
    assert kept[-1] == pytest.approx(0.25)
    assert pruning.density(10**9) == pytest.approx(0.25)


def test_average_parameters_of_a_run():
    steps, pruning, mean, _ = SHIPPED[0]
    size = pruning.average_parameters(70e6, steps=steps, others=25e6)
    assert size == pytest.approx(25e6 + 70e6 * mean, rel=2e-4)
    dense = GeometricPruning(start=100, end=200, sparsity=0.0)
    assert dense.average_parameters(70e6, steps=1_000) == 70e6


def test_the_law_of_dense_runs_is_chinchillas():
    law = AverageParameterLaw(DENSE)
    sizes, tokens = np.array([1e7, 1e8]), np.array([[1e9], [1e10]])
    assert_allclose(law.predict(sizes, tokens), DENSE.predict(sizes, tokens), rtol=0)
    assert law.optimum(1e20) == DENSE.optimum(1e20)


def test_it_recovers_what_made_sparse_and_dense_runs():
    sizes, losses, amounts = [], [], []
    for prunable in np.geomspace(3e7, 3e9, 5):
        for steps in (10_000, 40_000, 160_000):
            for sparsity in (0.0, 0.5, 0.8):
                pruning = GeometricPruning(
                    start=steps // 4, end=3 * steps // 4, sparsity=sparsity
                )
                mean = twin(pruning, steps).mean()
                loss = (
                    1.75
                    + 420 / (prunable * mean) ** 0.34
                    + 1700 / (1e5 * steps) ** 0.36
                )
                sizes.append(pruning.average_parameters(prunable, steps=steps))
                losses.append(loss)
                amounts.append(1e5 * steps)
    fitted = AverageParameterLaw.fit(
        sizes, amounts, losses, starts=[[5.0, 10.0, 0.5, 0.5, 0.5]]
    ).dense
    values = (fitted.A, fitted.B, fitted.E, fitted.alpha, fitted.beta)
    assert_allclose(values, (420, 1700, 1.75, 0.34, 0.36), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(start=-1), "start=-1 must be an integer >= 0"),
        (dict(start=1.0), r"start=1\.0 must be an integer"),
        (dict(end=99), "end=99 must be an integer >= 100"),
        (dict(end=250), "end=250 must be start=100 plus a multiple of every=100"),
        (dict(every=0), "every=0 must be an integer >= 1"),
        (dict(sparsity=1.0), r"sparsity=1\.0 must be in \[0, 1\)"),
        (dict(sparsity=-0.1), r"sparsity=-0\.1 must be in"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        GeometricPruning(**{**dict(start=100, end=300, sparsity=0.5), **arguments})
    assert "\n" not in str(error.value)


def test_errors_of_runs():
    pruning = GeometricPruning(start=100, end=300, sparsity=0.5)
    with pytest.raises(ValueError, match="steps=0 must be an integer >= 1"):
        pruning.mean_density(0)
    with pytest.raises(ValueError, match="step=11 must be at most steps=10"):
        pruning.compute_share(11, 10)
    with pytest.raises(ValueError, match="prunable=0 must be finite and > 0"):
        pruning.average_parameters(0, steps=10)
    with pytest.raises(ValueError, match=r"others=-1\.0 must be finite and >= 0"):
        pruning.average_parameters(1, steps=10, others=-1.0)
    with pytest.raises(ValueError, match=r"step\[0\]=nan must be finite"):
        pruning.density([np.nan])
    with pytest.raises(ValueError, match="dense=1 must be a ChinchillaLaw"):
        AverageParameterLaw(1)
