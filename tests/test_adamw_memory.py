import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import averaging, schedules
from anytime_jax.theory import adamw_memory, values


def twin(shares):
    """The coefficients by running the recursion on them."""
    coefficients = [1.0]
    for share in shares:
        coefficients = [(1 - share) * c for c in coefficients] + [share]
    return coefficients


def test_published_coefficients():
    constant = [0.32768, 0.08192, 0.1024, 0.128, 0.16, 0.2]
    assert_allclose(adamw_memory.coefficients(2.0, 0.1, 5), constant, rtol=1e-13)
    linear = schedules.linear(peak=2.0, total_steps=5)
    published = [0.522289152, 0.13057229, 0.12435456, 0.105984, 0.0768, 0.04]
    found = adamw_memory.coefficients(linear, 0.1, 5)
    assert_allclose(found, published, atol=5e-9)


def test_coefficients_follow_the_recursion():
    random = np.random.default_rng(0)
    for steps in (1, 2, 7, 50):
        rates = random.uniform(0, 2, size=steps)
        found = adamw_memory.coefficients(rates, 0.5, steps)
        assert_allclose(found, twin(0.5 * rates), rtol=1e-12)
        assert_allclose(found.sum(), 1, rtol=1e-14)


def test_a_share_of_one_erases_the_past():
    shares = [0.5, 1.0, 0.25, 0.0, 0.5]
    found = adamw_memory.coefficients(shares, 1.0, 5)
    assert_array_equal(found, twin(shares))
    assert_array_equal(found, [0, 0, 0.375, 0.125, 0, 0.5])


@pytest.mark.parametrize(
    "schedule",
    [
        1e-3,
        1e-5,
        schedules.linear(peak=1e-3, total_steps=10**6, warmup_steps=10**5),
        schedules.wsd(peak=1e-2, total_steps=10**6),
    ],
)
def test_a_million_coefficients_sum_to_one(schedule):
    steps, decay = 10**6, 0.1
    found = adamw_memory.coefficients(schedule, decay, steps)
    assert abs(found.sum() - 1) < 1e-12
    if isinstance(schedule, float):
        share = schedule * decay
        expected = share * np.exp(np.arange(steps - 1, -1, -1) * np.log1p(-share))
        assert_allclose(found[1:], expected, rtol=1e-12, atol=1e-300)


def test_adamw_is_this_average():
    """Of optax's AdamW, on random gradients, with a schedule."""
    steps, size, decay = 30, 5, 0.2
    schedule = schedules.cosine(peak=0.5, total_steps=steps, warmup_steps=4)
    with jax.enable_x64(True):
        gradients = jnp.asarray(np.random.default_rng(1).normal(size=(steps, size)))
        start = params = jnp.arange(1.0, size + 1)
        adamw = optax.adamw(schedule, weight_decay=decay)
        state = adamw.init(params)
        adam = optax.scale_by_adam()
        moments = adam.init(params)
        update = jax.jit(adamw.update)
        directions = []
        for gradient in gradients:
            change, state = update(gradient, state, params)
            params = optax.apply_updates(params, change)
            direction, moments = adam.update(gradient, moments)
            directions.append(-np.asarray(direction) / decay)
        parts = np.stack([np.asarray(start), *directions])
        found = adamw_memory.coefficients(schedule, decay, steps)
        assert_allclose(found @ parts, params, rtol=1e-10)


def test_moments_of_the_coefficients():
    found = adamw_memory.coefficients(0.1, 0.1, 10_000)
    moments = averaging.moments(found)
    assert_allclose(moments.mean_age, 99, rtol=1e-6)
    assert_allclose(moments.effective_samples, 199, rtol=1e-6)


