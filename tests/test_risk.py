"""The risk recursion against independent computations of the same expectations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import averaging, schedules
from anytime_jax.theory import LinearRegression, risk, sgd_risk, simulate

LAW = LinearRegression(capacity=1.3, source=2.1, dimension=6, noise=0.25)
PROBLEM = LAW.expanded()


def twin(problem, rates, batches, weights, record):
    """Risks of the raw weights and of an average, from whole second-moment matrices.

    The inputs are correlated here: their covariance H is not diagonal. An update is
    delta - r H delta plus noise of covariance
    r^2/B (H M H + (trace(H M) + sigma^2) H), M = E delta delta^T, by the fourth moments
    of a Gaussian; so E delta_u delta_t^T = prod_{t < s <= u} (1 - r_s H) M_t.
    """
    eigenvalues, target, _ = problem.spectrum
    random = np.random.default_rng(1)
    q = np.linalg.qr(random.normal(size=(len(target), len(target))))[0]
    h = q @ np.diag(eigenvalues) @ q.T
    # Any signs will do.
    delta = q @ (np.sqrt(target) * random.choice([-1, 1], len(target)))
    moments, factors = [np.outer(delta, delta)], []
    for rate, batch in zip(rates, batches, strict=True):
        m, factor = moments[-1], np.eye(len(h)) - rate * h
        noise = h @ m @ h + (np.trace(h @ m) + problem.noise) * h
        moments.append(factor @ m @ factor + rate**2 / batch * noise)
        factors.append(factor)
    raw, average = [], []
    for stop in record:
        coefficients = np.ones(1)
        for weight in weights[:stop]:
            coefficients = np.append((1 - weight) * coefficients, weight)
        total, product_sum = np.zeros_like(h), np.zeros_like(h)
        for u in range(stop + 1):
            # sum_{t < u} p_t prod_{t < s <= u} (1 - r_s H) M_t
            if u:
                earlier = coefficients[u - 1] * moments[u - 1]
                product_sum = factors[u - 1] @ (product_sum + earlier)
            p = coefficients[u]
            total += p**2 * moments[u] + p * (product_sum + product_sum.T)
        average.append(np.trace(h @ total) / 2)
        raw.append(np.trace(h @ moments[stop]) / 2)
    return np.array(raw), np.array(average)


def recursion(problem, rates, inverse_batch, steps):
    """The second moments of raw weights, one update after the other: [1 + T] risks."""
    eigenvalues, s, multiplicity = (np.array(x) for x in problem.spectrum)
    risks = []
    for rate in np.append(np.broadcast_to(rates, steps), 0.0):
        q = multiplicity @ (eigenvalues * s)
        risks.append(q / 2)
        s = s * (
            (1 - rate * eigenvalues) ** 2 + inverse_batch * (rate * eigenvalues) ** 2
        )
        s += inverse_batch * rate**2 * eigenvalues * (q + problem.noise)
    return np.array(risks)


def _table(values):
    return lambda t: float(values[t - 1])


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_whole_matrices(seed):
    random = np.random.default_rng(seed)
    steps, record = 40, [0, 1, 2, 7, 23, 40]
    problem = LinearRegression(
        eigenvalues=random.uniform(0, 1, 6),
        squared_target=random.exponential(size=6),
        noise=float(random.choice([0.0, 0.3])),
    )
    rates = random.uniform(0, 0.6, steps)
    batches = random.choice([1, 2.5, 7, math.inf], steps)
    tables = [random.beta(0.3, 1, steps) for _ in range(3)]
    tables[0][random.integers(steps, size=5)] = 1
    tables[1][random.integers(steps, size=5)] = 0
    averages = {f"average{k}": _table(table) for k, table in enumerate(tables)}
    found = sgd_risk(
        problem, rates, averages, steps, lambda t: batches[t], record=record
    )
    assert list(found) == ["raw", *averages]
    for name, table in zip(averages, tables, strict=True):
        raw, average = twin(problem, rates, batches, table, record)
        assert_allclose(found["raw"], raw, rtol=2e-12)
        assert_allclose(found[name], average, rtol=2e-12)
    assert_array_equal(found.diverged, [-1])


# Every average of the package, and callables of every kind.
AVERAGES = dict(
    latest=averaging.latest(),
    uniform=averaging.uniform(),
    age_ema=averaging.age_ema(divisor=25),
    power=averaging.power(gamma=2.5),
    edm2=averaging.power(sigma_rel=0.1),
    polynomial=averaging.polynomial(eta=3),
    ema=averaging.ema(decay=0.9),
    biased=averaging.ema(decay=0.9, debias=False),
    tail=averaging.tail(start=17),
    python=lambda t: min(4, t) / t,
    numpy=lambda t: -np.expm1(-2 / t),
    jax=lambda t: 1 / jnp.sqrt(t),
    none=lambda t: 0,
)


def test_takes_every_average():
    record = [0, 1, 16, 17, 18, 40]
    found = sgd_risk(PROBLEM, 0.3, AVERAGES, 40, 2, record=record)
    assert list(found) == ["raw", *AVERAGES]
    for name, average in AVERAGES.items():
        with jax.enable_x64(True):
            weights = [float(average(t)) for t in range(1, 41)]
        _, expected = twin(PROBLEM, [0.3] * 40, [2] * 40, weights, record)
        assert_allclose(found[name], expected, rtol=2e-12, err_msg=name)
    assert_allclose(found["latest"], found["raw"], rtol=1e-15)
    assert_allclose(found["none"], PROBLEM.initial_risk, rtol=1e-14)


TRUNK = schedules.inverse_sqrt(peak=0.3, offset=8, warmup_steps=4)
SCHEDULES = [
    schedules.constant(peak=0.2, warmup_steps=10),
    TRUNK,
    schedules.power_decay(peak=0.3, exponent=0.25, offset=3),
    schedules.infinite(peak=0.3, stable=0.1, cooldown_steps=20, shape="cosine"),
    schedules.cosine(peak=0.3, total_steps=40),
    schedules.linear(peak=0.3, total_steps=40),
    schedules.wsd(peak=0.3, total_steps=40, cooldown_fraction=0.25, shape="1-sqrt"),
    schedules.cooldown(TRUNK, start=20, steps=10, shape="linear"),
    schedules.from_values(values=[0.3, 0.1, 0.2]),
    optax.cosine_decay_schedule(0.3, 40),
    optax.join_schedules([optax.linear_schedule(0, 0.3, 9), TRUNK], [9]),
    lambda t: 0.3 if t < 5 else 0.1,
    lambda t: 0.3 / math.sqrt(t + 1),
    lambda t: np.float32(0.25),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_takes_every_schedule(schedule):
    with jax.enable_x64(True):
        rates = [float(schedule(t)) for t in range(40)]
    expected = recursion(PROBLEM, rates, 1, 40)
    for given in (schedule, rates, jnp.asarray(rates)):
        rtol = 1e-6 if isinstance(given, jax.Array) else 1e-9
        found = sgd_risk(PROBLEM, given, {}, 40, record=range(41))
        assert_allclose(found["raw"], expected, rtol=rtol)


def test_an_infinite_batch_is_gradient_descent():
    """No noise at all: every direction decays on its own."""
    rates, weights = np.linspace(0.9, 0.1, 50), 1 / (1 + np.arange(50)) ** 0.7
    eigenvalues, target, _ = PROBLEM.spectrum
    left = np.cumprod(1 - np.outer(rates, eigenvalues), axis=0)
    average = np.ones(6)
    for weight, newest in zip(weights, left, strict=True):
        average = average + weight * (newest - average)
    found = sgd_risk(PROBLEM, rates, dict(one=_table(weights)), 50, math.inf)
    assert_allclose(
        found["raw"], [eigenvalues * target @ left[-1] ** 2 / 2], rtol=1e-12
    )
    assert_allclose(found["one"], [eigenvalues * target @ average**2 / 2], rtol=1e-12)
    large = sgd_risk(PROBLEM, rates, dict(one=_table(weights)), 50, 1e15)
    assert_allclose(large["one"], found["one"], rtol=1e-10)


def test_bias_and_variance_sum_to_the_total():
    averages = dict(ema=averaging.age_ema(divisor=6.25), uniform=averaging.uniform())
    run = functools.partial(
        sgd_risk, PROBLEM, TRUNK, averages, 100, record=[0, 10, 100], rates=[1, 1.5]
    )
    total, bias, variance = (run(part=x) for x in ("total", "bias", "variance"))
    for name in total:
        assert_allclose(bias[name] + variance[name], total[name], rtol=1e-13)
        assert_array_equal(variance[name][:, 0], 0)
        assert (variance[name][:, 1:] > 0).all()
    louder = LinearRegression(
        eigenvalues=PROBLEM.eigenvalues,
        squared_target=4 * PROBLEM.squared_target,
        noise=7 * PROBLEM.noise,
    )
    scaled = sgd_risk(louder, TRUNK, averages, 100, record=[0, 10, 100], rates=[1, 1.5])
    for name in total:
        assert_allclose(scaled[name], 4 * bias[name] + 7 * variance[name], rtol=1e-13)


def test_multipliers_are_single_runs():
    averages = dict(uniform=averaging.uniform())
    rates, record = [0.0, 0.5, 1, 2.25], [3, 30]
    trunk = np.array([0.3 / math.sqrt(t + 1) for t in range(30)])
    grid = sgd_risk(PROBLEM, trunk, averages, 30, 4, record=record, rates=rates)
    for name in grid:
        assert grid[name].shape == (4, 2)
        assert grid[name].dtype == np.float64
        for row, rate in zip(grid[name], rates, strict=True):
            alone = sgd_risk(PROBLEM, rate * trunk, averages, 30, 4, record=record)
            assert alone[name].shape == (2,)
            assert_allclose(row, alone[name], rtol=1e-13)
    assert_allclose(grid["raw"][0], PROBLEM.initial_risk, rtol=1e-15)


def test_records_in_any_order():
    every = sgd_risk(PROBLEM, TRUNK, AVERAGES, 40, record=range(41))
    asked = [40, 0, 7, 7, 39, 0]
    found = sgd_risk(PROBLEM, TRUNK, AVERAGES, 40, record=np.array(asked))
    for name in every:
        assert_array_equal(found[name], every[name][asked])
        assert_array_equal(
            sgd_risk(PROBLEM, TRUNK, AVERAGES, 40)[name], every[name][-1:]
        )


def test_long_runs_and_dense_records():
    """Across the borders at which the host hands out updates and records."""
    steps = 9000
    averages = dict(uniform=averaging.uniform())
    raw = recursion(PROBLEM, 0.2, 0.5, steps)
    run = functools.partial(sgd_risk, PROBLEM, 0.2, averages, steps, 2)
    dense = [*range(130), *range(4050, 4150), *range(8190, 8260), 9000]
    sparse = [0, 1, 4095, 4096, 4097, 8192, 8193, 9000]
    once = run(record=dense)
    assert_allclose(once["raw"], raw[dense], rtol=1e-11)
    found = run(record=sparse)
    assert_allclose(found["raw"], raw[sparse], rtol=1e-11)
    shared = [i for i, t in enumerate(sparse) if t in dense]
    in_dense = [dense.index(sparse[i]) for i in shared]
    assert_allclose(found["uniform"][shared], once["uniform"][in_dense], rtol=1e-13)
    for t in (1, 64, 129, 4096, 4149):
        alone = sgd_risk(PROBLEM, 0.2, averages, t, 2)
        assert_allclose(
            once["uniform"][dense.index(t)], alone["uniform"][0], rtol=1e-13
        )


@pytest.mark.parametrize(
    ("capacity", "source", "dimension", "peak"),
    [
        (1.1, 1.1, 3000, 0.7),
        (0.6, 3, 2000, 0.9),
        (2.5, 1.2, 500, 0.5),
        (1.5, 3, 10**5, 0.8),
        (1.2, 0.9, 10**5, 0.3),
    ],
)
def test_nodes_have_the_risk_of_all_directions(capacity, source, dimension, peak):
    law = dict(capacity=capacity, source=source, dimension=dimension, noise=0.5)
    problem = LinearRegression(**law)
    averages = dict(ema=averaging.age_ema(divisor=6.25), tail=averaging.tail(start=60))
    run = (lambda t: peak / problem.trace / (t + 1) ** 0.3, averages, 120, 1, [9, 120])
    nodes, every = sgd_risk(problem, *run), sgd_risk(problem.expanded(), *run)
    for name in nodes:
        assert_allclose(nodes[name], every[name], rtol=2e-8)


def test_agrees_with_monte_carlo():
    """The 36 comparisons of the reference, with fewer replicas and a fixed seed."""
    i = np.arange(1, 7)
    problem = LinearRegression(eigenvalues=i**-1.3, squared_target=i**-0.8, noise=0.25)
    wsd = schedules.wsd(
        peak=0.35, total_steps=60, cooldown_fraction=0.25, shape="linear"
    )
    averages = dict(
        uniform=averaging.uniform(),
        ema=averaging.ema(decay=0.9, debias=False),
        age_ema=averaging.age_ema(divisor=6.25),
        tail=averaging.tail(start=30),
        four=lambda t: min(4, t) / t,
    )
    scores = []
    for batch_size in (1, 4):
        for schedule in (0.25, lambda t: 0.5 / math.sqrt(t + 1), wsd):
            run = problem, schedule, averages, 60, batch_size, [5, 60]
            exact, found = sgd_risk(*run), simulate(*run, replicas=4000, seed=3)
            for name, (mean, error) in found.items():
                assert (error < 0.05 * mean).all()
                scores.append((mean - exact[name]) / error)
    assert np.shape(scores) == (36, 2)
    assert np.abs(scores).max() < 4
    assert 0.5 < np.std(scores) < 1.5


def test_a_diverging_multiplier_is_infinite_from_its_step_on():
    averages = dict(uniform=averaging.uniform(), none=lambda t: 0)
    rates = [0.1, 1.3, 2.0, 5.0]
    record = range(1001)
    found = sgd_risk(PROBLEM, 1.0, averages, 1000, record=record, rates=rates)
    for r, rate in enumerate(rates):
        with np.errstate(over="ignore", invalid="ignore"):
            direct = recursion(PROBLEM, rate, 1, 1000)
        gone = np.flatnonzero(~(direct <= 1e150))
        step = gone[0] if len(gone) else -1
        assert found.diverged[r] == step
        for name in found:
            finite = np.isfinite(found[name][r])
            assert_array_equal(finite, np.arange(1001) < step if step >= 0 else True)
        assert_allclose(found["raw"][r, finite], direct[finite], rtol=1e-10)
    assert (found.diverged >= 0).tolist() == [False, True, True, True]
    assert not any(np.isnan(x).any() for x in found.values())


def test_a_divergence_at_the_last_update_is_reported():
    averages = dict(uniform=averaging.uniform())
    run = functools.partial(sgd_risk, PROBLEM, 1.0, averages, rates=[0.1, 5.0])
    step = int(run(1000).diverged[1])
    before, at = run(step - 1), run(step)
    assert before.diverged.tolist() == [-1, -1]
    assert 1e147 < before["raw"][1, 0] <= 1e150
    assert at.diverged.tolist() == [-1, step]
    assert at["raw"][1, 0] == at["uniform"][1, 0] == math.inf
    # A rate whose square overflows, with a target that has nothing to learn.
    zeros = LinearRegression(eigenvalues=[1.0] * 6, squared_target=[0.0] * 6, noise=1)
    found = sgd_risk(zeros, 1.0, averages, 1, rates=[0.1, 1e200])
    assert found.diverged.tolist() == [-1, 1]
    assert found["raw"][1, 0] == found["uniform"][1, 0] == math.inf


def test_what_diverged_does_not_come_back():
    rates = [4.0] * 200 + [0.01] * 200
    found = sgd_risk(PROBLEM, rates, {}, 400, record=[10, 400], rates=[0.01, 1])
    assert found.diverged[1] > 10
    assert np.isfinite(found["raw"][:, 0]).all()
    assert found["raw"][1, 1] == math.inf


LARGEST = PROBLEM.critical_rate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(schedule=2 * LARGEST),
            f"schedule: its rate is never below {2 * LARGEST:g}; the largest stable "
            f"rate at a batch size of 1 is {LARGEST:g}",
        ),
        (
            dict(schedule=1.0, rates=[50.0, 3.0], batch_size=math.inf),
            "schedule: its rate is never below 3; the largest stable rate at a batch "
            "size of inf is 2",
        ),
        (
            dict(schedule=lambda t: 0.0 if t < 3 else 1e80),
            "schedule diverges: the risk is over 1e+150 after 4 updates, at a rate of "
            f"1e+80; the largest stable rate at a batch size of 1 is {LARGEST:g}",
        ),
        (
            dict(schedule=lambda t: 0.0 if t < 3 else 1e60, rates=[1.0, 1e20]),
            "schedule diverges: the risk is over 1e+150 after 5 updates, at a rate of "
            f"1e+60; the largest stable rate at a batch size of 1 is {LARGEST:g}",
        ),
        (dict(part="noise"), "part='noise' must be one of total, bias, variance"),
        (
            dict(record=[]),
            "record=[] must be numbers of updates, integers, at least one",
        ),
        (dict(record=[6]), "record: 6 must be from 0 to steps=5"),
        (dict(rates=[]), "rates=[] must be multipliers, at least one"),
        (dict(batch_size=0), "batch_size=0 must be >= 1"),
    ],
)
def test_refuses_bad_runs(change, message):
    run = dict(schedule=0.1, averages={}, steps=5) | change
    with pytest.raises(ValueError) as caught:
        sgd_risk(PROBLEM, **run)
    assert str(caught.value) == message
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(noise=1e101),
            "problem: its noise, 1e+101, must be <= 1e+100: a risk over 1e+150 counts "
            "as divergence",
        ),
        (
            dict(squared_target=[1e160, 0.0]),
            "problem: its initial risk, 5e+159, must be <= 1e+100: a risk over 1e+150 "
            "counts as divergence",
        ),
    ],
)
def test_refuses_problems_that_would_seem_to_diverge(change, message):
    arrays = dict(eigenvalues=[1.0, 0.5], squared_target=[1.0, 2.0], noise=1)
    with pytest.raises(ValueError) as caught:
        sgd_risk(LinearRegression(**arrays | change), 0.1, {}, 5)
    assert str(caught.value) == message


def test_float64_stays_inside():
    found = sgd_risk(PROBLEM, TRUNK, AVERAGES, 40)
    assert {x.dtype for x in found.values()} == {np.dtype(np.float64)}
    assert {type(x) for x in found.values()} == {np.ndarray}
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == jnp.float32


def test_one_compilation_serves_all_lengths():
    def run(steps, batch_size=1, **more):
        averages = dict(one=averaging.uniform(), two=averaging.age_ema(divisor=3))
        sgd_risk(PROBLEM, 0.1, averages, steps, batch_size, rates=[1, 2, 3], **more)
        return risk._advance._cache_size()

    size = run(10)
    assert run(1) == run(10**4, math.inf) == size
    assert run(5000, record=range(300)) == run(300, part="bias") == size
    quiet = dict(eigenvalues=PROBLEM.eigenvalues, squared_target=[1] * 6, noise=0)
    sgd_risk(
        LinearRegression(**quiet), 0.2, {"a": TRUNK, "b": TRUNK}, 7, rates=[0, 1, 2]
    )
    assert risk._advance._cache_size() == size
