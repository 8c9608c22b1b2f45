import dataclasses
import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import laws, schedules
from anytime_jax.laws import reductions

LAW = laws.SimpleLaw(L0=2.0, A=1.0, alpha=0.5, B=10.0)
RATES = np.array([0.01, 0.02, 0.03, 0.03, 0.01])


def test_predictions_of_the_simple_law():
    expected = [
        2 + 0.01**-0.5,
        2 + 0.06**-0.5,
        2 + 0.10**-0.5 - 10 * 0.02,
    ]
    assert_allclose(LAW.predict(RATES, [0, 2, 4]), expected, rtol=1e-14)


def test_steps_come_back_in_their_order_and_shape():
    ascending = LAW.predict(RATES, [1, 2, 4])
    found = LAW.predict(RATES, [[4, 1], [2, 4]])
    assert_array_equal(found, [[ascending[2], ascending[0]], ascending[[1, 2]]])
    assert LAW.predict(RATES, 4).shape == ()


def test_rates_may_be_a_schedule_or_a_number():
    schedule = schedules.linear(peak=0.03, total_steps=10)
    exact = schedules.rates(schedule, 8)
    assert_array_equal(LAW.predict(schedule, [3, 7]), LAW.predict(exact, [3, 7]))
    assert_array_equal(LAW.predict(0.03, [3]), LAW.predict([0.03] * 4, [3]))


@pytest.mark.parametrize(
    ("rates", "at", "message"),
    [
        (RATES, [5], "at=5 must be below the 5 steps of the rates"),
        (RATES, [1.0], r"at=array\(\[1.\]\) must be integers >= 0, at least one"),
        (RATES, [], "must be integers >= 0, at least one"),
        (RATES, [-1], "must be integers >= 0, at least one"),
        ([0.0, 0.1], [0, 1], "at=0 must be a step after a rate above 0"),
        ([0.1, -0.1], [1], r"rates\(1\)=-0.1 must be a finite rate, at least 0"),
        ("0.1", [1], "rates='0.1' must be a callable, a number or an array of rates"),
    ],
)
def test_errors_of_predict(rates, at, message):
    with pytest.raises(ValueError, match=message) as error:
        LAW.predict(rates, at)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", True, None])
def test_parameters_are_numbers(value):
    with pytest.raises(ValueError, match=r"alpha=.* must be a finite number"):
        dataclasses.replace(LAW, alpha=value)