def test_decay_to_zero_averages_more_of_the_past_and_forgets_the_start():
    steps, decay = 1_000, 0.1
    run = dict(peak=0.1, total_steps=steps)
    linear = schedules.linear(**run)
    cosine = schedules.cosine(**run, final_fraction=0.0)
    step = schedules.multi_step(peak=0.1, boundaries=[900])
    found = {
        name: averaging.moments(adamw_memory.coefficients(schedule, decay, steps))
        for name, schedule in dict(
            constant=0.1, linear=linear, cosine=cosine, step=step
        ).items()
    }
    effective = {name: m.effective_samples for name, m in found.items()}
    assert effective["linear"] > 1.5 * effective["constant"]
    assert found["linear"].initial < 0.01
    # A cosine uses the last updates even less, so that it looks back further.
    last = {
        "linear": adamw_memory.coefficients(linear, decay, steps)[-50:].sum(),
        "cosine": adamw_memory.coefficients(cosine, decay, steps)[-50:].sum(),
    }
    assert last["cosine"] < last["linear"] / 10


def test_timescale():
    assert adamw_memory.timescale(0.5, 0.25, 4) == (8.0, 2.0)
    linear = schedules.linear(peak=0.5, total_steps=100, warmup_steps=10)
    assert_allclose(adamw_memory.timescale(linear, 0.2, 100), (10, 0.1))
    assert adamw_memory.timescale(0.5, 0.0, 4) == (math.inf, math.inf)
    # After that many updates 1 / e is left.
    updates = round(adamw_memory.timescale(1e-3, 0.1, 1).updates)
    left = adamw_memory.coefficients(1e-3, 0.1, updates)[0]
    assert_allclose(left, 1 / math.e, rtol=1e-4)


def test_reevaluation_curve_is_its_formula():
    random = np.random.default_rng(2)
    rates, steps = random.uniform(0, 1, size=20), 20
    c = adamw_memory.coefficients(rates, 0.7, steps)[1:]
    found = adamw_memory.reevaluation_curve(
        rates, 0.7, steps, progress_exponent=1.3, coefficient_exponent=0.8
    )
    expected = [
        1 - (c[t - 1] / max(c)) ** 0.8 * (t / steps) ** 1.3 for t in range(1, steps + 1)
    ]
    assert_allclose(found, expected, rtol=1e-12)
    half = adamw_memory.reevaluation_curve(rates, 0.7, steps, progress_exponent=0.0)
    assert_allclose(half, 1 - np.sqrt(c / max(c)), rtol=1e-12, atol=1e-15)
    assert half.min() == 0


def placement(schedule, decay=0.1, steps=1_000, m=0.5):
    curve = adamw_memory.reevaluation_curve(schedule, decay, steps, progress_exponent=m)
    return adamw_memory.best_placement(curve)


def test_where_the_valleys_are():
    run = dict(peak=0.05, total_steps=1_000)
    assert placement(0.05) == 999
    step = schedules.multi_step(peak=0.05, boundaries=[700])
    assert placement(step) == 699
    assert 500 < placement(schedules.linear(**run)) < 900
    tenth = schedules.linear(**run, final_fraction=0.1)
    assert placement(schedules.linear(**run)) < placement(tenth) <= 999
    # A longer memory, for a valley that is earlier.
    assert placement(schedules.linear(**run), decay=0.01, m=0.1) < placement(
        schedules.linear(**run)
    )


def test_best_placement_of_a_stretch():
    random = np.random.default_rng(3)
    curve = random.uniform(size=50)
    for length in (1, 2, 7, 49, 50):
        means = [curve[i : i + length].mean() for i in range(51 - length)]
        assert adamw_memory.best_placement(curve, length) == np.argmin(means)


def noisy_quadratic(rates, decay, alignment, size, seed):
    """The final weights' loss on each batch of a run that it was trained on.

    Batch t asks for the weights z_t, all of one norm. Its update moves to them only as
    far as `alignment` says, the rest is noise of the same size.
    """
    random = np.random.default_rng(seed)
    asked = random.normal(size=(len(rates), size))
    asked /= np.sqrt(np.mean(asked**2, axis=1, keepdims=True))
    noise = random.normal(size=asked.shape)
    weights = random.normal(size=size)
    for t, rate in enumerate(rates):
        towards = alignment[t] * asked[t] + np.sqrt(1 - alignment[t] ** 2) * noise[t]
        weights = weights - rate * decay * (weights - towards)
    return np.mean((weights - asked) ** 2, axis=1) / 2


