"""Every config and variant builds, and its train step can be traced."""

import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from anytime_jax import data, schedules
from anytime_jax.training import config_file, evaluation, recipe, state, step

NAMES = sorted(
    path.stem
    for path in pathlib.Path("configs").glob("*.py")
    if path.stem != "__init__"
)
MODULES = {name: importlib.import_module(f"configs.{name}") for name in NAMES}
ALL = [(name, variant) for name in NAMES for variant in MODULES[name].VARIANTS]

# Steps, non-embedding parameters in millions, horizons in units of 12,500 steps.
PAPER = {
    "anytime_150m": (400_000, 151, (1, 2, 4, 8, 16, 32)),
    "anytime_300m": (200_000, 302, (1, 2, 4, 8, 16)),
}


@pytest.fixture
def build(monkeypatch, tmp_path):
    """Builds a config; its data need not be there, and a branch gets a trunk."""
    monkeypatch.setattr(data, "check", lambda **_: 256)

    def run(name, variant):
        get_config = MODULES[name].get_config
        config = get_config(variant)
        if config.schedule.name == "cooldown":
            trunk = get_config()
            config_file.write(trunk, recipe.build(trunk).resolved(), tmp_path)
            (tmp_path / "snapshots" / "10000").mkdir(parents=True)
            config.branch.update(workdir=str(tmp_path), step=10_000)
        return config, recipe.build(config)

    return run


def test_there_are_configs():
    assert set(NAMES) >= {"tiny", *PAPER}
    assert len(ALL) == len(set(ALL)) >= 10


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_variant_can_be_traced(build, name, variant):
    config, made = build(name, variant)
    shapes = jax.eval_shape(lambda: state.init(made.model, made.optimizer, config.seed))
    tokens = jax.ShapeDtypeStruct(
        (config.batch_size, config.sequence_length + 1), jnp.int32
    )
    train_step = step.make_step(made.model, made.optimizer, config.accumulation)
    after, metrics = jax.eval_shape(train_step, shapes, tokens)
    # What goes in comes out, so the next step needs no second compilation.
    assert after == shapes
    assert {name: value.shape for name, value in metrics.items()} == dict(
        loss=(), grad_norm=(), weight_norm=(), learning_rate=()
    )
    assert list(shapes.weights()) == ["raw", *config.averages]
    assert schedules.horizon_free(config.schedule.name) == bool(config.averages)
    batches = jax.ShapeDtypeStruct((2, *tokens.shape), jnp.int32)
    evaluate = evaluation.make_evaluate(made.model)
    assert jax.eval_shape(evaluate, shapes.params, batches).dtype == jnp.float32


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_the_trunk_and_other_variants_are_refused(name):
    module = MODULES[name]
    default, named = module.get_config(), module.get_config(module.VARIANTS[0])
    assert default.to_dict() == named.to_dict()
    assert default.schedule.name == "constant"
    with pytest.raises(ValueError, match=r"'cosinus' .*unknown; known are constant, "):
        module.get_config("cosinus")


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("variant", ["constant", "inverse_sqrt"])
def test_the_papers_runs_have_its_numbers(build, name, variant):
    _, made = build(name, variant)
    total_steps, millions, multiples = PAPER[name]
    assert made.total_steps == total_steps
    assert made.parameters["non_embedding"] // 10**6 == millions
    assert made.horizons == tuple(12_500 * multiple for multiple in multiples)
    assert {10_000, 11_250} < set(made.branch_starts)
    # 1x is 20 tokens a parameter to within the rounding to 12,500 steps.
    tokens = 12_500 * made.tokens_per_step
    assert 20 < tokens / made.parameters["non_embedding"] < 22


@pytest.mark.parametrize("name", ["tiny", "anytime_150m"])
def test_the_branch_in_the_docstring_ends_at_a_horizon_of_the_trunk(build, name):
    usage = MODULES[name].__doc__
    [start] = re.findall(r"branch.step=(\d+)", usage)
    [steps] = re.findall(r"schedule.steps=(\d+)", usage)
    _, made = build(name, "constant")
    assert int(start) in made.branch_starts
    assert int(start) + int(steps) in made.horizons