def test_errors_are_those_of_their_definitions():
    losses = np.array([4.0, 3.0, 2.0, 2.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    predicted = losses + np.array([0.5, -0.75, *[0.125] * 7, -0.125])
    found = laws.errors(predicted, losses)
    error = predicted - losses
    assert found["mae"] == np.mean(np.abs(error))
    assert_allclose(found["rmse"], np.sqrt(np.mean(error**2)))
    assert_allclose(found["pred_error"], np.mean(np.abs(error) / losses))
    assert found["worst_error"] == 0.25
    assert found["final_error"] == 6 / 8 * 0.125
    sparse = laws.errors(predicted, losses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 270])
    assert sparse == found | dict(final_error=0.0)
    assert_allclose(found["r2"], 1 - np.mean(error**2) / losses.var())
    assert math.isnan(laws.errors([1.0, 2.0], [2.0, 2.0])["r2"])


def test_scores_are_means_over_curves():
    low = laws.Curve(RATES, [2, 4], LAW.predict(RATES, [2, 4]) - 0.25, "low")
    high = laws.Curve(RATES, [2, 4], LAW.predict(RATES, [2, 4]) + 0.5, "high")
    assert_allclose(LAW.errors(low)["final_error"], 0.25)
    assert_allclose(LAW.errors(high)["final_error"], -0.5)
    score = LAW.score([low, high])
    assert_allclose(score["mae"], 0.375)
    assert_allclose(score["final_error"], 0.375)
    with pytest.raises(ValueError, match="curves must hold at least one curve"):
        LAW.score([])


def test_laws_go_to_json_and_back():
    law = laws.MultiPowerLaw(3.0, 0.5, 0.5, 400.0, 1.0, 0.5, 0.5, warmup="authors")
    data = json.loads(json.dumps(law.to_dict()))
    assert laws.Law.from_dict(data) == law
    steps = np.arange(20, 400, 20)
    curve = laws.Curve(np.full(400, 0.03), steps, LAW.predict(0.03, steps), "one")
    with pytest.warns(laws.UnidentifiedWarning, match="curves one do not determine B"):
        fitted = laws.SimpleLaw.fit([curve])
    back = laws.Law.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert back == fitted
    assert back.fitted == fitted.fitted
    assert back.fitted.unidentified == ("B",)


@pytest.mark.parametrize(
    "data", [{}, 3, None, "law", [], dict(law="Other"), dict(law=[1]), dict(law=None)]
)
def test_other_data_is_refused(data):
    if data and isinstance(data, dict):
        data |= dict(parameters={}, conventions={}, fitted=None)
    message = "must be what Law.to_dict returned, with law= one of .*MultiPowerLaw"
    with pytest.raises(ValueError, match=message) as error:
        laws.Law.from_dict(data)
    assert str(error.value).startswith(f"data={data!r} ")


def test_laws_of_before_held_out_errors_are_read():
    steps = np.arange(20, 400, 20)
    curve = laws.Curve(np.full(400, 0.03), steps, LAW.predict(0.03, steps), "one")
    with pytest.warns(laws.UnidentifiedWarning):
        data = laws.SimpleLaw.fit([curve]).to_dict()
    del data["fitted"]["held_out_errors"]
    assert laws.Law.from_dict(data).fitted.held_out_error is None


@pytest.mark.parametrize(
    "change",
    [
        dict(parameters={}),
        dict(conventions=dict(x=1)),
        dict(fitted=dict(a=1)),
        dict(fitted=[1]),
    ],
)
def test_data_with_other_parts_is_refused(change):
    with pytest.raises(ValueError, match=r"must be what Law\.to_dict returned: "):
        laws.Law.from_dict(LAW.to_dict() | change)


def test_warmup_end():
    for rates, end in (
        ([0.5, 0.5], 0),
        ([0.0, 0.5, 0.5], 1),
        ([0.0, 0.5], 1),
        ([0.5], 0),
        ([0.5, 0.2, 0.4], 0),
    ):
        assert reductions.warmup_end(np.array(rates)) == end


def test_grouped_falls_keep_their_sum_and_order():
    rates = np.linspace(1.0, 0.1, 200)
    at = np.array([50, 51, 120, 199])
    every = reductions.reductions(rates, at, warmup=False)
    assert len(every.drops_K) == 199
    few = reductions.reductions(rates, at, warmup=False, group=16)
    assert 199 / 16 <= len(few.drops_K) <= 199 / 16 + 4
    assert_allclose(few.drops_K.sum(), 0.9)
    for t in at:  # Before each recorded step there is as much as before.
        seen = np.cumsum(rates)[t]
        assert_allclose(
            few.drops_K[few.before_K < seen].sum(),
            every.drops_K[every.before_K < seen].sum(),
        )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(held_out_errors=["x"]), r"held_out_errors\[0\]='x'"),
        (dict(final_error="x"), "final_error='x'"),
        (dict(standard_errors=dict(L0=None)), "L0=None"),
        (dict(standard_errors=3), "standard_errors"),
    ],
)
def test_a_record_of_no_numbers_is_refused(change, named):
    record = dict(procedure="converged", ridge=0.0, objective=1.0, curves=["one"])
    record |= dict(points=3, final_error=0.1, standard_errors={}, unidentified=[])
    data = LAW.to_dict() | dict(fitted=record)
    assert laws.Law.from_dict(data).fitted.points == 3
    with pytest.raises(ValueError, match=named):
        laws.Law.from_dict(data | dict(fitted=record | change))
