import ml_collections
import pytest

from anytime_jax import specs


def circle(*, radius, centre=(0, 0)):
    return ("circle", radius, centre)


def square(*, side=1):
    if side < 0:
        raise ValueError(f"side={side} must be at least 0")
    return ("square", side + 0)


FACTORIES = (square, circle)


def call(**spec):
    return specs.call(spec, FACTORIES, kind="figure")


def test_calls_the_factory_of_that_name_with_the_other_entries():
    assert call(name="circle", radius=2) == ("circle", 2, (0, 0))
    assert call(name="circle", radius=2, centre=(1, 1)) == ("circle", 2, (1, 1))
    assert call(name="square", side=3) == ("square", 3)


def test_none_counts_as_not_given():
    assert call(name="square", side=None) == ("square", 1)
    assert call(name="square", colour=None) == ("square", 1)
    with pytest.raises(ValueError, match=r"figure 'circle' needs figure.radius"):
        call(name="circle", radius=None)


def test_false_and_zero_count_as_given():
    assert call(name="square", side=0) == ("square", 0)
    assert call(name="circle", radius=False) == ("circle", False, (0, 0))


def test_takes_a_config_dict_and_leaves_it_alone():
    config = ml_collections.ConfigDict(dict(name="circle", radius=2)).lock()
    assert specs.call(config, FACTORIES, kind="figure") == ("circle", 2, (0, 0))
    assert config.to_dict() == dict(name="circle", radius=2)


def test_takes_any_iterable_of_factories():
    spec = dict(name="square")
    assert specs.call(spec, iter(FACTORIES), kind="figure") == ("square", 1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "figure.name=None is unknown; known are circle, square"),
        (dict(name="cube"), "figure.name='cube' is unknown; known are circle, square"),
        (dict(name="circle"), "figure 'circle' needs figure.radius"),
        (
            dict(name="circle", radius=1, side=2),
            "figure.side=2 is not an argument of circle; known are radius, centre",
        ),
        (dict(name="square", side=-1), "figure 'square': side=-1 must be at least 0"),
    ],
)
def test_errors(spec, message):
    with pytest.raises(ValueError) as error:
        specs.call(spec, FACTORIES, kind="figure")
    assert str(error.value) == message


@pytest.mark.parametrize("side", ["a", -1])
def test_a_factorys_own_error_is_kept_as_the_cause(side):
    with pytest.raises(ValueError, match=r"^figure 'square': ") as error:
        call(name="square", side=side)
    assert isinstance(error.value.__cause__, TypeError | ValueError)
