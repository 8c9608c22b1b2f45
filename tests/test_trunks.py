import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules

GOLDEN = {  # peak 3e-3, 5000 steps of warmup, offset 51200
    0: 3e-4,
    2_500: 1.65e-3,
    5_000: 3e-3,
    12_500: 2.80180035e-3,
    25_000: 2.54399491e-3,
    50_000: 2.18861161e-3,
    100_000: 1.77534413e-3,
    200_000: 1.36808226e-3,
    400_000: 1.01622869e-3,
}

POWER = {  # rate by tokens, for batches of 1024 and of 128 sequences
    1024: {1e10: 0.02, 1e11: 0.0100545, 1e12: 0.00310713, 1e13: 9.60196e-4},
    128: {1e9: 0.0131604, 1e11: 0.00125681},
}

WARMUPS = [(0, 0.1), (1, 0.0), (7, 0.1), (7, 1.0)]
BODIES = {  # slow twins in float64: clock -> rate
    "constant": (dict(peak=0.3), lambda t: 0.3),
    "inverse_sqrt": (
        dict(peak=0.3, offset=20),
        lambda t: 0.3 * math.sqrt(20 / (t + 20)),
    ),
    "power_decay": (
        dict(peak=0.3, exponent=0.8, offset=2.5),
        lambda t: 0.3 * (2.5 / (t + 2.5)) ** 0.8,
    ),
    "infinite": (
        dict(peak=0.3, stable=0.2, cooldown_steps=8),
        lambda t: 0.2 + 0.1 * (1 + math.cos(math.pi * min(t / 8, 1))) / 2,
    ),
}
INFINITE = {  # the published cooldowns: progress -> rate from 3e-4 to 1.65e-4
    "cosine": lambda p: 1.65e-4 + 1.35e-4 / 2 * (1 + math.cos(math.pi * p)),
    "linear": lambda p: 3e-4 - 1.35e-4 * p,
    "inverse_sqrt": lambda p: 3e-4 - 1.35e-4 / _h(1) * _h(p),
    "exponential": lambda p: 3e-4 * (1.65 / 3) ** p,
}


def _h(p):
    return 1 / math.sqrt(1 + 10 * p) - 1


def twin(body, count, warmup_steps, warmup_start):
    if count < warmup_steps:
        return body(0) * (warmup_start + (1 - warmup_start) * count / warmup_steps)
    return body(count - warmup_steps)


def test_inverse_sqrt_published_values():
    schedule = schedules.inverse_sqrt(peak=3e-3, offset=51_200, warmup_steps=5_000)
    assert_allclose(schedule(np.array(list(GOLDEN))), list(GOLDEN.values()), rtol=1e-6)
    with jax.enable_x64(True):
        rates = schedule(np.array(list(GOLDEN)))
    assert_allclose(rates, list(GOLDEN.values()), rtol=5e-9)


def test_infinite_published_values_and_its_annealing_as_an_exit():
    trunk = schedules.infinite(
        peak=3e-4, stable=1.65e-4, cooldown_steps=500, warmup_steps=100, warmup_start=0
    )
    counts = np.array([50, 100, 350, 600, 1600])
    expected = [1.5e-4, 3e-4, 2.325e-4, 1.65e-4, 1.65e-4]
    assert_allclose(trunk(counts), expected, rtol=1e-6)
    exit_ = schedules.cooldown(
        trunk, start=1600, steps=400, shape="exponential", final_fraction=3 / 16.5
    )
    assert_allclose(
        exit_(np.array([1600, 1800, 2000])), [1.65e-4, 7.0356236e-5, 3e-5], rtol=1e-6
    )


