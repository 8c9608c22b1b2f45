import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax.laws import collapse, running
from anytime_jax.laws.running import Surrogate

X = np.linspace(0.01, 1, 100)
SMALL = collapse.normalize(1.0 + 0.4 * X**-0.4)
REFERENCE = (X, SMALL)


def partial(final, until, noise=0.0, seed=0):
    kept = until + 1e-9 >= X
    random = np.random.default_rng(seed)
    losses = final * SMALL[kept] * np.exp(noise * random.normal(size=kept.sum()))
    return X[kept], losses


def test_a_run_on_its_course_gives_its_final_loss():
    for offset in (0.0, 0.7):
        reference = (X, collapse.normalize(1.0 + 0.4 * X**-0.4, offset))
        for final in (0.9, 3.0):
            losses = offset + (final - offset) * reference[1][:50]
            found = running.final_loss(X[:50], losses, reference, offset=offset)
            assert found == pytest.approx(final, rel=1e-12)


def test_noise_averages_out_and_only_the_window_counts():
    progress, losses = partial(3.0, 0.6, noise=0.02)
    found = running.final_loss(progress, losses, REFERENCE)
    assert found == pytest.approx(3.0, rel=3 * 0.02 / math.sqrt(25))
    spoiled = np.where(progress < 0.25, 2 * losses, losses)
    assert running.final_loss(progress, spoiled, REFERENCE) == found
    wide = running.final_loss(progress, spoiled, REFERENCE, window=(0.1, 0.5))
    assert wide > found


def test_alignment_does_not_depend_on_the_unit_of_loss():
    progress, losses = partial(3.0, 0.5, noise=0.02)
    bits = running.final_loss(progress, losses / math.log(2), REFERENCE)
    nats = running.final_loss(progress, losses, REFERENCE)
    assert bits == pytest.approx(nats / math.log(2), rel=1e-12)


def test_an_alarm_before_the_trouble_shows():
    progress, losses = partial(3.0, 1.0, noise=0.002)
    # From 60 % on the run is a little too high: by a percent at 66 %.
    losses = losses * (1 + 0.2 * np.maximum(progress - 0.6, 0))
    final = running.final_loss(progress, losses, REFERENCE)
    off = running.residuals(progress, losses, REFERENCE, final)
    limit = 4 * off[(progress > 0.2) & (progress < 0.6)].std()
    raised = running.first_alarm(progress, off, limit)
    assert 0.62 < raised < 0.75
    assert (np.diff(np.minimum.accumulate(losses)) <= 0).all()
    healthy = partial(3.0, 1.0, noise=0.002, seed=1)
    quiet = running.residuals(*healthy, REFERENCE, 3.0)
    assert running.first_alarm(X, quiet, limit) is None
    # A single spike is none.
    quiet[40] = 1.0
    assert running.first_alarm(X, quiet, limit) is None
    assert running.first_alarm(X, quiet, limit, patience=1) == X[40]


def test_residuals_are_shares_above_the_course():
    progress, losses = partial(3.0, 0.5)
    off = running.residuals(progress, 1.1 * losses, REFERENCE, 3.0)
    assert_allclose(off, 0.1, rtol=1e-12)
    excess = 1 + (3.0 - 1) * SMALL[:50]
    off = running.residuals(progress, excess, REFERENCE, 3.0, offset=1.0)
    assert_allclose(off, 0.0, atol=1e-12)


def test_a_sweep_stopped_early_keeps_the_best():
    finals = dict(low=3.1, good=3.0, high=3.3)
    runs = {
        name: partial(final, 0.3, noise=0.005, seed=i)
        for i, (name, final) in enumerate(finals.items())
    }
    found = running.stop_sweep(runs, REFERENCE, window=(0.1, 0.3))
    assert found.best == "good"
    for name, final in finals.items():
        assert found.finals[name] == pytest.approx(final, rel=0.01)


