import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules

PEAK, WARMUP, TOTAL = 0.3, 10, 50
RUN = dict(peak=PEAK, total_steps=TOTAL, warmup_steps=WARMUP)
COUNTS = np.array([*range(-1, TOTAL + 3), TOTAL + 10**9])


def twin(body, counts):
    """The rate by hand, in float64: warmup from 10 %, then body(count) * PEAK."""
    return [
        PEAK * (0.1 + 0.9 * max(c, 0) / WARMUP)
        if c < WARMUP
        else PEAK * body(min(c, TOTAL))
        for c in counts.tolist()
    ]


def half_cosine(count, floor):
    x = (count - WARMUP) / (TOTAL - WARMUP)
    return floor + (1 - floor) * (1 + math.cos(math.pi * x)) / 2


def straight(count, floor):
    return 1 - (1 - floor) * (count - WARMUP) / (TOTAL - WARMUP)


def branch(count, floor, fraction):
    start = TOTAL - round(fraction * TOTAL)
    return 1.0 if count < start else 1 - (1 - floor) * (count - start) / (TOTAL - start)


@pytest.mark.parametrize(
    ("name", "arguments", "body"),
    [
        ("cosine", {}, lambda c: half_cosine(c, 0.1)),
        ("cosine", dict(final_fraction=0.0), lambda c: half_cosine(c, 0.0)),
        ("linear", {}, lambda c: straight(c, 0.0)),
        ("linear", dict(final_fraction=0.25), lambda c: straight(c, 0.25)),
        ("wsd", {}, lambda c: branch(c, 0.1, 0.1)),
        (
            "wsd",
            dict(cooldown_fraction=0.3, final_fraction=0.0),
            lambda c: branch(c, 0.0, 0.3),
        ),
        ("wsd", dict(cooldown_fraction=0.8), lambda c: branch(c, 0.1, 0.8)),
    ],
)
def test_follows_its_formula(name, arguments, body):
    schedule = getattr(schedules, name)(**RUN, **arguments)
    expected = twin(body, COUNTS)
    assert_allclose(schedule(COUNTS), expected, rtol=1e-5, atol=3e-8)
    with jax.enable_x64(True):
        rates = schedule(COUNTS)
    assert rates.dtype == jnp.float64
    assert_allclose(rates, expected, rtol=1e-13, atol=1e-16)


def test_cosine_crosses_the_published_milestones():
    # Where a cosine with a floor of 10 % crosses peak / 2, / 4 and / 8.
    schedule = schedules.cosine(peak=1.0, total_steps=1_000)
    rates = schedule(np.array([535, 732, 893]))
    assert_allclose(rates, [1 / 2, 1 / 4, 1 / 8], rtol=2e-3)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("final_fraction", [0.0, 0.5, 1.0])
def test_the_final_rate_is_exact_and_held(name, final_fraction):
    schedule = getattr(schedules, name)(
        peak=1.0, total_steps=50, final_fraction=final_fraction, warmup_steps=7
    )
    assert schedule(50) == schedule(51) == schedule(10**9) == final_fraction


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("total_steps", [0, 10])
def test_warmup_as_long_as_the_run_ends_at_the_final_rate(name, total_steps):
    changes = dict(cooldown_fraction=0.0) if name == "wsd" else {}
    schedule = getattr(schedules, name)(
        peak=0.3,
        total_steps=total_steps,
        final_fraction=0.2,
        warmup_steps=total_steps,
        **changes,
    )
    if total_steps:
        assert_allclose(schedule(9), 0.3 * (0.1 + 0.9 * 0.9), rtol=1e-6)
    for count in (total_steps, total_steps + 1, 10**9):
        assert_allclose(schedule(count), 0.06, rtol=1e-6)


def test_wsd_is_constant_with_a_cooldown_of_the_whole_runs_fraction():
    schedule = schedules.wsd(
        **RUN, cooldown_fraction=0.3, shape="1-sqrt", final_fraction=0.0
    )
    by_hand = schedules.cooldown(
        schedules.constant(peak=PEAK, warmup_steps=WARMUP),
        start=35,
        steps=15,
        shape="1-sqrt",
        final_fraction=0.0,
    )
    assert_allclose(schedule(COUNTS), by_hand(COUNTS))
    assert schedule(35) > schedule(36)


def test_wsd_rounds_its_cooldown_to_the_nearest_step():
    # 0.29 * 100 is 28.999999999999996 in floating point.
    schedule = schedules.wsd(peak=1.0, total_steps=100, cooldown_fraction=0.29)
    assert schedule(71) == 1.0
    assert schedule(72) < 1.0


