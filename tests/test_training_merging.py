"""Merges of a real run's snapshots, planned, summed and written."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from anytime_jax import averaging, training
from anytime_jax.averaging import merging as coefficients_of
from anytime_jax.training import (
    config_file,
    merge_recipes,
    merging,
    metrics,
    preparing,
    sharding,
    snapshots,
    stored,
)
from anytime_jax.training import recipe as recipe_lib
from tests import small

STEPS = 40
TARGETS = dict(
    inside=dict(name="power", sigma_rel=0.08), last=dict(name="tail", start=20)
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that tracks what synthesis starts from, and what it should find."""
    folder = tmp_path_factory.mktemp("runs") / "trunk"
    config = small.config(
        model__layers=1,
        averages__narrow=dict(name="power", sigma_rel=0.05),
        averages__wide=dict(name="power", sigma_rel=0.10),
        averages__inside=TARGETS["inside"],
        averages__last=TARGETS["last"],
        snapshots__every=4,
        duration__steps=STEPS,
        horizons__steps=(20, STEPS),
    )
    training.train(config, folder)
    return folder


@pytest.fixture(scope="module")
def like():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    recipe = recipe_lib.build(small.config(model__layers=1))
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes,
        sharding.shardings(mesh, shapes),
    )


def _weights(workdir, step, name, like):
    return jax.device_get(snapshots.restore_weights(workdir, step, name, like))


def _difference(one, other):
    """The distance of two sets of weights relative to the norm of the second."""
    pairs = list(zip(*map(jax.tree.leaves, (one, other)), strict=True))
    apart = sum(np.sum((np.float64(a) - np.float64(b)) ** 2) for a, b in pairs)
    return math.sqrt(apart / sum(np.sum(np.float64(b) ** 2) for _, b in pairs))