@pytest.mark.parametrize("shape", INFINITE)
def test_infinite_has_four_phases_with_each_published_cooldown(shape):
    trunk = schedules.infinite(
        peak=3e-4,
        stable=1.65e-4,
        cooldown_steps=500,
        shape=shape,
        warmup_steps=100,
        warmup_start=0.0,
    )
    schedule = schedules.cooldown(
        trunk, start=1600, steps=400, shape="exponential", final_fraction=3 / 16.5
    )

    def twin(n):
        if n < 100:
            return 3e-4 * n / 100
        if n < 600:
            return INFINITE[shape]((n - 100) / 500)
        return 1.65e-4 * (3 / 16.5) ** (min(max(n - 1600, 0), 400) / 400)

    counts = np.array([0, 50, 99, 100, 101, 350, 599, 600, 1600, 1800, 2000, 10**9])
    assert_allclose(schedule(counts), [twin(int(n)) for n in counts], rtol=2e-6)
    # Leaving it changes nothing before, and the constant phase has no end of its own.
    assert_allclose(trunk(counts[:9]), schedule(counts[:9]), rtol=1e-7)
    assert trunk(10**9) == trunk(600)


@pytest.mark.parametrize("batch", POWER)
def test_power_scheduler_published_values(batch):
    schedule = schedules.power_scheduler(
        tokens_per_step=10**6, sequence_length=10**6 / batch
    )
    counts = np.array([round(tokens / 1e6) for tokens in POWER[batch]])
    assert_allclose(schedule(counts), list(POWER[batch].values()), rtol=2e-6)
    with jax.enable_x64(True):
        law = np.minimum(0.02, batch * 4 * (counts * 1e6) ** -0.51)
        assert_allclose(schedule(counts), law, rtol=1e-13)


def test_power_scheduler_leaves_its_cap_where_the_law_does():
    tokens_per_step = 1024 * 4096
    schedule = schedules.power_scheduler(tokens_per_step=tokens_per_step)
    rates = schedule(np.arange(10_000))
    capped = np.flatnonzero(rates == np.float32(0.02))
    assert_array_equal(capped, np.arange(len(capped)))
    assert_allclose(len(capped) * tokens_per_step, 2.596e10, rtol=1e-3)


def test_power_scheduler_warms_up_to_the_law_and_counts_the_warmup():
    arguments = dict(tokens_per_step=100, sequence_length=10, coefficient=1.2, cap=0.3)
    law = schedules.power_scheduler(**arguments)
    schedule = schedules.power_scheduler(**arguments, warmup_steps=20)
    assert law(20) < np.float32(0.3)
    assert_allclose(schedule(np.arange(20, 99)), law(np.arange(20, 99)), rtol=1e-6)
    ramp = 0.1 + 0.9 * np.arange(20) / 20
    assert_allclose(schedule(np.arange(20)), ramp * law(20), rtol=1e-6)


def test_power_scheduler_counts_tokens_beyond_any_integer():
    schedule = schedules.power_scheduler(tokens_per_step=2**25, cap=1.0)
    tokens = 2.0**25 * 10**9
    expected = 2**13 * 4 * tokens**-0.51
    assert_allclose(jax.jit(schedule)(10**9), expected, rtol=1e-5)


def test_noam_and_t5_are_special_cases():
    counts = np.array([0, 1, 3_999, 4_000, 9_999, 10_000, 250_000])
    # min(t^-1/2, t W^-3/2) / sqrt(d), whose peak at t = W = 4000, d = 512 is 6.99e-4.
    peak = (512 * 4_000) ** -0.5
    assert round(peak, 6) == 6.99e-4
    noam = schedules.inverse_sqrt(
        peak=peak, offset=4_000, warmup_steps=4_000, warmup_start=0.0
    )
    ramp = counts * 4_000.0**-1.5
    expected = np.minimum(np.maximum(counts, 1) ** -0.5, ramp) / math.sqrt(512)
    assert_allclose(noam(counts), expected, rtol=1e-6)
    t5 = schedules.power_scheduler(
        tokens_per_step=1, sequence_length=1, coefficient=1, exponent=0.5, cap=0.01
    )
    expected = np.maximum(counts, 10_000) ** -0.5
    assert_allclose(t5(counts), expected, rtol=1e-6)


