import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules

STEPS = 41
NORMS = 3 + np.cos(np.arange(29.0))
TRUNK = schedules.constant(peak=0.3)
PACKAGE = {
    "constant": TRUNK,
    "constant_warmup": schedules.constant(peak=0.3, warmup_steps=7),
    "inverse_sqrt": schedules.inverse_sqrt(peak=0.3, offset=20, warmup_steps=7),
    "power_decay": schedules.power_decay(peak=0.3, exponent=0.8, offset=20),
    "infinite": schedules.infinite(peak=0.3, stable=0.2, cooldown_steps=12),
    "power_scheduler": schedules.power_scheduler(
        cap=0.3, tokens_per_step=100, sequence_length=10, coefficient=1.2, exponent=0.51
    ),
    "cosine": schedules.cosine(peak=0.3, total_steps=STEPS, warmup_steps=7),
    "linear": schedules.linear(peak=0.3, total_steps=STEPS),
    "wsd": schedules.wsd(peak=0.3, total_steps=STEPS, shape="1-sqrt"),
    "wsqd": schedules.wsqd(
        peak=0.3, offset=9, total_steps=STEPS, cooldown_fraction=0.5
    ),
    "wsd_simplified": schedules.wsd_simplified(peak=0.3, ends=[20, 40]),
    "step_decay": schedules.step_decay(peak=0.3, every=4, factor=0.8),
    "exponential": schedules.exponential(peak=0.3, half_life=9.5),
    "cyclic": schedules.cyclic(peak=0.3, period=12, growth=2),
    "multi_step": schedules.multi_step(peak=0.3, boundaries=[12, 20, 40]),
    "from_values": schedules.from_values(values=np.linspace(0.1, 0.3, 30)),
    "refined_from_gradient_norms": schedules.refined_from_gradient_norms(
        peak=0.3, norms=NORMS, total_steps=STEPS
    ),
    "cooldown": schedules.cooldown(TRUNK, start=20, steps=20, shape="cosine"),
}
HELPERS = {"build", "horizon_free", "rates", "scale_by"}
NAMES = {"Rates", "SHAPES", "ScaleByState", "Shape"}


def test_every_schedule_of_the_package_is_tested():
    factories = set(schedules.__all__) - HELPERS - NAMES
    assert factories == set(PACKAGE) - {"constant_warmup"}


@pytest.mark.parametrize("name", PACKAGE)
def test_the_package_s_schedules_are_those_of_single_calls(name):
    rates = schedules.rates(PACKAGE[name], STEPS)
    with jax.enable_x64(True):
        single = [float(PACKAGE[name](count)) for count in range(STEPS)]
    assert rates.dtype == np.float64
    assert rates.flags.writeable
    assert_allclose(rates, single, rtol=1e-14, atol=1e-17)
    assert not jax.config.jax_enable_x64


def test_the_rates_are_float64_and_not_float32_in_disguise():
    rates = schedules.rates(schedules.inverse_sqrt(peak=0.3, offset=20), STEPS)
    exact = 0.3 * np.sqrt(20 / (np.arange(STEPS) + 20.0))
    assert_allclose(rates, exact, rtol=1e-15)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda t: 0.1 if t < 10 else 0.05,
        lambda t: 0.1,
        lambda t: 0.5 / np.sqrt(t + 1),
        lambda t: 0.5 / math.sqrt(t + 1),
        lambda t: 0.5 / (t + 1),
        lambda t: {7: 0.3}.get(t, 0.1),
        lambda t: [0.1, 0.2][t % 2],
        lambda t: 1 / (t + 1) ** 20,  # beyond int64
        lambda t: 0.2 if isinstance(t, int) else 0.1,
        lambda t: 1,
        lambda t: np.float32(0.1),
    ],
)
def test_plain_callables(schedule):
    expected = [float(schedule(count)) for count in range(STEPS)]
    assert_array_equal(schedules.rates(schedule, STEPS), expected)
    assert_array_equal(schedules.rates(schedule, 1), expected[:1])


def test_callables_for_jax():
    branch = lambda t: jax.lax.cond(t < 10, lambda: 0.1, lambda: 0.05)  # noqa: E731
    assert_array_equal(schedules.rates(branch, 12), [0.1] * 10 + [0.05] * 2)
    optaxs = optax.warmup_cosine_decay_schedule(0.0, 0.3, 7, STEPS)
    with jax.enable_x64(True):
        single = [float(optaxs(count)) for count in range(STEPS)]
    assert_allclose(schedules.rates(optaxs, STEPS), single, rtol=1e-14, atol=1e-17)


def test_numbers_and_arrays():
    for number in (0.5, np.float32(0.5), jnp.asarray(0.5), np.array(0.5)):
        assert_array_equal(schedules.rates(number, 3), [0.5] * 3)
    assert_array_equal(schedules.rates(0, 2), [0.0, 0.0])
    own = np.array([0.5, 0.25])
    for array in ([0.5, 0.25], (0.5, 0.25), own, jnp.asarray(own)):
        rates = schedules.rates(array, 2)
        assert_array_equal(rates, own)
        assert rates.dtype == np.float64
        rates[0] = 9
    assert own[0] == 0.5


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([0.1, 0.2], r"schedule of shape \(2,\) must have one rate .* steps=3 updates"),
        (np.ones((3, 1)), r"schedule of shape \(3, 1\) must have one rate"),
        (lambda t: [0.1, 0.2], r"schedule of shape \(3, 2\) must have one rate"),
        (lambda t: np.ones(2), r"schedule of shape \(3, 2\) must have one rate"),
        (
            [0.1, -0.5, math.nan],
            r"schedule\(1\)=-0.5 must be a finite rate, at least 0",
        ),
        (lambda t: 1.0 - t, r"schedule\(2\)=-1.0 must be a finite rate"),
        (lambda t: math.inf if t else 0, r"schedule\(1\)=inf must be a finite rate"),
        (-1.0, r"schedule\(0\)=-1.0 must be a finite rate"),
        ("0.5", "schedule='0.5' must be a callable, a number or an array of rates"),
        (None, "schedule=None must be a callable"),
        ([[0.1], [0.2, 0.3]], "must be a callable, a number or an array of rates"),
    ],
)
def test_errors(schedule, message):
    with pytest.raises(ValueError, match=message) as error:
        schedules.rates(schedule, 3)
    assert "\n" not in str(error.value)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"rate\(0\)=-1.0 must be"):
        schedules.rates(-1.0, 3, "rate")
    for steps in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"steps={steps} must be an integer >= 1"):
            schedules.rates(0.1, steps)


def test_what_the_schedule_itself_raises_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        schedules.rates(lambda t: 1 / int(t), 3)