def test_wsqd_is_inverse_sqrt_and_then_a_straight_line_from_there():
    schedule = schedules.wsqd(
        peak=1.0, offset=9, total_steps=50, cooldown_fraction=0.3, warmup_steps=8
    )
    counts = np.arange(8, 53)
    # Of update t = 1, 2, ... after the warmup, with pilots of T0 = 8 steps.
    root = [math.sqrt((8 + 1) / (8 + t)) for t in range(1, 29)]
    line = [max(root[-1] * (1 - n / 15), 0) for n in range(1, 18)]
    assert_allclose(schedule(counts), root + line, rtol=1e-6, atol=1e-7)


ENDS = [40, 60, 200]


def test_wsd_simplified_cools_down_before_every_end_as_wsd_does():
    schedule = schedules.wsd_simplified(
        peak=PEAK, ends=ENDS, cooldown_fraction=0.1, warmup_steps=WARMUP
    )
    counts = np.array([*range(205), 10**9])
    for read in (schedule, jax.jit(schedule)):
        rates = np.asarray(read(counts))
        for before, end in zip([0, *ENDS], ENDS, strict=False):
            single = schedules.wsd(
                peak=PEAK, total_steps=end, cooldown_fraction=0.1, warmup_steps=WARMUP
            )
            here = counts[before:end]
            assert_allclose(rates[before:end], single(here), rtol=1e-6)
        assert_array_equal(rates[ENDS], np.float32(PEAK))
        assert_array_equal(rates[-6:], np.float32(PEAK))


def test_an_end_added_later_leaves_what_was_before_alone():
    arguments = dict(peak=PEAK, cooldown_fraction=0.2, shape="1-sqrt")
    first = schedules.wsd_simplified(**arguments, ends=[50])
    second = schedules.wsd_simplified(**arguments, ends=[50, 100])
    assert_array_equal(first(np.arange(81)), second(np.arange(81)))
    assert second(81) < first(81)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_never_rises_after_the_warmup(name):
    rates_C = getattr(schedules, name)(**RUN)(np.arange(WARMUP, TOTAL + 5))
    assert np.all(np.diff(rates_C) <= 0)
    assert rates_C[0] == np.float32(PEAK)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "cosine",
            dict(warmup_steps=51),
            "warmup_steps=51 must be at most total_steps=50",
        ),
        ("cosine", dict(total_steps=-1), "total_steps=-1 must be an integer in"),
        ("cosine", dict(total_steps=50.0), "total_steps=50.0 must be an integer in"),
        ("cosine", dict(total_steps=None), "total_steps=None must be an integer in"),
        ("cosine", dict(final_fraction=2), r"final_fraction=2 must be .* in \[0, 1\]"),
        ("cosine", dict(peak="a"), "peak='a' must be a finite number"),
        (
            "linear",
            dict(warmup_steps=51),
            "warmup_steps=51 must be at most total_steps=50",
        ),
        ("linear", dict(warmup_start=-1), "warmup_start=-1 must be a number in"),
        (
            "linear",
            dict(final_fraction=True),
            "final_fraction=True must be a number in",
        ),
        (
            "wsd",
            dict(cooldown_fraction=1.5),
            "cooldown_fraction=1.5 must be a number in",
        ),
        (
            "wsd",
            dict(cooldown_fraction=0.9),
            "warmup_steps=10 and cooldown_fraction=0.9 must fit in total_steps=50",
        ),
        ("wsd", dict(shape="hat"), "shape='hat' must be one of"),
        (
            "wsd",
            dict(shape="exponential", final_fraction=0),
            "final_fraction=0 must be",
        ),
        ("wsqd", dict(offset=0), "offset=0 must be a finite number above 0"),
        (
            "wsqd",
            dict(cooldown_fraction=0.9),
            "warmup_steps=10 and cooldown_fraction=0.9 must fit in total_steps=50",
        ),
        ("wsd_simplified", dict(ends=40), "ends=40 must be a sequence of counts"),
        ("wsd_simplified", dict(ends=[]), r"ends=\[\] must hold at least one count"),
        (
            "wsd_simplified",
            dict(ends=[40, 40]),
            r"ends\[1\]=40 must be above ends\[0\]=40",
        ),
        (
            "wsd_simplified",
            dict(ends=[40, 43]),
            "cooldown_fraction=0.1 starts a cooldown at 39, which must be at least 40",
        ),
        (
            "wsd_simplified",
            dict(warmup_steps=37),
            "starts a cooldown at 36, which must be at least 37: warmup_steps=37",
        ),
    ],
)
def test_errors_name_the_argument_and_the_value(name, changes, message):
    run = RUN
    if name == "wsqd":
        run = RUN | dict(offset=9, cooldown_fraction=0.2)
    if name == "wsd_simplified":
        run = dict(peak=PEAK, ends=[40], warmup_steps=WARMUP)
    with pytest.raises(ValueError, match=message) as error:
        getattr(schedules, name)(**(run | changes))
    assert "\n" not in str(error.value)
