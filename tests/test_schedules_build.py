"""Building schedules from data, and the battery that every factory passes."""

import ast
import inspect
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules

TRUNKS = {
    "constant": dict(name="constant", peak=0.3),
    "inverse_sqrt": dict(name="inverse_sqrt", peak=0.3, offset=20),
    "power_decay": dict(name="power_decay", peak=0.3, exponent=0.8, offset=20),
    "infinite": dict(name="infinite", peak=0.3, stable=0.2, cooldown_steps=12),
    # Leaves its cap between counts 13 and 14.
    "power_scheduler": dict(
        name="power_scheduler", cap=0.3, tokens_per_step=100, sequence_length=10
    )
    | dict(coefficient=1.2, exponent=0.51),
}
FIXED = {
    "cosine": dict(name="cosine", peak=0.3, total_steps=40),
    "linear": dict(name="linear", peak=0.3, total_steps=40),
    "wsd": dict(name="wsd", peak=0.3, total_steps=40, cooldown_fraction=0.5),
    "wsqd": dict(name="wsqd", peak=0.3, offset=9, total_steps=40)
    | dict(cooldown_fraction=0.5),
    "from_values": dict(name="from_values", values=np.linspace(0.1, 0.3, 41)),
    "refined_from_gradient_norms": dict(
        name="refined_from_gradient_norms",
        peak=0.3,
        norms=3 + np.cos(np.arange(29.0)),
        total_steps=41,
    ),
    "multi_step": dict(name="multi_step", peak=0.3, boundaries=[12, 20, 40]),
}
# They have no horizon among their arguments, but are no trunks.
ENDLESS = {
    "step_decay": dict(name="step_decay", peak=0.3, every=4, factor=0.8),
    "exponential": dict(name="exponential", peak=0.3, half_life=9.5),
    "cyclic": dict(name="cyclic", peak=0.3, period=12, growth=2),
    "wsd_simplified": dict(name="wsd_simplified", peak=0.3, ends=[20, 40])
    | dict(cooldown_fraction=0.3),
}


def cooldown(trunk, **arguments):
    return dict(name="cooldown", trunk=trunk, start=20, steps=20, **arguments)


CASES = TRUNKS | FIXED | ENDLESS
WITHOUT_WARMUP = ("from_values", "refined_from_gradient_norms")
CASES |= {
    f"{name}_warmup": spec | dict(warmup_steps=8)
    for name, spec in CASES.items()
    if name not in WITHOUT_WARMUP
}
TABLE = dict(name="from_values", values=[0.1, 0.3, 0.2], positions=[1, 8, 40])
CASES |= {
    "infinite_1-sqrt": TRUNKS["infinite"] | dict(shape="1-sqrt", warmup_steps=8),
    "infinite_jump": TRUNKS["infinite"] | dict(cooldown_steps=0, warmup_steps=8),
    "cosine_all_warmup": FIXED["cosine"] | dict(warmup_steps=40),
    "wsd_all_cooldown": FIXED["wsd"] | dict(cooldown_fraction=1, shape="1-sqrt"),
    "wsd_no_cooldown": FIXED["wsd"] | dict(cooldown_fraction=0, warmup_steps=8),
    "cooldown_1-sqrt": cooldown(CASES["inverse_sqrt_warmup"], shape="1-sqrt"),
    "cooldown_square_root": cooldown(
        TRUNKS["constant"], shape=dict(name="power", exponent=0.5), final_fraction=0
    ),
    "cooldown_exponential": cooldown(FIXED["cosine"], shape="exponential"),
    "cooldown_jump": cooldown(TRUNKS["constant"]) | dict(steps=0),
    "cooldown_inverse_sqrt": cooldown(TRUNKS["constant"], shape="inverse_sqrt"),
    "wsqd_jump": FIXED["wsqd"] | dict(cooldown_fraction=0),
    "from_values_held": TABLE,
    "from_values_interpolated": TABLE | dict(interpolate=True),
    "from_values_one": TABLE | dict(values=[0.2], positions=[7], interpolate=True),
    "multi_step_to_zero": FIXED["multi_step"] | dict(factor=0, warmup_steps=12),
    "step_decay_every_step": ENDLESS["step_decay"] | dict(every=1),
    "cyclic_without_growth": ENDLESS["cyclic"] | dict(growth=1, shape="1-sqrt"),
    "cyclic_of_one_step": ENDLESS["cyclic"] | dict(growth=1, period=1),
    "wsd_simplified_without_cooldowns": ENDLESS["wsd_simplified"]
    | dict(cooldown_fraction=0),
    "wsd_simplified_all_cooldown": ENDLESS["wsd_simplified"]
    | dict(cooldown_fraction=0.5, warmup_steps=10, shape="1-sqrt"),
}
BOUNDARIES = [0, 1, 7, 8, 9, 12, 19, 20, 21, 39, 40, 41]
COUNTS = np.array([*BOUNDARIES, 40 + 10**9])


