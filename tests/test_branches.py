"""Branches: what becomes of the trunk's averages, and what cannot be branched off."""

import json
import shutil

import numpy as np
import pytest

from anytime_jax import averaging, training
from anytime_jax.training import (
    branches,
    config_file,
    merge_recipes,
    metrics,
    snapshots,
    stored,
)
from tests import small
from tests.small import stored_weights as weights

START, STEPS = 4, 3  # of the branch


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trunk")
    config = small.config(duration__steps=5, horizons__steps=(5,), snapshots__every=1)
    training.train(config, workdir)
    return workdir


def branch(trunk, **overrides):
    options = dict(
        branch__workdir=str(trunk),
        branch__step=START,
        schedule__steps=STEPS,
        horizons__steps=(5,),
        snapshots__every=1,
    )
    return small.config("cooldown", **options | overrides)


@pytest.fixture(scope="module")
def runs(trunk, tmp_path_factory):
    """One branch of each choice; that which restarts has averages of its own."""
    own = {
        "uniform": {"name": "uniform"},
        "ema25": {"name": "age_ema", "divisor": 25.0},
    }
    folders = {}
    for choice in ("restart", "continue", "freeze"):
        folders[choice] = tmp_path_factory.mktemp(choice)
        averages = own if choice == "restart" else {}
        config = branch(trunk, branch__averages=choice, averages=averages)
        training.train(config, folders[choice])
    return folders


def kernel_applied(average, trajectory):
    """An average of theta_0 ... theta_T, from its kernel, in float64."""
    coefficients = averaging.kernel(average, len(trajectory) - 1)
    coefficients = np.append(1 - coefficients.sum(), coefficients)
    return coefficients @ np.asarray(trajectory, np.float64)


def test_a_continued_average_remembers_the_trunk(trunk, runs):
    path = [weights(trunk, step, "raw") for step in range(1, START + 1)]
    path += [
        weights(runs["continue"], START + step, "raw") for step in range(1, STEPS + 1)
    ]
    last = START + STEPS
    # `uniform` has forgotten theta_0, which is not stored, and so has no need of it.
    np.testing.assert_allclose(
        weights(runs["continue"], last, "uniform"),
        np.mean(path, axis=0, dtype=np.float64),
        rtol=1e-5,
        atol=1e-7,
    )
    assert snapshots.restore_count(runs["continue"], last, "uniform") == last
    written = json.loads((runs["continue"] / "config.json").read_text())
    assert written["averages"] == config_file.read(trunk)["averages"]


def test_a_restarted_average_starts_at_the_branch(trunk, runs):
    path = [weights(trunk, START, "raw")]
    path += [
        weights(runs["restart"], START + step, "raw") for step in range(1, STEPS + 1)
    ]
    for name, average in dict(
        uniform=averaging.uniform(), ema25=averaging.age_ema(divisor=25)
    ).items():
        np.testing.assert_allclose(
            weights(runs["restart"], START + STEPS, name),
            kernel_applied(average, path),
            rtol=1e-5,
            atol=1e-7,
        )
    assert snapshots.restore_count(runs["restart"], START + STEPS, "ema25") == STEPS


def test_a_frozen_average_is_the_trunks_bit_for_bit(trunk, runs):
    for name in ("uniform", "ema25"):
        expected = weights(trunk, START, name)
        for step in (START + 1, START + STEPS):
            actual = weights(runs["freeze"], step, name)
            np.testing.assert_array_equal(actual, expected)
        count = snapshots.restore_count(runs["freeze"], START + STEPS, name)
        assert count == START


def test_the_choice_changes_no_weights(runs):
    raw = [weights(folder, START + STEPS, "raw") for folder in runs.values()]
    np.testing.assert_array_equal(raw[0], raw[1])
    np.testing.assert_array_equal(raw[0], raw[2])


def test_every_average_of_a_branch_is_evaluated(runs):
    for folder in runs.values():
        losses = stored.evaluate(folder)
        assert sorted(losses) == ["ema25", "raw", "uniform"]
        records = metrics.read(folder)
        horizon = [r for r in records if "horizon/loss/raw" in r][-1]
        for name, loss in losses.items():
            np.testing.assert_allclose(horizon[f"horizon/loss/{name}"], loss, rtol=1e-5)


def test_an_interrupted_branch_goes_on_with_what_it_took_over(trunk, runs, tmp_path):
    shutil.copytree(runs["continue"], tmp_path, dirs_exist_ok=True)
    for step in (START + 2, START + 3):
        shutil.rmtree(tmp_path / "snapshots" / str(step))
    training.train(branch(trunk, branch__averages="continue"), tmp_path)
    for name in ("raw", "uniform", "ema25"):
        np.testing.assert_array_equal(
            weights(tmp_path, START + STEPS, name),
            weights(runs["continue"], START + STEPS, name),
        )