RAW = {
    "uniform": (dict(name="uniform"), coefficients_of.uniform(5)),
    "linear": (dict(name="linear"), coefficients_of.linear(5)),
    "PMA": (dict(name="ema", alpha=0.5), coefficients_of.ema(5, 0.5)),
    "WSM": (
        dict(name="from_decay", shape="1-sqrt"),
        [0.4472136, 0.18524194, 0.14214114, 0.11983052, 0.10557281],
    ),
    "QAM": (
        dict(name="quadratic_accurate", shape="linear"),
        [0.0384, 0.2464, 0.4304, 0.2464, 0.0384],
    ),
    "floor": (
        dict(name="from_decay", shape=dict(name="linear"), final_fraction=0.5),
        [0.1, 0.1, 0.1, 0.1, 0.6],
    ),
    "given": (dict(name="given", coefficients=[-1, 0, 0, 0, 2]), [-1, 0, 0, 0, 2]),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_snapshots_are_merged_by_the_recipe(workdir, like, name):
    recipe, expected = RAW[name]
    steps = [24, 28, 32, 36, 40]
    plan = merging.plan(workdir, recipe, steps=steps)
    entering = {s.step: s.coefficient for s in plan.sources}
    wanted = {s: c for s, c in zip(steps, expected, strict=True) if c}
    assert list(entering) == list(wanted)
    np.testing.assert_allclose(
        list(entering.values()), list(wanted.values()), atol=1e-7
    )
    total = [
        sum(c * np.float64(leaf) for c, leaf in zip(expected, leaves, strict=True))
        for leaves in zip(
            *(jax.tree.leaves(_weights(workdir, s, "raw", like)) for s in steps),
            strict=True,
        )
    ]
    merged = merging.merge(plan)
    for leaf, exact in zip(jax.tree.leaves(merged), total, strict=True):
        assert leaf.dtype == np.float32
        assert len(leaf.sharding.device_set) == 1
        np.testing.assert_allclose(leaf, exact, atol=1e-6)
    kernel = plan.kernel()
    np.testing.assert_allclose(kernel[steps], expected, atol=1e-7)
    np.testing.assert_allclose(kernel.sum(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", TARGETS)
def test_a_synthesised_average_is_the_one_that_was_tracked(workdir, like, name):
    """From everything else, at a step where the tracked one is known too."""
    config = config_file.read(workdir)
    config["averages"] = {
        k: v for k, v in config["averages"].items() if k not in TARGETS
    }
    run = merge_recipes.Recipes(workdir, config, [12, 20, 32, 40], "raw")
    sources, quality = run.synthesize(TARGETS[name])
    assert {s.weights for s in sources} == {"raw", "ema25", "uniform", "narrow", "wide"}
    plan = merging.Plan(str(workdir), {}, tuple(sources), quality)
    # Two running means give a window exactly.
    least, most = dict(inside=(1e-4, 0.05), last=(0.0, 1e-12))[name]
    assert least < quality["error"] < most
    exact = _weights(workdir, STEPS, name, like)
    # Weights drift slowly, and so the result is better than the error for noise.
    assert _difference(merging.merge(plan), exact) < 1e-3
    assert _difference(_weights(workdir, STEPS, "raw", like), exact) > 5e-3
    average = averaging.build({"a": TARGETS[name]})["a"]
    kernel = averaging.kernel(average, STEPS)
    error = np.linalg.norm(plan.kernel()[1:] - kernel) / np.linalg.norm(kernel)
    np.testing.assert_allclose(error, quality["error"], rtol=1e-6, atol=1e-12)


def test_a_synthesis_that_was_tracked_is_found_exactly(workdir):
    plan = merging.plan(workdir, dict(name="synthesize", target=TARGETS["inside"]))
    largest = max(plan.sources, key=lambda source: source.coefficient)
    assert (largest.step, largest.weights) == (STEPS, "inside")
    assert plan.quality["error"] < 1e-9


def test_a_window_is_the_tail_that_was_tracked(workdir, like):
    plan = merging.plan(workdir, dict(name="window", start=20, stop=STEPS))
    assert [(s.step, s.weights) for s in plan.sources] == [
        (20, "uniform"),
        (40, "uniform"),
    ]
    merged = merging.merge(plan)
    assert _difference(merged, _weights(workdir, STEPS, "last", like)) < 1e-6
    kernel = np.zeros(STEPS + 1)
    kernel[21:] = 1 / 20
    np.testing.assert_allclose(plan.kernel(), kernel, atol=1e-12)
    assert 0 < plan.quality["error"] < 1e-5
    # Where the worst case is too much, how far the weights are decides.
    tight = merging.plan(workdir, dict(name="window", start=20, stop=STEPS, limit=1e-6))
    assert tight.quality["error"] < 1e-6 < plan.quality["error"]
    with pytest.raises(ValueError, match="rounding of the running means"):
        merging.plan(workdir, dict(name="window", start=20, stop=STEPS, limit=1e-9))


@pytest.fixture(scope="module")
def written(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "new" / "merged"
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    recipe = dict(name="quadratic_accurate", shape="cosine")
    plan = merging.plan(workdir, recipe, steps=[32, 36, 40], weights="ema25")
    merging.write(plan, out)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    return out, plan


def test_a_merge_is_a_snapshot_with_its_provenance(written, workdir, like):
    out, plan = written
    assert snapshots.stored_steps(out) == [40]
    assert snapshots.stored_weights(out, 40) == ["raw"]
    items = {p.name for p in (out / "snapshots" / "40").iterdir() if p.is_dir()}
    assert items == {"raw", "meta"}  # no optimizer: it would not be of these weights
    assert _difference(_weights(out, 40, "raw", like), merging.merge(plan)) == 0
    meta = snapshots.read_meta(out, 40)
    assert meta["step"] == 40
    assert meta["sequences"] == 40 * 8
    assert meta["merge"]["workdir"] == str(workdir)
    assert meta["merge"]["recipe"] == dict(name="quadratic_accurate", shape="cosine")
    sources = merging.sources_of(meta["merge"])
    assert sources == plan.sources
    assert sources[0].average == dict(name="age_ema", divisor=25.0)
    np.testing.assert_array_equal(merging.kernel(sources), plan.kernel())
    config = json.loads((out / "config.json").read_text())
    changed = {"averages": {}, "merge": meta["merge"]}
    assert config == {**config_file.read(workdir), **changed}
    assert (config["merge"]["step"], config["merge"]["span"]) == (40, 12)
    assert metrics.read(out) == []
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("recipe", "steps", "span"),
    [
        (dict(name="uniform"), [24, 28, 32, 36, 40], 20),
        (dict(name="given", coefficients=[-1, 0, 2]), [32, 36, 40], 12),
        (dict(name="uniform"), [16, 36, 40], 36),
        (dict(name="uniform"), [40], None),
        (dict(name="window", start=20, stop=40), None, 20),
        (dict(name="synthesize", target=TARGETS["inside"]), None, None),
    ],
)
def test_a_merge_is_about_its_last_updates(workdir, recipe, steps, span):
    assert merging.plan(workdir, recipe, steps=steps).span == span


def test_a_merge_is_not_merged_again(written):
    with pytest.raises(ValueError, match="is a merge itself; give the run it comes fr"):
        merging.plan(written[0], dict(name="uniform"))


def test_a_merge_may_be_sharded(written):
    _, plan = written
    place = jax.NamedSharding(sharding.make_mesh(), jax.P())
    placed = merging.merge(plan, place)
    assert all(leaf.sharding == place for leaf in jax.tree.leaves(placed))
    assert _difference(placed, merging.merge(plan)) == 0


def test_a_shape_may_be_a_function(workdir):
    recipe = dict(name="from_decay", shape=lambda x: 1 - x)
    plan = merging.plan(workdir, recipe, steps=[36, 40])
    assert [source.coefficient for source in plan.sources] == [0.5, 0.5]
    assert "<lambda>" in plan.to_json()["recipe"]["shape"]


def test_nothing_is_overwritten(written, workdir):
    out, plan = written
    for there in (out, workdir, out / "config.json"):
        with pytest.raises(ValueError, match=r"out=.* exists; a merge is written to a"):
            merging.write(plan, there)


def test_a_merge_is_not_a_run_to_go_on_with(written):
    out, _ = written
    config = small.config(model__layers=1, duration__steps=STEPS)
    with pytest.raises(ValueError, match=r"is a merge, whose weights have no opt"):
        preparing.prepare(config, out)


def test_an_average_that_started_late_has_its_own_clock(workdir):
    config = config_file.read(workdir)
    source = merge_recipes.stored_source(workdir, config, 40, "ema25")
    assert (source.start, source.every, source.tokens) == (0, 1, 1)
    late = dataclasses.replace(source, start=30)
    kernel = merging.kernel([late])
    assert not kernel[:30].any()
    expected = averaging.kernel(averaging.age_ema(divisor=25.0), 10)
    np.testing.assert_allclose(kernel[31:], expected, rtol=1e-12)
    np.testing.assert_allclose(kernel[30], 1 - expected.sum(), atol=1e-12)


def test_stored_weights_have_the_loss_that_was_recorded(workdir, written):
    recorded = {
        key.removeprefix("horizon/loss/"): value
        for record in metrics.read(workdir)
        for key, value in record.items()
        if key.startswith("horizon/loss/") and record["step"] == STEPS
    }
    assert len(recorded) == 7
    found = training.evaluate(workdir)
    assert list(found) == snapshots.stored_weights(workdir, STEPS)
    assert found.keys() == recorded.keys()
    for name in found:
        np.testing.assert_allclose(found[name], recorded[name], rtol=1e-5)
    some = training.evaluate(workdir, 20, ["ema25"])
    assert list(some) == ["ema25"]
    assert some["ema25"] != found["ema25"]
    # A merge of averages of neighbouring steps is near them.
    merged = training.evaluate(written[0])
    assert abs(merged["raw"] - found["ema25"]) < 0.1


@pytest.mark.parametrize(
    ("mesh", "rows", "devices"),
    [
        (dict(data=2, fsdp=2, tensor=2), 8, 8),
        (dict(data=-1, fsdp=1, tensor=1), 6, 6),
        (dict(data=64, fsdp=1, tensor=1), 5, 5),
        (dict(data=64, fsdp=1, tensor=1), 9, 3),
    ],
)
def test_evaluation_needs_no_device_of_the_run(mesh, rows, devices):
    config = dict(mesh=mesh, evaluation=dict(batch_size=rows))
    assert stored._mesh(config).size == devices


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, [5, 8, 10, 15, 20]),
        (dict(every=5), [5, 10, 15, 20]),
        (dict(latest=2), [15, 20]),
        (dict(start=8, stop=15), [10, 15]),
        (dict(every=5, stop=15, latest=2), [10, 15]),
    ],
)
def test_steps_are_chosen(arguments, steps):
    assert merging.choose([5, 8, 10, 15, 20], **arguments) == steps


