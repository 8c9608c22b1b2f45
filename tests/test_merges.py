import pytest

from anytime_jax.reporting import merges


def _origin(recipe, span=None, weights="raw", every=10):
    sources = [dict(step=step, weights=weights) for step in (200 - every, 200)]
    return dict(recipe=recipe, step=200, span=span, sources=sources, quality={})


POWER = dict(name="power", exponent=2.0)


@pytest.mark.parametrize(
    ("recipe", "arguments", "label"),
    [
        (dict(name="window", start=160, stop=200), dict(span=40), "window 20%"),
        (dict(name="uniform"), dict(span=20), "uniform, last 10%"),
        (dict(name="uniform"), dict(span=None), "uniform"),
        (
            dict(name="ema", alpha=0.2),
            dict(span=51, weights="ema25"),
            "ema alpha=0.2 of ema25, last 26%",
        ),
        (
            dict(name="from_decay", shape=POWER, final_fraction=0.1),
            dict(span=20),
            "from_decay power(exponent=2.0) final_fraction=0.1, last 10%",
        ),
        (
            dict(name="synthesize", target=dict(name="power", sigma_rel=0.1), limit=1),
            dict(weights="ema25"),
            "synthesize power(sigma_rel=0.1)",
        ),
        (dict(name="synthesize", target="uniform"), {}, "synthesize uniform"),
    ],
)
def test_a_label_is_the_recipe_and_the_share(recipe, arguments, label):
    origin = _origin(recipe, **arguments)
    assert merges.label(origin) == label
    detailed = merges.label(origin, detailed=True)
    in_detail = arguments.get("span") and recipe["name"] != "window"
    assert detailed == label + ", every 10" * bool(in_detail)


def test_contents_are_the_weights_and_their_steps():
    origin = _origin(dict(name="uniform"))
    assert merges.contents(origin) == "2 of 190 to 200"
    origin["sources"] = [dict(step=2000)] * 7
    origin["quality"] = dict(error=0.00512, condition=3.0)
    assert merges.contents(origin) == "7 of 2,000, error 0.005"
