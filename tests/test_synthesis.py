"""Post-hoc synthesis: exact kernels, published errors, tracked averages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anytime_jax import averaging
from anytime_jax.averaging import merging
from anytime_jax.averaging.merging import Stored

NARROW, WIDE = averaging.power(sigma_rel=0.05), averaging.power(sigma_rel=0.10)

ANY = {
    "latest": averaging.latest(),
    "uniform": averaging.uniform(),
    "ema25": averaging.age_ema(divisor=25),
    "power": averaging.power(gamma=1.5),
    "polynomial": averaging.polynomial(eta=3),
    "ema": averaging.ema(decay=0.9),
    "biased": averaging.ema(decay=0.9, debias=False),
    "tail": averaging.tail(start=20),
    "callable": lambda t: 9 / (9 + t),
}


def _edm2(steps, count, averages=(NARROW, WIDE)):
    times = [steps * i // count for i in range(1, count + 1)]
    return [Stored(average, time) for average in averages for time in times]


# Discrete kernels of 8000 steps, `count` snapshots of two averages.
PUBLISHED = {
    8: {0.075: 0.0125, 0.15: 0.033, 0.25: 0.17, 0.02: 0.25},
    16: {0.075: 0.0035, 0.15: 0.009, 0.25: 0.077, 0.02: 0.12},
    32: {0.075: 0.0009, 0.15: 0.0023, 0.25: 0.034, 0.02: 0.040},
    64: {0.075: 0.0002, 0.15: 0.0006, 0.25: 0.0145, 0.02: 0.011},
}


@pytest.mark.parametrize("count", PUBLISHED)
def test_reference_errors(count):
    stored = _edm2(8000, count)
    for sigma_rel, expected in PUBLISHED[count].items():
        target = Stored(averaging.power(sigma_rel=sigma_rel), 8000)
        found = merging.synthesize(target, stored, limit=1.0)
        # Published for any coefficients. Where they sum to 1 by themselves, to want it
        # costs nothing; where a memory is longer than all that are stored, it does.
        slack = 1.07 if sigma_rel == 0.25 else 1.0
        rounding = 0.51 * 10.0 ** -len(str(expected).partition(".")[2])
        assert expected - rounding < found.error < slack * expected + rounding
        np.testing.assert_allclose(found.coefficients.sum(), 1.0, rtol=1e-12)
    last = Stored(averaging.tail(start=6400), 8000)
    window = merging.synthesize(last, stored, limit=1.0).error
    if count in (16, 64):
        np.testing.assert_allclose(window, {16: 0.137, 64: 0.084}[count], atol=6e-4)
    # The published condition is that of the normal equations, the square of this one.
    if count in (8, 64):
        condition = merging.synthesize(Stored(WIDE, 8000), stored).condition
        np.testing.assert_allclose(condition**2, {8: 5e2, 64: 1.6e6}[count], rtol=0.15)


@pytest.mark.parametrize(("every", "start"), [(1, 0), (3, 0), (1, 7), (10, 25)])
@pytest.mark.parametrize("name", ANY)
def test_stored_kernels_are_the_recursion_run_on_coefficients(name, every, start):
    slow = np.zeros(62)
    slow[start] = 1.0
    for tick in range(every, 61 - start + 1, every):
        updates = range(tick - every + 1, tick + 1)
        kept = math.prod(1 - ANY[name](i) for i in updates)
        slow *= kept
        slow[start + tick] += 1 - kept
    kernel = merging.merged_kernel([1.0], [Stored(ANY[name], 61, every, start)])
    np.testing.assert_allclose(kernel, slow, rtol=1e-10, atol=1e-14)


def _dense(target, stored, ridge):
    """The same problem solved on whole kernels, by its optimality conditions."""
    last = len(target) - 1
    columns = [merging.merged_kernel([1.0], [one]) for one in stored]
    design = np.stack([np.pad(k, (0, last + 1 - len(k))) for k in columns], axis=1)
    scale = target @ target
    count = len(stored)
    gram = design.T @ design / scale + ridge * np.eye(count)
    system = np.block([[gram, np.ones((count, 1))], [np.ones((1, count)), 0.0]])
    solution = np.linalg.solve(system, np.append(design.T @ target / scale, 1.0))[:-1]
    error = np.linalg.norm(design @ solution - target) / np.linalg.norm(target)
    return solution, error


MIXED = [
    Stored(averaging.latest(), 40),
    Stored(averaging.latest(), 90),
    Stored(averaging.uniform(), 60, every=5),
    Stored(averaging.uniform(), 90, every=5),
    Stored(averaging.ema(decay=0.9), 45),
    Stored(averaging.ema(decay=0.9), 100),
    Stored(averaging.tail(start=30), 70),
    Stored(averaging.age_ema(divisor=6.25), 80, start=13),
    Stored(averaging.age_ema(divisor=6.25), 100, start=13),
    Stored(WIDE, 77, every=4, start=6),
    Stored(lambda t: 9 / (9 + t), 100),
]


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("name", ["power", "uniform", "tail", "latest"])
def test_synthesis_is_least_squares_on_whole_kernels(name, ridge):
    wanted = Stored(ANY[name], 100)
    kernel = merging.merged_kernel([1.0], [wanted])
    found = merging.synthesize(wanted, MIXED, ridge=ridge, limit=math.inf)
    solution, error = _dense(kernel, MIXED, ridge)
    np.testing.assert_allclose(found.coefficients, solution, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found.error, error, rtol=1e-8)
    np.testing.assert_allclose(found.amplification, np.linalg.norm(solution))
    same = merging.synthesize(kernel, MIXED, ridge=ridge, limit=math.inf)
    np.testing.assert_allclose(same.coefficients, solution, rtol=1e-7, atol=1e-8)


def test_what_is_stored_is_found_again():
    for index, one in enumerate(MIXED):
        if one.step == 100:
            found = merging.synthesize(one, MIXED)
            np.testing.assert_allclose(found.coefficients, np.eye(11)[index], atol=1e-9)
            assert found.error < 1e-10


def test_a_window_is_synthesised_from_running_means():
    stored = [Stored(averaging.uniform(), step) for step in (25, 50, 75, 100)]
    target = Stored(averaging.tail(start=50), 100)
    found = merging.synthesize(target, stored)
    np.testing.assert_allclose(found.coefficients, [0, -1, 0, 2], atol=1e-10)
    blocks = [Stored(averaging.tail(start=a), a + 25) for a in (0, 25, 50, 75)]
    found = merging.synthesize(Stored(averaging.uniform(), 100), blocks)
    np.testing.assert_allclose(found.coefficients, np.full(4, 0.25), rtol=1e-10)


def test_a_ridge_keeps_coefficients_small():
    target = Stored(averaging.power(sigma_rel=0.02), 1000)
    sharp = merging.synthesize(target, _edm2(1000, 16), limit=1.0)
    held = merging.synthesize(target, _edm2(1000, 16), ridge=1e-2, limit=1.0)
    assert sharp.amplification > 5
    assert held.amplification < sharp.amplification / 2
    assert held.condition < sharp.condition
    assert sharp.error < held.error < 1.0


def test_coefficients_that_would_magnify_rounding_are_refused():
    """A target of a few updates, from averages that all remember more."""
    family = [averaging.age_ema(divisor=f) for f in (6.25, 12.5, 25, 50, 100)]
    family += [averaging.uniform(), averaging.latest()]
    stored = [Stored(average, t) for t in range(10, 161, 10) for average in family]
    target = Stored(averaging.power(sigma_rel=0.005), 160)
    with pytest.raises(ValueError, match=r"norm .* above limit / 50 = 0.001; a ridge"):
        merging.synthesize(target, stored, ridge=0.0)
    wild = merging.synthesize(target, stored, ridge=0.0, limit=math.inf)
    tame = merging.synthesize(target, stored)
    assert wild.rounding > 1e-3 > tame.rounding
    assert wild.ridge == 0 < tame.ridge

    path_TxP = 1 + 0.01 * np.random.default_rng(0).normal(size=(161, 500))
    kernels = [merging.merged_kernel([1.0], [one]) for one in stored]
    exact = np.stack([kernel @ path_TxP[: len(kernel)] for kernel in kernels])
    for found in (wild, tame):
        merged = found.coefficients @ exact
        stored_rounded = found.coefficients @ exact.astype(np.float32)
        lost = np.linalg.norm(stored_rounded - merged) / np.linalg.norm(merged)
        assert found.rounding / 10 < lost < found.rounding


def test_what_cannot_be_approached_is_refused():
    target = Stored(averaging.power(sigma_rel=0.02), 1000)
    with pytest.raises(ValueError, match=r"relative error of 0\.2\d+, above limit=0"):
        merging.synthesize(target, _edm2(1000, 8))
    assert merging.synthesize(target, _edm2(1000, 8), limit=0.3).error > 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(stored=[]), "stored is empty"),
        (dict(ridge=-1.0), "ridge=-1.0 must be at least 0"),
        (dict(ridge=math.nan), "ridge=nan must be at least 0"),
        (dict(ridge="x"), "ridge='x' must be at least 0"),
        (dict(dtype="float16"), "dtype='float16' must be one of float32, float64"),
        (dict(stored=_edm2(200, 4)), "stored has step 200, after the step 100 of the"),
        (dict(stored=[Stored(NARROW, 5, start=6)]), "step=5 must be an integer >= 6"),
        (dict(stored=[Stored(NARROW, 5, every=0)]), "every=0 must be an integer >= 1"),
        (dict(target=Stored(NARROW, 100, start=-1)), "start=-1 must be an integer >="),
    ],
)
def test_bad_input_is_named(arguments, message):
    arguments = dict(target=Stored(WIDE, 100), stored=_edm2(100, 4)) | arguments
    with pytest.raises(ValueError, match=message) as raised:
        merging.synthesize(**arguments)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def tracked():
    """A noisy walk: what was stored on the way, and averages at its end."""
    stored_averages = dict(narrow=NARROW, wide=WIDE, uniform=averaging.uniform())
    targets = dict(
        inside=averaging.power(sigma_rel=0.07),
        ema12_5=averaging.age_ema(divisor=12.5),
        window=averaging.tail(start=300),
    )
    tx = averaging.track(optax.sgd(1.0), {**stored_averages, **targets})
    steps = 400

    def update(carry, key):
        params, state = carry
        noise = jax.random.normal(key, params.shape)
        updates, state = tx.update(0.05 * (params - 1.0) + noise / 3, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), {
            name: averaging.read(state, name) for name in {**stored_averages, **targets}
        }

    params = jnp.full(64, 5.0)
    keys = jax.random.split(jax.random.key(0), steps)
    _, paths = jax.jit(lambda: jax.lax.scan(update, (params, tx.init(params)), keys))()
    paths = jax.device_get(paths)
    stored, values = [], []
    for name, average in stored_averages.items():
        for step in range(25, steps + 1, 25):
            stored.append(Stored(average, step))
            values.append(paths[name][step - 1])
    wanted = {name: (targets[name], paths[name][-1]) for name in targets}
    return stored, values, wanted


@pytest.mark.parametrize("name", ["inside", "ema12_5", "window"])
def test_a_synthesised_average_is_the_tracked_one(tracked, name):
    stored, values, wanted = tracked
    target, exact = wanted[name]
    found = merging.synthesize(Stored(target, 400), stored)
    merged = merging.merge(iter(values), found.coefficients)
    # The weights' noise in the average itself, of which the error is a share.
    spread = np.std(exact)
    error = np.sqrt(np.mean((merged - exact) ** 2))
    assert error < max(4 * found.error, 1e-4) * spread
    # And it is neither of those it was made of.
    nearest = min(np.sqrt(np.mean((value - exact) ** 2)) for value in values)
    assert error < nearest / 10
