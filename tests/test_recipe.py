"""From a config to a run: its steps, and one line for everything that is wrong."""

import jax
import numpy as np
import pytest

from anytime_jax.training import config_file, recipe
from tests import small


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """The folder of a trunk of 12 steps, without the weights of its snapshots."""
    workdir = tmp_path_factory.mktemp("trunk")
    config = small.config()
    config_file.write(config, recipe.build(config).resolved(), workdir)
    for step in (9, 10, 12):
        (workdir / "snapshots" / str(step)).mkdir(parents=True)
    return workdir


def cooldown(trunk, **overrides):
    branch = dict(branch__workdir=str(trunk), branch__step=9, schedule__steps=3)
    return small.config("cooldown", **branch | overrides)


def test_a_plan_is_the_recipes_and_needs_no_data(trunk):
    for config in (small.config(), small.config("wsd"), cooldown(trunk)):
        made, plan = recipe.build(config), recipe.plan(config)
        for name in ("parameters", "tokens_per_step", "start_step", "total_steps"):
            assert getattr(plan, name) == getattr(made, name)
        assert plan.horizons == made.horizons
    assert plan.schedule(9) == np.float32(1e-2) and plan.schedule(12) == 0
    without_data = small.config(data__source="files:/nowhere/*.txt")
    assert recipe.plan(without_data).total_steps == small.STEPS
    with pytest.raises(ValueError, match="nowhere"):
        recipe.build(without_data)


def test_a_schedule_in_tokens_knows_those_of_a_step(tmp_path):
    with (config := small.config()).unlocked():
        config.schedule = dict(name="power_scheduler")
    expected = 128 / 4096 * 4 * (np.arange(1, 13) * 128.0) ** -0.51
    rates = recipe.plan(config).schedule(np.arange(1, 13))
    np.testing.assert_allclose(rates, np.minimum(0.02, expected), rtol=1e-5)
    config_file.write(config, recipe.build(config).resolved(), tmp_path)
    (tmp_path / "snapshots" / "9").mkdir(parents=True)
    branch = recipe.plan(cooldown(tmp_path, schedule__final_fraction=1.0)).schedule
    np.testing.assert_allclose(branch(np.arange(1, 10)), rates[:9], rtol=1e-5)


def test_steps_of_a_trunk():
    made = recipe.build(
        small.config(
            duration__steps=1000,
            horizons__steps=(100, 400, 2000),
            snapshots=dict(every=250, latest_every=40),
            evaluation__points=20,
        )
    )
    assert (made.start_step, made.total_steps, made.tokens_per_step) == (0, 1000, 128)
    assert made.horizons == (100, 400, 1000)
    assert made.branch_starts == (80, 90, 320, 360, 800, 900)
    kept = {80, 90, 100, 250, 320, 360, 400, 500, 750, 800, 900, 1000}
    assert {step for step in range(1, 1001) if made.keeps(step)} == kept
    latest = set(range(40, 1001, 40))
    assert {step for step in range(1, 1001) if made.saves(step)} == kept | latest


def test_evaluations_are_log_spaced_from_the_first_step_to_the_last():
    made = recipe.build(
        small.config(duration__steps=10**6, horizons__steps=(1,), evaluation__points=20)
    )
    steps = np.array(made.evaluations)
    assert (steps[0], steps[-1], len(steps)) == (1, 10**6, 20)
    ratios = steps[9:] / steps[8:-1]
    np.testing.assert_allclose(ratios, 10 ** (6 / 19), rtol=2e-3)


def test_durations_in_chinchilla_and_the_default_distance_of_snapshots():
    made = recipe.build(
        small.config(
            duration=dict(steps=0, chinchilla=2.0),
            horizons=dict(steps=(), chinchilla=(1.0, 2.0)),
            snapshots__every=0,
        )
    )
    # 2 layers of 4 D^2 for attention, 8 D^2 for the MLP and 2 D + 2 K of norms; a norm.
    non_embedding = 2 * (12 * 16**2 + 2 * 16 + 2 * 8) + 16
    assert made.parameters == dict(embedding=512, non_embedding=non_embedding)
    once = 20 * non_embedding / 128
    assert made.horizons == (round(once), round(2 * once))
    assert made.snapshot_every == round(once / 4)