@pytest.fixture(params=CASES, scope="module")
def case(request):
    """A schedule, and the schedule compiled."""
    schedule = schedules.build(CASES[request.param])
    return schedule, jax.jit(schedule)


def test_the_battery_has_every_factory():
    covered = {spec["name"] for spec in CASES.values()}
    helpers = {"build", "horizon_free", "rates", "scale_by"}
    names = {"Rates", "SHAPES", "ScaleByState", "Shape"}
    assert covered == set(schedules.__all__) - helpers - names


def test_python_numpy_and_traced_counts_agree(case):
    schedule, compiled = case
    rates_C = schedule(COUNTS)
    assert rates_C.shape == COUNTS.shape
    python = [schedule(count) for count in COUNTS[::4].tolist()]
    numpy = [schedule(np.int32(count)) for count in COUNTS[::4]]
    traced = [compiled(count) for count in COUNTS[::4].tolist()]
    for rates in (python, numpy, traced):
        assert all((r.shape, r.dtype) == ((), jnp.float32) for r in rates)
        assert_allclose(rates, rates_C[::4], rtol=3e-7, atol=1e-8)
    counts_C = jnp.asarray(COUNTS, jnp.int32)
    assert_allclose(compiled(counts_C), rates_C, rtol=3e-7, atol=1e-8)
    assert_allclose(jax.vmap(schedule)(counts_C), rates_C, rtol=3e-7, atol=1e-8)
    assert_allclose(compiled(counts_C.astype(float)), rates_C, rtol=3e-7, atol=1e-8)


def test_results_have_the_default_float_type_and_no_weak_type(case):
    schedule, _ = case
    for count in (3, 3.0, np.int64(3), np.float64(3), jnp.int32(3), jnp.float32(3)):
        rate = jax.eval_shape(schedule, count)
        assert rate.dtype == jnp.float32 and not rate.weak_type
        with jax.enable_x64(True):
            assert jax.eval_shape(schedule, count).dtype == jnp.float64


def test_no_nan_in_values_or_derivatives(case):
    schedule, _ = case
    counts_C = jnp.array([-1.0, *BOUNDARIES, 20.5, 1e9], jnp.float32)
    derivative = jax.grad(schedule)

    def all_three(count):
        return schedule(count), derivative(count), jax.grad(derivative)(count)

    with jax.debug_nans(True):
        rates_C, slopes_C, curvatures_C = jax.jit(jax.vmap(all_three))(counts_C)
    assert np.all(np.isfinite(rates_C)) and np.all(rates_C >= 0)
    assert np.all(np.isfinite(slopes_C)) and np.all(np.isfinite(curvatures_C))


def test_derivative_is_the_limit_of_difference_quotients(case):
    schedule, _ = case
    with jax.enable_x64(True):
        counts_C, step = jnp.array([3.5, 10.25, 15.5, 30.5, 50.5]), 1e-4
        slopes_C = jax.jit(jax.vmap(jax.grad(schedule)))(counts_C)
        quotients_C = schedule(counts_C + step) - schedule(counts_C - step)
        assert_allclose(slopes_C, quotients_C / (2 * step), rtol=1e-6, atol=1e-10)


WITH_AN_END = [n for n, spec in CASES.items() if spec["name"] not in TRUNKS | ENDLESS]
WITH_WARMUP = [n for n, spec in CASES.items() if spec.get("warmup_steps")]
WITH_PEAK = [n for n in TRUNKS | FIXED | ENDLESS if "peak" in CASES[n]]
RAMPED = [n for n in WITH_PEAK if n not in WITHOUT_WARMUP]


@pytest.mark.parametrize("name", WITH_AN_END)
def test_a_schedule_with_an_end_holds_its_last_value(name):
    schedule = schedules.build(CASES[name])
    assert schedule(40) == schedule(41) == schedule(10**9)