def test_curves_that_cross_need_their_own_references():
    # The decay helps late: at 30 % the run that will be better is behind.
    slow, fast = Surrogate(b=0.4, q=1.0), Surrogate(b=0.1, q=1.0)
    references = {
        name: (X, surrogate.predict(X, 1 - X))
        for name, surrogate in dict(slow=slow, fast=fast).items()
    }
    finals = dict(slow=3.0, fast=3.1)
    runs = {
        name: (X[:30], finals[name] * references[name][1][:30]) for name in references
    }
    assert runs["slow"][1][-1] > runs["fast"][1][-1]
    found = running.stop_sweep(runs, references, window=(0.2, 0.3))
    assert found.best == "slow"
    assert found.finals == pytest.approx(finals)
    assert running.stop_sweep(runs, REFERENCE, window=(0.2, 0.3)).best == "fast"


def test_the_surrogate_is_its_formula():
    rates = np.sqrt(1 - X)
    found = Surrogate(b=0.3, q=0.8).predict(X, rates)
    values = [
        (1.001 / (x + 0.001)) ** 0.05 + 0.3 * (rate + 0.1) ** 0.8
        for x, rate in zip(X, rates, strict=True)
    ]
    assert_allclose(found, np.array(values) / values[-1], rtol=1e-12)
    family = Surrogate.from_constants(0.2, 80.0, b_c=2.0, b_e=0.5, q_c=0.3, q_e=0.2)
    assert (family.b, family.q) == (2.0 * 0.2**0.5, 0.3 * 80.0**0.2)


@pytest.mark.parametrize(("b", "q"), [(0.05, 0.6), (0.5, 1.0), (3.0, 2.5)])
def test_the_surrogate_is_recovered(b, q):
    rates = 1 - 0.9 * X
    curve = Surrogate(b=b, q=q).predict(X, rates)
    spoiled = np.where(running.FITTED > X, 2 * curve, curve)
    found = Surrogate.fit(X, rates, spoiled)
    assert_allclose((found.b, found.q), (b, q), rtol=1e-4)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (running.final_loss, ([0.1], [2.0], REFERENCE), "window=.* must hold a record"),
        (running.final_loss, ([0.3], [0.0], REFERENCE), r"losses\[0\]=0.0 must be"),
        (
            running.final_loss,
            ([0.3, 0.2], [1, 1], REFERENCE),
            r"progress\[1\]=0.2 must",
        ),
        (
            running.final_loss,
            ([0.3], [1.0], (X[50:], SMALL[50:])),
            "must span the prog",
        ),
        (running.residuals, ([0.3], [1.0], REFERENCE, 0.0), "final=0.0 must be above"),
        (running.first_alarm, ([0.3], [1.0], 0.0), "limit=0.0 must be finite and > 0"),
        (running.stop_sweep, ({}, REFERENCE), "runs={} must hold a run"),
        (running.stop_sweep, (dict(a=partial(3, 0.5)), {}), "an entry for run 'a'"),
        (Surrogate, (-1.0, 1.0), "b=-1.0 must be finite and >= 0"),
        (Surrogate(1.0, 1.0).predict, ([0.5], [1.0]), "progress=0.5 at the end must"),
        (
            Surrogate(1.0, 1.0).predict,
            ([0.5, 1.0], [2.0, 1.0]),
            "rates from 1 to 2 must",
        ),
        (Surrogate.fit, (X, np.ones(100), SMALL), "rates must change after a fifth"),
    ],
)
def test_errors(function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        function(*arguments)
    assert "\n" not in str(error.value)


def test_errors_of_windows_and_offsets():
    run = partial(3.0, 0.5)
    with pytest.raises(ValueError, match=r"window=\(0\.5, 0\.3\) must ascend"):
        running.final_loss(*run, REFERENCE, window=(0.5, 0.3))
    with pytest.raises(ValueError, match=r"offset=4\.0 must be below every loss"):
        running.final_loss(*run, REFERENCE, offset=4.0)
    with pytest.raises(ValueError, match="patience=0 must be an integer >= 1"):
        running.first_alarm([0.3], [1.0], 1.0, patience=0)
