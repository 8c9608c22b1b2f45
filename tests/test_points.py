import math

import numpy as np
import pytest

from anytime_jax.laws import points


def test_numbers_of_any_kind_become_new_float64():
    given = np.array([1.0, 2.0])
    for values in (given, [1, 2], (1.0, 2.0), np.array([1, 2], np.int32)):
        found = points.positive("x", values)
        assert found.dtype == np.float64
        assert found.tolist() == [1.0, 2.0]
    found = points.finite("x", given)
    found[0] = 5.0
    assert given[0] == 1.0
    assert points.finite("x", -3, ndim=None).shape == ()


@pytest.mark.parametrize(
    ("function", "values", "message"),
    [
        (points.positive, [1.0, 0.0], r"x\[1\]=0.0 must be finite and > 0"),
        (points.positive, [1.0, math.inf], r"x\[1\]=inf must be finite"),
        (points.finite, [[1.0]], r"x of shape \(1, 1\) must have 1 axis"),
        (points.finite, [[1.0], [1.0, 2.0]], "x=.* must be numbers"),
        (points.finite, "12", "x='12' must be numbers"),
        (points.finite, [True], r"x=\[True\] must be numbers"),
        (points.finite, None, "x=None must be numbers"),
        (points.finite, np.array([["a"], ["b"]]), "x=array.* must be numbers"),
        (points.finite, [1j], "x=.* must be numbers"),
    ],
)
def test_errors(function, values, message):
    with pytest.raises(ValueError, match=message) as error:
        function("x", values)
    assert "\n" not in str(error.value)


def test_errors_name_the_first():
    with pytest.raises(ValueError, match=r"x\[1\]\[0\]=nan must be finite"):
        points.finite("x", [[1.0, 2.0], [math.nan, math.nan]], ndim=2)
    with pytest.raises(ValueError, match=r"x\[2\]=1 must be above x\[1\]=1"):
        points.ascending("x", np.array([0.0, 1.0, 1.0, 0.5]))


def test_lengths():
    points.same_length(2, x=np.ones(2), y=[1, 2])
    with pytest.raises(ValueError, match=r"\(x 2, y 3\) must be the same"):
        points.same_length(x=np.ones(2), y=np.ones(3))
    with pytest.raises(ValueError, match=r"\(x 0\) must be at least 1"):
        points.same_length(x=[])


def test_single_numbers():
    points.above_zero(x=1, y=np.float32(0.5))
    for value in (0, -1.0, math.nan, math.inf, True, "1", None):
        with pytest.raises(ValueError, match=r"x=.* must be finite and > 0"):
            points.above_zero(x=value)
