import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules

TABLE = {  # s(x) at x = 1/4, 1/2, 3/4
    "linear": (0.75, 0.5, 0.25),
    "cosine": (0.853553, 0.5, 0.146447),
    "mirror_cosine": (0.646447, 0.5, 0.353553),
    "square": (0.9375, 0.75, 0.4375),
    "1-sqrt": (0.5, 0.292893, 0.133975),
    "lowered_linear": (0.525, 0.35, 0.175),
}
TWINS = {  # slow twins in float64: (x, f) -> multiplier
    "linear": lambda x, f: f + (1 - f) * (1 - x),
    "cosine": lambda x, f: f + (1 - f) * (1 + math.cos(math.pi * x)) / 2,
    "mirror_cosine": lambda x, f: (
        f + (1 - f) * (2 * (1 - x) - (1 + math.cos(math.pi * x)) / 2)
    ),
    "square": lambda x, f: f + (1 - f) * (1 - x * x),
    "1-sqrt": lambda x, f: f + (1 - f) * (1 - math.sqrt(x)),
    "exponential": lambda x, f: math.exp(x * math.log(f)),
    "lowered_linear": lambda x, f: f + (1 - f) * 0.7 * (1 - x),
    "power": lambda x, f: f + (1 - f) * math.exp(1.5 * math.log(1 - x)) if x < 1 else f,
    "inverse_sqrt": lambda x, f: 1 + (f - 1) * _h(x, 10) / _h(1, 10),
}


def _h(x, scale):
    return 1 / math.sqrt(1 + scale * x) - 1


def trunk(count):
    return 0.3 / (1 + 0.01 * count)


def cooled(shape, start=40, steps=20, final_fraction=0.1, trunk=trunk):
    return schedules.cooldown(
        trunk, start=start, steps=steps, shape=shape, final_fraction=final_fraction
    )


def test_every_shape_has_a_twin():
    assert set(TWINS) == set(schedules.SHAPES)


@pytest.mark.parametrize("shape", TABLE)
def test_published_table(shape):
    schedule = cooled(shape, 80, 20, 0.0, trunk=lambda count: 1.0)
    assert_allclose(schedule(np.array([85, 90, 95])), TABLE[shape], atol=6e-7)
    x = jnp.array([0.25, 0.5, 0.75])
    assert_allclose(schedules.SHAPES[shape](x), TABLE[shape], atol=6e-7)


