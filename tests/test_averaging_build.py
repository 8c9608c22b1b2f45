"""From data to averages."""

import ml_collections
import pytest

from anytime_jax import averaging

KNOWN = "age_ema, ema, latest, polynomial, power, tail, uniform"


def test_every_factory_is_built_from_its_name_and_arguments():
    built = averaging.build(
        dict(
            newest=dict(name="latest"),
            uniform=dict(name="uniform"),
            ema25=dict(name="age_ema", divisor=25),
            narrow=dict(name="power", sigma_rel=0.05),
            wide=dict(name="power", gamma=1, sigma_rel=None),  # None is not given
            eta3=dict(name="polynomial", eta=3),
            slow=dict(name="ema", decay=0.999, debias=False),
            last=dict(name="tail", start=100),
        )
    )
    assert built == dict(
        newest=averaging.latest(),
        uniform=averaging.uniform(),
        ema25=averaging.age_ema(divisor=25),
        narrow=averaging.power(sigma_rel=0.05),
        wide=averaging.power(gamma=1),
        eta3=averaging.polynomial(eta=3),
        slow=averaging.ema(decay=0.999, debias=False),
        last=averaging.tail(start=100),
    )


def test_a_config_can_be_built_as_it_is():
    config = ml_collections.ConfigDict(dict(ema25=dict(name="age_ema", divisor=25)))
    config.lock()
    assert averaging.build(config) == dict(ema25=averaging.age_ema(divisor=25))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            dict(a=dict(name="polyak")),
            f"averages.a.name='polyak' is unknown; known are {KNOWN}",
        ),
        (
            dict(a=dict(divisor=25)),
            f"averages.a.name=None is unknown; known are {KNOWN}",
        ),
        (
            dict(a=dict(name="age_ema", divisor=25, decay=0.9)),
            "averages.a.decay=0.9 is not an argument of age_ema; known are divisor",
        ),
        (dict(a=dict(name="age_ema")), "averages.a 'age_ema' needs averages.a.divisor"),
        (dict(a=dict(name="ema", decay=1.5)), "averages.a 'ema': decay=1.5 must be in"),
        (dict(raw=dict(name="uniform")), "the average's name 'raw' must match"),
        (dict(Mean=dict(name="uniform")), "the average's name 'Mean' must match"),
    ],
)
def test_bad_data_is_named_with_what_is_known(specs, message):
    with pytest.raises(ValueError) as error:
        averaging.build(specs)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