def test_a_snapshot_after_every_step_where_a_quarter_of_1x_is_less_than_one():
    made = recipe.build(
        small.config(batch_size=8192, snapshots__every=0, evaluation__batch_size=8)
    )
    assert made.snapshot_every == 1


def test_a_branch_goes_on_from_its_step(trunk):
    made = recipe.build(cooldown(trunk))
    assert (made.start_step, made.total_steps) == (9, 12)
    assert made.horizons == (12,)
    assert made.branch_starts == ()
    assert made.evaluations == (10, 11, 12)


def test_what_a_run_came_to_fits_into_json(trunk):
    resolved = config_file.read(trunk)["resolved"]
    assert resolved["horizons"] == [6, 12]
    assert resolved["parameters"]["embedding"] == 512
    assert (resolved["start_step"], resolved["total_steps"]) == (0, 12)


def test_tracking_reaches_the_averages():
    made = recipe.build(small.config(tracking__every=2, tracking__compensated=True))
    params = dict(w=jax.numpy.ones(3))
    _, state = made.optimizer.update(params, made.optimizer.init(params), params)
    # Not a multiple of `every`, so the averages are still what they started as.
    for average in state.averages.values():
        np.testing.assert_array_equal(average.value["w"], 1.0)
        assert average.compensation["w"].shape == (3,)