def test_steps_that_are_not_there_are_not_chosen():
    with pytest.raises(
        ValueError, match=r"latest=4 must be at most 3, .* stored steps 1, 2, 3$"
    ):
        merging.choose([1, 2, 3], latest=4)
    with pytest.raises(
        ValueError, match=r"at most 0, which is what start=3, stop=9 leave"
    ):
        merging.choose([1, 2, 3], start=3, stop=9)


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        (
            dict(name="uniformly"),
            {},
            "recipe.name='uniformly' is unknown; known are em",
        ),
        (
            dict(name="ema", beta=1),
            {},
            "recipe.beta=1 is not an argument of ema; known",
        ),
        (dict(name="ema", alpha=2), {}, "recipe 'ema': alpha=2 must be in"),
        (dict(name="from_decay"), {}, "recipe 'from_decay' needs recipe.shape"),
        (
            dict(name="from_decay", shape="round"),
            dict(steps=[4, 8]),
            "recipe 'from_decay': shape='round' must be one of linear",
        ),
        (
            dict(name="quadratic_accurate", shape="linear"),
            dict(steps=[4, 8, 16]),
            "steps=4, 8, 16 must be evenly spaced",
        ),
        (dict(name="uniform"), dict(steps=[8, 4]), "steps=8, 4 must be dif"),
        (dict(name="uniform"), dict(steps=[]), "steps=none must be diff"),
        (dict(name="uniform"), dict(steps=[5]), "no snapshot of step 5; stored are 4"),
        (dict(name="uniform"), dict(weights="ema1"), "has no weights ema1; it has em"),
        (dict(name="given", coefficients=[1]), dict(steps=[4, 8]), "must be 2 numbers"),
        (dict(name="window", start=4, stop=5), {}, "no snapshot of step 5; stored are"),
        (
            dict(name="synthesize", target=dict(name="power", gamma=-2)),
            {},
            "target 'power': gamma=-2 must be above -1",
        ),
        (
            dict(name="synthesize", target=dict(name="tail", start=33)),
            dict(steps=[4, 36]),
            r"relative error of .*, above limit=0.05",
        ),
    ],
)
def test_bad_recipes_are_named(workdir, recipe, arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        merging.plan(workdir, recipe, **arguments)
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_run_or_without_a_mean(tmp_path, workdir):
    with pytest.raises(ValueError, match="holds no run"):
        merging.plan(tmp_path, dict(name="uniform"))
    config = config_file.read(workdir) | {"averages": {}}
    run = merge_recipes.Recipes(workdir, config, [20, 40], "raw")
    with pytest.raises(
        ValueError, match=r"needs a uniform average, and .* tracks none"
    ):
        run.window(20, 40)