@pytest.mark.parametrize(("warmup_steps", "warmup_start"), WARMUPS)
@pytest.mark.parametrize("name", BODIES)
def test_follows_its_formula(name, warmup_steps, warmup_start):
    arguments, body = BODIES[name]
    schedule = getattr(schedules, name)(
        **arguments, warmup_steps=warmup_steps, warmup_start=warmup_start
    )
    counts = np.array([*range(20), 1_000, warmup_steps + 10**9])
    expected = [twin(body, int(c), warmup_steps, warmup_start) for c in counts]
    assert_allclose(schedule(counts), expected, rtol=2e-6)
    with jax.enable_x64(True):
        rates = schedule(counts)
    assert rates.dtype == jnp.float64
    assert_allclose(rates, expected, rtol=1e-14)


def test_the_peak_and_the_stable_rate_are_exact():
    schedule = schedules.constant(peak=3e-3, warmup_steps=9)
    assert schedule(9) == schedule(10**9) == np.float32(3e-3)
    assert schedules.constant(peak=3e-3)(0) == np.float32(3e-3)


@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_infinite_without_cooldown_jumps_after_the_warmup(warmup_steps):
    schedule = schedules.infinite(
        peak=0.5, stable=0.25, cooldown_steps=0, warmup_steps=warmup_steps
    )
    counts = np.array([warmup_steps, warmup_steps + 1, 10**9])
    assert_allclose(schedule(counts), 0.25)
    if warmup_steps:
        assert_allclose(schedule(2), 0.5 * (0.1 + 0.9 * 2 / 3), rtol=1e-6)