def test_merges_know_what_a_branch_took_over(trunk, runs):
    def kernel(workdir, name):
        config = config_file.read(workdir)
        source = merge_recipes.stored_source(workdir, config, START + STEPS, name)
        return merge_recipes.kernel([source])

    last = START + STEPS
    np.testing.assert_allclose(
        kernel(runs["continue"], "uniform"), [0, *[1 / last] * last]
    )
    expected = [0] * (START + 1) + [1 / STEPS] * STEPS
    np.testing.assert_allclose(kernel(runs["restart"], "uniform"), expected)
    with pytest.raises(ValueError, match=r"'uniform' of .* was frozen .* take it from"):
        kernel(runs["freeze"], "uniform")
    frozen = merge_recipes.stored_kernel(
        runs["freeze"], config_file.read(runs["freeze"]), last, "uniform"
    )
    expected = [0, *[1 / START] * START, *[0] * STEPS]
    np.testing.assert_allclose(frozen, expected, atol=1e-15)
    # A synthesis takes what is left, and continued averages reach back to step 0.
    target = dict(name="power", gamma=4.0)
    plans = {
        choice: training.merging.plan(
            folder, dict(name="synthesize", target=target, limit=10.0)
        )
        for choice, folder in runs.items()
    }
    assert {source.weights for source in plans["freeze"].sources} == {"raw"}
    assert plans["continue"].kernel()[1] > 0 == plans["restart"].kernel()[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            dict(branch__averages="keep"),
            r"branch.averages='keep' must be one of res",
        ),
        (
            dict(branch__averages="continue", tracking__every=2),
            r"these differ from branch.workdir=.*: tracking.every=2 \(was 1\)$",
        ),
        (
            dict(
                branch__averages="freeze",
                averages={"ema25": {"name": "age_ema", "divisor": 9.0}},
            ),
            r"averages.ema25={'divisor': 9.0, .* differs .* takes over: {'divi",
        ),
        (
            dict(branch__averages="continue", branch__step=2**20),
            r"branch.step=1048576 has no snapshot in branch.workdir",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_taken_over(trunk, overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        training.prepare(branch(trunk, **overrides), "unused")
    assert "\n" not in str(caught.value)


def test_the_choice_of_a_branch_that_has_started_stays(trunk, runs):
    for before, now in (("restart", "freeze"), ("freeze", "continue")):
        config = branch(trunk, branch__averages=now)
        with pytest.raises(ValueError, match=rf"averages='{now}' \(was '{before}'\)"):
            training.prepare(config, runs[before])


def test_own_averages_stand_beside_those_taken_over(trunk):
    config = branch(
        trunk, branch__averages="continue", averages={"new": {"name": "uniform"}}
    )
    made = branches.with_averages(config, "unused")
    assert sorted(made.averages) == ["ema25", "new", "uniform"]
    assert branches.taken_over(made) == {"ema25", "uniform"}
    assert branches.frozen(made) == set()
    assert sorted(config.averages) == ["new"]


def test_a_merge_can_neither_be_branched_off_nor_trained(trunk, tmp_path):
    plan = training.merging.plan(trunk, dict(name="uniform"), steps=[START, START + 1])
    training.merging.write(plan, tmp_path / "merge")
    config = branch(tmp_path / "merge", branch__averages="restart")
    config.branch.step = START + 1
    with pytest.raises(ValueError, match=r"branch.workdir='.*merge' is a merge, whose"):
        training.prepare(config, "unused")
    trained = small.config(duration__steps=5, horizons__steps=(5,), snapshots__every=1)
    with pytest.raises(ValueError, match=r"workdir=.*merge is a merge, whose"):
        training.prepare(trained, tmp_path / "merge")


def test_in_tokens_a_continued_average_may_change_its_batch_size(tmp_path):
    options = dict(
        tracking__time="tokens", horizons__steps=(5,), snapshots__every=1, seed=1
    )
    source, folder = tmp_path / "trunk", tmp_path / "branch"
    training.train(small.config(duration__steps=START, **options), source)
    config = branch(source, branch__averages="continue", batch_size=16, **options)
    training.train(config, folder)
    # Everything that is not the first weights, which no snapshot holds.
    path = [weights(source, step, "raw") for step in range(1, START + 1)]
    path += [weights(folder, START + step, "raw") for step in range(1, STEPS + 1)]
    path, last = np.asarray(path, np.float64), START + STEPS
    written = config_file.read(folder)
    for name in ("uniform", "ema25"):
        kernel = merge_recipes.stored_kernel(folder, written, last, name)
        assert kernel[0] < 1e-9
        stored_weights = weights(folder, last, name)
        np.testing.assert_allclose(
            stored_weights, kernel[1:] @ path, rtol=1e-5, atol=1e-7
        )
    tokens = np.repeat([8, 16], [START, STEPS])
    window = training.merging.plan(folder, dict(name="window", start=5, stop=7))
    np.testing.assert_allclose(window.kernel()[5:], [0, 0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(
        merge_recipes.stored_kernel(folder, written, last, "uniform")[1:],
        tokens / tokens.sum(),
    )
    # A target that was tracked, in the same time and from the same start, is found.
    target = dict(name="age_ema", divisor=25.0)
    found = training.merging.plan(folder, dict(name="synthesize", target=target))
    assert found.quality["error"] < 1e-9


def test_what_was_taken_over_does_not_change_with_the_trunk(trunk, tmp_path):
    source, folder = tmp_path / "trunk", tmp_path / "branch"
    shutil.copytree(trunk, source)
    own = dict(new=dict(name="uniform"))
    config = branch(source, branch__averages="freeze", averages=own)
    training.train(config, folder)
    before = weights(folder, START + STEPS, "new")
    # The trunk gains an average of that name, the branch is interrupted.
    content = json.loads((source / "config.json").read_text())
    content["averages"]["new"] = dict(name="age_ema", divisor=9.0)
    (source / "config.json").write_text(json.dumps(content))
    for step in (START + 2, START + 3):
        shutil.rmtree(folder / "snapshots" / str(step))
    training.train(config, folder)
    np.testing.assert_array_equal(weights(folder, START + STEPS, "new"), before)
    # Gone altogether, it is not needed to know what the branch remembers.
    shutil.rmtree(source)
    written = config_file.read(folder)
    for name, step in dict(new=START, ema25=0).items():
        kernel = merge_recipes.stored_kernel(folder, written, START + STEPS, name)
        assert not kernel[:step].any() and kernel[step : step + 3].any()
    plan = training.merging.plan(folder, dict(name="uniform"), weights="new")
    assert {source.weights for source in plan.sources} == {"new"}