BAD = [
    (dict(seed=-1), r"seed=-1 must be a whole number from 0 to 4294967295"),
    (dict(seed=2**32), r"seed=4294967296 must be a whole number from 0"),
    (dict(sequence_length=0), r"sequence_length=0 must be a whole number from 1"),
    (dict(batch_size=-8), r"batch_size=-8 must be a whole number from 1"),
    (dict(batch_size=12), r"batch_size / accumulation=12 must be a multiple of the 8"),
    (dict(accumulation=3), r"accumulation=3 must divide batch_size=8"),
    (dict(accumulation=2), r"batch_size / accumulation=4 must be a multiple of the 8"),
    (dict(clip_norm=0.0), r"clip_norm=0.0 must be a finite number above 0"),
    (dict(logging__every=0), r"logging.every=0 must be a whole number from 1 to"),
    (dict(snapshots__every=-1), r"snapshots.every=-1 must be a whole number from 0"),
    (dict(snapshots__latest_every=-1), r"snapshots.latest_every=-1 must be a whole"),
    (
        dict(evaluation__points=0),
        r"evaluation.points=0 must be a whole number from 1 to",
    ),
    (dict(evaluation__batch_size=9), r"evaluation.batch_size=9 must be a multiple"),
    (dict(evaluation__batches=3), r"batches=3 .* at most evaluation.horizon_batches=2"),
    (dict(mesh__fsdp=3), r"mesh.data=-1, mesh.fsdp=3, .* multiply to the 8 devices"),
    (dict(mesh__tensor=8), r"mesh.tensor=8 must divide the dimension 2 of params/"),
    (dict(model__name="mixture"), r"model.name='mixture' is unknown; known are deco"),
    (dict(model__width=18), r"width=18 must be a multiple of 2 \* heads = 4"),
    (dict(model__mlp="relu"), r"mlp='relu' must be one of gelu, swiglu"),
    (dict(data__source="web"), r"data.source='web' is unknown; known are 'corpus'"),
    (dict(schedule__name="cosin"), r"schedule.name='cosin' is unknown; .* cosine"),
    (dict(schedule__peak=-1.0), r"schedule 'constant': peak=-1.0 must be a finite"),
    (
        dict(schedule=dict(name="constant", peak=0.1, offset=3)),
        r"schedule.offset=3 is not an argument of constant; known are peak",
    ),
    (dict(schedule=dict(name="constant")), r"schedule 'constant' needs schedule.peak"),
    (dict(optimizer__name="adamm"), r"optimizer.name='adamm' is not an optax optim"),
    (dict(optimizer__name="chain"), r"optimizer.name='chain' is not an optax optim"),
    (dict(optimizer=dict(b1=0.9)), r"optimizer.name=None is not an optax optimizer"),
    (
        dict(optimizer=dict(name="sgd", b1=0.9)),
        r"optimizer.b1=0.9 is not an argument of sgd; known are .*momentum",
    ),
    (
        dict(optimizer=dict(name="adam", b1="high")),
        r"optimizer.b1='high' must be a number, at least 0 and be",
    ),
    (
        dict(optimizer=dict(name="lbfgs")),
        r"optimizer={'name': 'lbfgs'} cannot be used: .* 'value'",
    ),
    (dict(averages=dict(raw=dict(name="uniform"))), r"name 'raw' must match .* not be"),
    (dict(averages=dict(E=dict(name="uniform"))), r"name 'E' must match \[a-z\]"),
    (dict(averages__ema25__name="ema_25"), r"averages.ema25.name='ema_25' is unknown"),
    (dict(averages__ema25__divisor=-1.0), r"ema25 'age_ema': divisor=-1.0 must be pos"),
    (dict(tracking__every=0), r"tracking.every=0 must be a whole number from 1"),
    (dict(tracking__dtype="float16"), r"tracking.dtype='float16' must be one of"),
    (dict(duration__steps=0), r"duration has no value: give exactly one of steps, "),
    (dict(duration__tokens=99), r"duration has .*steps=12.*tokens=99.*: give exactly"),
    (
        dict(horizons__chinchilla=(1.0,)),
        r"horizons has chinchilla=\(1.0,\), steps=\(6, 12\): give exactly one",
    ),
    (dict(horizons__steps=(3, 0)), r"horizons.steps=\(3, 0\) must be at least one st"),
    (
        dict(branch__workdir="runs/trunk"),
        r"branch.workdir='runs/trunk' and schedule.name='constant': a branch has",
    ),
    (dict(branch__step=5), r"branch={.*'step': 5.*} needs the workdir of a trunk"),
    (dict(branch__averages="freeze"), r"branch={.*'freeze'.*} needs the workdir of"),
    (
        dict(
            tracking__time="tokens", averages=dict(p=dict(name="polynomial", eta=1.0))
        ),
        r"^averages\['p'\]=polynomial\(eta=1.0\) has no closed form",
    ),
    (
        dict(schedule=dict(name="cooldown", steps=3)),
        r"branch.workdir='' and schedule.name='cooldown': .* a cooldown has a branch",
    ),
]


@pytest.mark.parametrize(
    ("overrides", "message"), BAD, ids=lambda value: str(value)[:50]
)
def test_every_bad_value_gets_one_line(overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        recipe.build(small.config(**overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            dict(branch__workdir="nowhere"),
            r"nowhere holds no run: there is no .*config",
        ),
        (dict(schedule__steps=0), r"schedule.steps=0 must be a whole number, at least"),
        (dict(schedule__shape="round"), r"schedule 'cooldown': shape='round'"),
        (dict(duration__steps=3), r"duration={.*'steps': 3.*} must be left at 0 in a"),
        (
            dict(model__layers=3),
            r"these differ from branch.workdir='.*': model.layers=3 \(was 2\)$",
        ),
        (
            dict(seed=1, model__width=32),
            r"branch.workdir='.*': model.width=32 \(was 16\), seed=1 \(was 0\)$",
        ),
    ],
    ids=str,
)
def test_every_bad_branch_gets_one_line(trunk, overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        recipe.build(cooldown(trunk, **overrides))
    assert "\n" not in str(caught.value)


def test_a_branch_of_a_branch_is_refused(trunk, tmp_path):
    config = cooldown(trunk)
    config_file.write(config, recipe.build(config).resolved(), tmp_path)
    with pytest.raises(
        ValueError, match=rf"a branch itself; give its trunk, '{trunk}'"
    ):
        recipe.build(cooldown(tmp_path))