@pytest.mark.parametrize("m", [0.0, 0.5])
@pytest.mark.parametrize("shape", ["step", "linear", "constant"])
def test_the_valley_of_a_noisy_quadratic(shape, m):
    steps, decay, p = 200, 0.2, 0.5
    schedule = {
        "step": schedules.multi_step(peak=0.3, boundaries=[140]),
        "linear": schedules.linear(peak=0.3, total_steps=steps),
        "constant": 0.3,
    }[shape]
    rates = values.rates(schedule, steps)
    # The loss falls by c x^(m / p), whose maximum is that of c^p x^m.
    progress = np.arange(1, steps + 1) / steps
    measured = noisy_quadratic(rates, decay, progress ** (m / p), 10_000, seed=4)
    predicted = adamw_memory.reevaluation_curve(
        schedule, decay, steps, progress_exponent=m, coefficient_exponent=p
    )
    where = adamw_memory.best_placement(measured, 10)
    assert abs(where - adamw_memory.best_placement(predicted, 10)) <= 10
    # As an affine map of the prediction to the power 1 / p, also everywhere else.
    remembered = (1 - predicted) ** (1 / p)
    assert np.corrcoef(measured, -remembered)[0, 1] > 0.9


def test_the_law_of_the_exponent():
    law = dict(constant=0.3, tokens_exponent=0.4, timescale_exponent=-0.7)
    found = adamw_memory.progress_exponent(20.0, 0.1, **law)
    assert_allclose(np.log(found), np.log(0.3) + 0.4 * np.log(20) - 0.7 * np.log(0.1))
    doubled = adamw_memory.progress_exponent(40.0, 0.1, **law)
    assert_allclose(doubled / found, 2**0.4)


LAW = dict(constant=1.0, tokens_exponent=1.0, timescale_exponent=1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: adamw_memory.coefficients([0.5, 3.0, 4.0], 0.5, 3),
            r"schedule \* weight_decay\(1\)=1.5 must be in \[0, 1\]",
        ),
        (
            lambda: adamw_memory.coefficients([0.5, -1.0], 0.5, 2),
            r"schedule\(1\)=-1.0 must be a finite rate",
        ),
        (
            lambda: adamw_memory.timescale(0.5, -0.5, 2),
            "weight_decay=-0.5 must be finite and >= 0",
        ),
        (
            lambda: adamw_memory.reevaluation_curve(1, 0.1, 2, progress_exponent=-1),
            "progress_exponent=-1 must be finite and >= 0",
        ),
        (
            lambda: adamw_memory.reevaluation_curve(
                1, 0.1, 2, progress_exponent=1, coefficient_exponent=0
            ),
            "coefficient_exponent=0 must be finite and > 0",
        ),
        (
            lambda: adamw_memory.reevaluation_curve(0.1, 0, 2, progress_exponent=1),
            "schedule and weight_decay=0 must have a product above 0",
        ),
        (
            lambda: adamw_memory.best_placement(np.ones(3), 4),
            r"length=4 must be at most that of the curve, whose shape is \(3,\)",
        ),
        (
            lambda: adamw_memory.best_placement(np.ones(3), 0),
            "length=0 must be an integer >= 1",
        ),
        (
            lambda: adamw_memory.progress_exponent(0.0, 0.1, **LAW),
            "tokens_per_parameter=0.0 must be finite and > 0",
        ),
        (
            lambda: adamw_memory.progress_exponent(1.0, math.inf, **LAW),
            "timescale_fraction=inf must be finite and > 0",
        ),
        (
            lambda: adamw_memory.progress_exponent(
                1.0, 1.0, **LAW | dict(tokens_exponent=math.nan)
            ),
            "tokens_exponent=nan must be finite",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