@pytest.mark.parametrize(
    ("shape", "final_fraction"),
    [
        (shape, final_fraction)
        for shape in TWINS
        for final_fraction in (0.0, 0.1, 1.0)
        if shape != "exponential" or final_fraction > 0
    ],
)
def test_follows_its_formula(shape, final_fraction):
    schedule = cooled(shape, final_fraction=final_fraction)
    counts = np.array([*range(0, 65), 40 + 10**9])
    expected = [
        trunk(c)
        if c < 40
        else trunk(40) * TWINS[shape](min((c - 40) / 20, 1), final_fraction)
        for c in counts.tolist()
    ]
    assert_allclose(schedule(counts), expected, rtol=1e-5, atol=1e-7)
    with jax.enable_x64(True):
        rates = schedule(counts)
    assert rates.dtype == jnp.float64
    assert_allclose(rates, expected, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("shape", TWINS)
def test_the_last_value_is_exactly_the_final_fraction(shape):
    schedule = cooled(shape, final_fraction=0.25, trunk=lambda count: 1.0)
    assert schedule(60) == schedule(61) == schedule(10**9) == 0.25


# Compiled, a division by a constant is a product with its rounded inverse. At the end
# that is too large for 20 and too small for 41; for the last it is too large a step
# before the end.
@pytest.mark.parametrize("steps", [20, 41, 2**24 + 2901])
def test_the_end_is_exact_when_compiled(steps):
    shape = dict(name="power", exponent=0.5)
    schedule = jax.jit(cooled(shape, 40, steps, 0.0, trunk=lambda count: 1.0))
    rates_C = schedule(40 + steps + jnp.array([-steps, -2, -1, 0, 1]))
    assert rates_C[0] == 1
    assert np.all(rates_C[1:3] >= 0) and np.all(rates_C[1:3] < 0.5)
    assert_array_equal(rates_C[3:], 0)


def test_shape_given_as_a_dict_or_a_callable():
    counts_C = jnp.arange(80)
    power = cooled(dict(name="power", exponent=3.0))(counts_C)
    assert_allclose(cooled(lambda x: (1 - x) ** 3)(counts_C), power, rtol=1e-6)
    lowered = cooled(dict(name="lowered_linear", kappa=0.4))(counts_C)
    assert_allclose(cooled(lambda x: 0.4 * (1 - x))(counts_C), lowered, rtol=1e-6)
    assert not np.allclose(lowered, cooled("lowered_linear")(counts_C))
    steep = cooled(dict(name="inverse_sqrt", scale=99.0))(counts_C)
    published = [1 - _h(x, 99) / _h(1, 99) for x in (0, 0.25, 0.5, 0.75, 1)]
    expected = trunk(40) * (0.1 + 0.9 * np.array(published))
    assert_allclose(steep[40:61:5], expected, rtol=1e-5)
    default = cooled(dict(name="lowered_linear", kappa=None))(counts_C)
    assert_allclose(default, cooled("lowered_linear")(counts_C))
    assert_allclose(
        cooled(dict(name="power", exponent=1.0))(counts_C),
        cooled("linear")(counts_C),
        rtol=1e-6,
    )


def test_a_shape_that_starts_below_one_leaves_the_trunk_alone():
    schedule = cooled("lowered_linear", final_fraction=0.0)
    assert_allclose(schedule(39), trunk(39), rtol=1e-6)
    assert_allclose(schedule(40), 0.7 * trunk(40), rtol=1e-6)


@pytest.mark.parametrize("shape", TWINS)
@pytest.mark.parametrize("start", [0, 40])
def test_a_cooldown_of_no_steps_jumps_to_the_final_rate(shape, start):
    schedule = jax.jit(cooled(shape, start=start, steps=0))
    if start:
        assert_allclose(schedule(start - 1), trunk(start - 1), rtol=1e-6)
    for count in (start, start + 1, 10**9):
        assert_allclose(schedule(count), 0.1 * trunk(start), rtol=1e-6)


def test_a_cooldown_of_one_step():
    schedule = cooled("1-sqrt", steps=1, final_fraction=0.0)
    assert_allclose(schedule(40), trunk(40), rtol=1e-6)
    assert schedule(41) == 0


def test_cools_any_optax_schedule_and_any_cooldown():
    cosine = optax.cosine_decay_schedule(1.0, 200)
    schedule = cooled("linear", 100, 10, 0.0, trunk=cosine)
    assert_allclose(schedule(50), cosine(50), rtol=1e-6)
    assert_allclose(schedule(105), 0.25, rtol=1e-6)
    twice = cooled("linear", 105, 10, 0.0, trunk=schedule)
    assert_allclose(twice(110), 0.125, rtol=1e-6)


def test_the_trunk_is_never_asked_beyond_the_start():
    asked = []

    def recording(count):
        asked.append(int(count))
        return 1.0

    schedule = cooled("linear", trunk=recording)
    for count in (0, 39, 40, 41, 10**9):
        schedule(count)
    assert asked == [0, 39, 40, 40, 40]


def test_integer_counts_beyond_float32_are_exact():
    start = 2**24 + 1  # float32 has no 2**24 + 1
    schedule = jax.jit(cooled("linear", start, 4, 0.0, trunk=lambda count: 1.0))
    counts_C = jnp.arange(start - 1, start + 6)
    assert_allclose(schedule(counts_C), [1, 1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize(
    "shape",
    [*TWINS, dict(name="power", exponent=0.5), lambda x: 1 - jnp.sqrt(x)],
    ids=lambda shape: "callable" if callable(shape) else str(shape),
)
def test_derivatives_are_true_inside_and_zero_at_the_ends(shape):
    schedule = cooled(shape, trunk=lambda count: 1.0)
    with jax.enable_x64(True), jax.debug_nans(True):
        derivative = jax.jit(jax.vmap(jax.grad(schedule)))
        outside_C = jnp.array([0.0, 39.5, 40.0, 60.0, 60.5, 1e9])
        assert_allclose(derivative(outside_C), 0, atol=0)
        inside_C = jnp.array([40.01, 45.0, 59.9])
        step = 1e-5
        slope_C = (schedule(inside_C + step) - schedule(inside_C - step)) / (2 * step)
        assert np.all(slope_C < 0)
        assert_allclose(derivative(inside_C), slope_C, rtol=1e-5)


@pytest.mark.parametrize("shape", TWINS)
def test_derivative_of_a_traced_final_fraction(shape):
    def rate(final_fraction, count):
        return cooled(shape, final_fraction=final_fraction)(count)

    gradient = jax.jit(jax.grad(rate))
    assert_allclose(gradient(0.2, 20), 0, atol=0)
    assert_allclose(gradient(0.2, 70), trunk(40), rtol=1e-5)
    middle = TWINS[shape](0.5, 0.2 + 1e-6) - TWINS[shape](0.5, 0.2 - 1e-6)
    assert_allclose(gradient(0.2, 50), trunk(40) * middle / 2e-6, rtol=1e-4)


def test_derivative_of_a_traced_exponent_has_no_nan():
    def rate(exponent, count):
        return cooled(dict(name="power", exponent=exponent), trunk=lambda c: 1.0)(count)

    with jax.debug_nans(True):
        for count in (0, 40, 60, 61):
            assert_allclose(jax.grad(rate)(1.5, count), 0, atol=1e-7)
        # d/de 0.9 (1/2)^e = 0.9 (1/2)^e ln(1/2)
        expected = 0.9 * 0.5**1.5 * math.log(0.5)
        assert_allclose(jax.grad(rate)(1.5, 50), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(start=-1), r"start=-1 must be an integer in \[0, 2\*\*31\)"),
        (dict(start=4.0), "start=4.0 must be an integer"),
        (dict(steps=-1), "steps=-1 must be an integer"),
        (dict(steps="20"), "steps='20' must be an integer"),
        (dict(final_fraction=1.5), r"final_fraction=1.5 must be .* in \[0, 1\]"),
        (dict(final_fraction=-0.1), "final_fraction=-0.1 must be"),
        (dict(final_fraction=math.nan), "final_fraction=nan must be"),
        (
            dict(shape="exponential", final_fraction=0.0),
            "final_fraction=0.0 must be above 0 for shape 'exponential'",
        ),
        (
            dict(shape="sqrt"),
            "shape='sqrt' must be one of linear, .* power, or a call",
        ),
        (dict(shape=3), "shape=3 must be one of linear"),
        (dict(shape=None), "shape=None must be one of linear"),
        (dict(shape={}), "shape=None must be one of linear"),
        (dict(shape=dict(name=["linear"])), r"shape=\['linear'\] must be one of"),
        (
            dict(shape=dict(name="power", kappa=0.7)),
            "shape.kappa=0.7 is not an argument of shape 'power'; known are exponent",
        ),
        (
            dict(shape=dict(name="linear", x=0.7)),
            "shape.x=0.7 is not an argument of shape 'linear'; known are none",
        ),
        (dict(shape=dict(name="exponential", final_fraction=0.5)), "known are none"),
        (
            dict(shape=dict(name="power", exponent=0)),
            "shape.exponent=0 must be a finite number above 0",
        ),
        (
            dict(shape=dict(name="inverse_sqrt", scale=0)),
            "shape.scale=0 must be a finite number above 0",
        ),
        (
            dict(shape=dict(name="lowered_linear", kappa=1.2)),
            r"shape.kappa=1.2 must be a number in \[0, 1\]",
        ),
        (dict(trunk=3e-3), "trunk=0.003 must be a callable from count to rate"),
    ],
)
def test_errors_name_the_argument_and_the_value(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        cooled(**(dict(shape="linear") | changes))
    assert "\n" not in str(error.value)