@pytest.mark.parametrize("name", WITH_WARMUP)
def test_warmup_runs_from_a_tenth_to_the_peak(name):
    schedule, warmup_steps = schedules.build(CASES[name]), CASES[name]["warmup_steps"]
    expected = 0.3 * (0.1 + 0.9 * np.arange(warmup_steps) / warmup_steps)
    assert_allclose(schedule(np.arange(warmup_steps)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", RAMPED)
def test_starts_its_body_at_the_peak(name):
    spec = CASES[name] | dict(warmup_start=0.0)
    assert schedules.build(spec)(0) == np.float32(0.3)
    assert schedules.build(spec | dict(warmup_steps=8))(8) == np.float32(0.3)


@pytest.mark.parametrize("name", WITH_PEAK)
def test_is_proportional_to_a_traced_peak(name):
    spec = CASES[f"{name}_warmup" if name in RAMPED else name]

    def rates(peak):
        # The stable rate of `infinite` is absolute.
        scaled = dict(peak=peak, stable=peak / 2) if name == "infinite" else {}
        return schedules.build(spec | dict(peak=peak) | scaled)(COUNTS)

    assert_allclose(jax.jit(rates)(0.7), 0.7 * rates(1.0), rtol=1e-6)
    assert_allclose(jax.jacfwd(rates)(0.7), rates(1.0), rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_builds_from_a_config_dict(name):
    config = ml_collections.ConfigDict(CASES[name])
    expected = schedules.build(CASES[name])(COUNTS)
    assert_array_equal(schedules.build(config)(COUNTS), expected)


def test_build_passes_its_arguments_on():
    spec = dict(name="wsd", peak=0.3, total_steps=50, shape="square", warmup_start=None)
    by_hand = schedules.wsd(peak=0.3, total_steps=50, shape="square")
    assert_array_equal(schedules.build(spec)(COUNTS), by_hand(COUNTS))
    assert spec["warmup_start"] is None  # The caller's dict is left alone.


@pytest.mark.parametrize("name", [n for n in FIXED if "total_steps" in FIXED[n]])
def test_build_fills_in_the_total_steps_of_the_run(name):
    expected = schedules.build(FIXED[name])(COUNTS)
    total_steps = FIXED[name]["total_steps"]
    without = {k: v for k, v in FIXED[name].items() if k != "total_steps"}
    for spec in (without, without | dict(total_steps=None)):
        filled_in = schedules.build(spec, total_steps=total_steps)
        assert_array_equal(filled_in(COUNTS), expected)
    stated = schedules.build(FIXED[name], total_steps=99)
    assert_array_equal(stated(COUNTS), expected)


def test_build_fills_in_the_tokens_per_step_of_the_run():
    spec = TRUNKS["power_scheduler"]
    expected = schedules.build(spec)(COUNTS)
    missing = spec | dict(tokens_per_step=None)
    filled_in = schedules.build(missing, tokens_per_step=100)
    assert_array_equal(filled_in(COUNTS), expected)
    stated = schedules.build(spec, tokens_per_step=7)
    assert_array_equal(stated(COUNTS), expected)
    branch = cooldown(missing, final_fraction=1.0)
    filled_in = schedules.build(branch, tokens_per_step=100)
    assert_array_equal(filled_in(np.arange(21)), schedules.build(spec)(np.arange(21)))
    with pytest.raises(ValueError, match=r"needs schedule\.tokens_per_step"):
        schedules.build(missing)


@pytest.mark.parametrize("name", [*TRUNKS, *ENDLESS, "from_values", "multi_step"])
def test_the_total_steps_of_the_run_change_nothing_else(name):
    rates = [schedules.build(CASES[name], total_steps=n)(COUNTS) for n in (None, 5, 99)]
    assert_array_equal(rates[0], rates[1])
    assert_array_equal(rates[0], rates[2])


def _bad_numbers():
    """Every numeric argument of every factory, given what no argument may be."""
    for name, spec in (TRUNKS | FIXED | ENDLESS).items():
        factory = getattr(schedules, name)
        for argument in inspect.signature(factory).parameters:
            if argument not in ("shape", "positions", "interpolate"):
                is_table = isinstance(spec.get(argument), list | np.ndarray)
                for bad in (-1, math.nan, math.inf):
                    value = [1, bad, 3] if is_table else bad
                    yield pytest.param(name, argument, value, id=f"{name}-{argument}")


@pytest.mark.parametrize(("name", "argument", "value"), [*_bad_numbers()])
def test_a_negative_or_non_finite_number_is_refused(name, argument, value):
    spec = (TRUNKS | FIXED | ENDLESS)[name] | {argument: value}
    with pytest.raises(ValueError) as error:
        schedules.build(spec)
    given = f"{argument}[1]={value[1]}" if isinstance(value, list) else f"{value!r}"
    assert argument in str(error.value) and given in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [n for n in FIXED if f"{n}_warmup" in CASES])
def test_a_warmup_longer_than_the_run_is_refused(name):
    with pytest.raises(ValueError, match=r"warmup_steps=41") as error:
        schedules.build(FIXED[name] | dict(warmup_steps=41))
    assert "\n" not in str(error.value)


def test_a_cooldowns_trunk_is_a_spec_or_a_callable():
    trunk = schedules.build(TRUNKS["inverse_sqrt"])
    expected = schedules.cooldown(trunk, start=20, steps=20)(COUNTS)
    for given in (trunk, TRUNKS["inverse_sqrt"]):
        assert_array_equal(schedules.build(cooldown(given))(COUNTS), expected)
    twice = schedules.build(cooldown(cooldown(trunk)) | dict(start=30))
    assert_allclose(twice(40), 0.55 * 0.55 * trunk(20), rtol=1e-6)


def test_a_callable_is_a_schedule_already():
    def schedule(count):
        return 0.5

    assert schedules.build(schedule) is schedule


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosine", "schedule='cosine' must be a dict"),
        (None, "schedule=None must be a dict"),
        (dict(peak=0.3), "schedule.name=None is unknown; known are constant, cooldown"),
        (dict(name="cosin"), "schedule.name='cosin' is unknown; known are constant"),
        (dict(name="build"), "schedule.name='build' is unknown"),
        (dict(name="constant"), "schedule 'constant' needs schedule.peak"),
        (dict(name="cosine", peak=1.0), "schedule 'cosine' needs schedule.total_steps"),
        (
            TRUNKS["constant"] | dict(total_steps=4),
            "schedule.total_steps=4 is not an arg",
        ),
        (TRUNKS["constant"] | dict(trunk=4), "schedule.trunk=4 is not an argument of"),
        (dict(name="constant", peak=-1), "schedule 'constant': peak=-1 must be"),
        (dict(name="cooldown", start=1, steps=1), "'cooldown' needs schedule.trunk"),
        (cooldown("constant"), "schedule='constant' must be a dict"),
        (
            cooldown(dict(name="cosine", peak=1.0)),
            "'cosine' needs schedule.total_steps",
        ),
        (cooldown(TRUNKS["constant"], shape="hat"), "'cooldown': shape='hat' must be"),
    ],
)
def test_build_errors(spec, message):
    # The total of this run is not that of the run which a cooldown's trunk belongs to.
    total_steps = 40 if spec and "trunk" in spec else None
    with pytest.raises(ValueError, match=message) as error:
        schedules.build(spec, total_steps=total_steps)
    assert "\n" not in str(error.value)


def test_horizon_free():
    for spec in CASES.values():
        assert schedules.horizon_free(spec) == (spec["name"] in TRUNKS)
        assert schedules.horizon_free(spec["name"]) == schedules.horizon_free(spec)


def test_horizon_free_refuses_unknown_names():
    for spec in ("cosin", {}, dict(name=["constant"])):
        with pytest.raises(
            ValueError, match="is unknown; known are constant, cooldown"
        ):
            schedules.horizon_free(spec)


def test_trunks_have_no_argument_about_horizons():
    arguments = {
        argument
        for name in TRUNKS
        for argument in inspect.signature(getattr(schedules, name)).parameters
    }
    own = {"peak", "offset", "exponent", "stable", "cooldown_steps", "shape"}
    own |= {"tokens_per_step", "cap", "coefficient", "sequence_length"}
    assert arguments == own | {"warmup_steps", "warmup_start"}


def test_imports_nothing_above_the_ground_floor():
    allowed = {"jax", "numpy", "optax", *sys.stdlib_module_names}
    for path in pathlib.Path(schedules.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for module in modules:
                ours = module.startswith(("anytime_jax.schedules", "anytime_jax.specs"))
                assert ours or module.split(".")[0] in allowed, (path.name, module)