def test_integer_counts_beyond_float32_are_exact():
    start = 2**24 + 1  # float32 has no 2**24 + 1
    schedule = jax.jit(
        schedules.power_decay(peak=1.0, exponent=1, offset=1, warmup_steps=start)
    )
    counts_C = jnp.arange(start, start + 4)
    assert_allclose(schedule(counts_C), [1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-6)
    # Python and NumPy integers may exceed int32.
    schedule = schedules.power_decay(peak=1.0, exponent=1, offset=1)
    assert_allclose(schedule(3 * 10**9), 1 / (3e9 + 1), rtol=1e-6)


def test_narrow_numpy_counts_are_widened():
    schedule = schedules.constant(peak=1.0, warmup_steps=1_000, warmup_start=0.0)
    for kind in (np.int8, np.uint8, np.int16, np.uint64):
        assert_allclose(schedule(kind(100)), 0.1, rtol=1e-6)


def test_without_warmup_counts_before_zero_have_the_peak():
    assert schedules.constant(peak=1.0)(-1) == 1
    assert_allclose(schedules.constant(peak=1.0, warmup_steps=5)(-1), 0.1, rtol=1e-6)


def test_exponent_zero_is_constant_and_half_is_inverse_sqrt():
    counts = np.arange(0, 10_000, 500)
    flat = schedules.power_decay(peak=0.3, exponent=0, offset=10)
    assert_allclose(flat(counts), 0.3, rtol=1e-6)
    half = schedules.power_decay(peak=0.3, exponent=0.5, offset=10)
    inverse_sqrt = schedules.inverse_sqrt(peak=0.3, offset=10)
    assert_allclose(half(counts), inverse_sqrt(counts), rtol=1e-6)


def test_inverse_sqrt_is_half_the_peak_after_three_offsets():
    schedule = schedules.inverse_sqrt(peak=0.3, offset=40, warmup_steps=5)
    assert_allclose(schedule(5 + 3 * 40), 0.15, rtol=1e-6)


def test_derivatives_with_respect_to_traced_values():
    def rate(peak, offset, warmup_start, count):
        return schedules.inverse_sqrt(
            peak=peak, offset=offset, warmup_steps=10, warmup_start=warmup_start
        )(count)

    gradient = jax.jit(jax.grad(rate, argnums=(0, 1, 2)))
    # r = p sqrt(a / (t + a)): dr/dp = r / p and dr/da = r t / (2 a (t + a)).
    root = math.sqrt(20 / 50)
    expected = (root, 0.3 * root * 30 / (2 * 20 * 50), 0)
    assert_allclose(gradient(0.3, 20.0, 0.1, 40), expected, rtol=1e-5, atol=1e-7)
    # During warmup r = p (w + (1 - w) c / W).
    expected = (0.46, 0, 0.3 * 0.6)
    assert_allclose(gradient(0.3, 20.0, 0.1, 4), expected, rtol=1e-5, atol=1e-7)


def test_derivative_of_a_traced_stable_rate():
    def rate(stable):
        return schedules.infinite(peak=0.5, stable=stable, cooldown_steps=10)(5)

    assert_allclose(jax.grad(rate)(0.2), 0.5, rtol=1e-5)


def test_derivative_at_a_boundary_is_the_one_from_the_right():
    schedule = schedules.inverse_sqrt(
        peak=0.3, offset=20, warmup_steps=10, warmup_start=0.0
    )
    derivative = jax.grad(schedule)
    assert_allclose(derivative(0.0), 0.03, rtol=1e-5)
    assert_allclose(derivative(10.0), -0.3 / 40, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("constant", dict(peak=-1), "peak=-1 must be a finite number, at least 0"),
        ("constant", dict(peak=math.nan), "peak=nan must be a finite number"),
        ("constant", dict(peak=math.inf), "peak=inf must be a finite number"),
        ("constant", dict(peak="3e-3"), "peak='3e-3' must be a finite number"),
        ("constant", dict(peak=True), "peak=True must be a finite number"),
        ("constant", dict(peak=None), "peak=None must be a finite number"),
        ("constant", dict(peak=np.ones(2)), r"peak=array\(\[1., 1.\]\) must be"),
        ("constant", dict(peak=np.float32(-1)), r"peak=np.float32\(-1.0\) must be"),
        ("constant", dict(peak=jnp.float32(-1)), r"peak=Array\(-1.*\) must be"),
        ("constant", dict(warmup_steps=-1), r"warmup_steps=-1 must be an integer in"),
        ("constant", dict(warmup_steps=2.0), r"warmup_steps=2.0 must be an integer"),
        ("constant", dict(warmup_steps=True), "warmup_steps=True must be an integer"),
        (
            "constant",
            dict(warmup_steps=2**31),
            "warmup_steps=2147483648 must be an int",
        ),
        (
            "constant",
            dict(warmup_start=1.1),
            r"warmup_start=1.1 must be .* in \[0, 1\]",
        ),
        ("constant", dict(warmup_start="0"), "warmup_start='0' must be a number in"),
        ("inverse_sqrt", dict(offset=0), "offset=0 must be a finite number above 0"),
        ("inverse_sqrt", dict(peak=-1), "peak=-1 must be"),
        ("power_decay", dict(exponent=-0.5), "exponent=-0.5 must be .* at least 0"),
        ("power_decay", dict(offset=math.nan), "offset=nan must be .* above 0"),
        ("infinite", dict(peak=0), "peak=0 must be a finite number above 0"),
        ("infinite", dict(stable=-0.1), "stable=-0.1 must be"),
        ("infinite", dict(stable=0.4), "stable=0.4 must be at most peak=0.3"),
        ("infinite", dict(cooldown_steps=1.5), "cooldown_steps=1.5 must be an integer"),
        ("infinite", dict(shape="sine"), "shape='sine' must be one of linear, cosine"),
    ],
)
def test_errors_name_the_argument_and_the_value(name, changes, message):
    arguments = BODIES[name][0] | changes
    with pytest.raises(ValueError, match=message) as error:
        getattr(schedules, name)(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", BODIES)
def test_arguments_are_keywords(name):
    with pytest.raises(TypeError, match="positional"):
        getattr(schedules, name)(*BODIES[name][0].values())
