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
            "ema alpha=0.2 of ema25, last 25.5%",
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


@pytest.mark.parametrize("percent", [5, 10, 12.5, 20, 25, 37.5, 50])
def test_a_share_reads_the_same_at_every_horizon(percent):
    for horizon in (120, 240, 242, 484, 969, 1938, 3875, 100_001):
        span = horizon - int(horizon * (100 - percent) // 100)
        assert merges.percent(span, horizon) == f"{percent:g}%"


@pytest.mark.parametrize(
    ("span", "step", "text"),
    [
        (97, 484, "20%"),
        (25, 121, "20%"),
        (3, 8, "37.5%"),
        (13, 100, "13%"),
        (51, 200, "25.5%"),
        (100, 484, "20.5%"),
        (100, 484_000, "0.021%"),
        (484, 484, "100%"),
    ],
)
def test_a_share_is_round_only_as_far_as_steps_are(span, step, text):
    assert merges.percent(span, step) == text
