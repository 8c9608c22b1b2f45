"""Runs whole trainings of a few steps: interrupted, branched, diverging, complete."""

import functools
import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

from anytime_jax import schedules, training
from anytime_jax.data import pipeline
from anytime_jax.training import lock, metrics, preparing, snapshots
from tests import small

SHARES = ("data", "evaluation", "snapshot")


class Interrupting(metrics.Writer):
    """A writer that calls a function instead of writing at one step."""

    def __init__(self, workdir, at, interrupt, resume_step=0):
        super().__init__(workdir, resume_step)
        self._at, self._interrupt = at, interrupt

    def write_scalars(self, step, scalars):
        if step == self._at:
            self._interrupt()
        super().write_scalars(step, scalars)


class Killed(Exception):
    """Stands for a process that is gone, once its snapshots are written."""


def kill():
    raise Killed


@functools.cache
def shapes_of_weights():
    recipe = preparing.prepare(small.config(), "unused").recipe
    return jax.eval_shape(recipe.model.init, jax.random.key(0))


def final_weights(workdir, name="raw"):
    step = snapshots.stored_steps(workdir)[-1]
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes_of_weights(),
    )
    return jax.device_get(snapshots.restore_weights(workdir, step, name, like))


def assert_same_run(one, other):
    assert small.records(one) == small.records(other)
    for name in ("raw", "ema25", "uniform"):
        jax.tree.map(
            np.testing.assert_array_equal,
            final_weights(one, name),
            final_weights(other, name),
        )


def listing(workdir):
    """Every file of a folder with its content."""
    return {
        path.relative_to(workdir): path.read_bytes()
        for path in sorted(pathlib.Path(workdir).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def compiled():
    """The names of what XLA has compiled for the run `finished`."""
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compiled):
    workdir = tmp_path_factory.mktemp("finished")
    with small.compilations() as names:
        training.run(training.prepare(small.config(), workdir), profile=True)
    compiled.extend(names)
    return workdir


def test_records_and_snapshots(finished):
    by_key = {}
    for record in small.records(finished):
        for key in record:
            by_key.setdefault(key, []).append(record["step"])
    names = ["raw", *small.config().averages]
    assert by_key["train/loss"] == [2, 4, 6, 8, 10, 12]
    for name in names:
        assert by_key[f"eval/loss/{name}"] == [1, 3, 12]
        assert by_key[f"horizon/loss/{name}"] == [6, 12]
    # Horizons 6 and 12, branch starts 4, 5, 9 and 10, and multiples of 5.
    assert snapshots.stored_steps(finished) == [4, 5, 6, 9, 10, 12]


def test_a_run_compiles_its_step_once_and_its_evaluation_for_each_set(
    finished, compiled
):
    assert compiled.count("jit(train_step)") == 1
    # For the small and for the large set of batches, and for all weights alike.
    assert compiled.count("jit(evaluate)") == 2


def test_the_time_is_shared_out(finished):
    times = [record for record in metrics.read(finished) if "train/loss" in record]
    for record in times:
        shares = [record[f"time/{key}"] for key in ("step", *SHARES)]
        assert min(shares) >= 0
        assert sum(shares) == pytest.approx(1.0)
    for key in SHARES:
        assert max(record[f"time/{key}"] for record in times) > 0, key


def test_a_profile_of_a_few_steps_is_left(finished):
    assert len(list((finished / "profile").rglob("*.xplane.pb"))) == 1


def test_the_logged_learning_rate_was_the_schedules(finished):
    schedule = schedules.constant(peak=1e-2, warmup_steps=2)
    for record in small.records(finished):
        if "train/learning_rate" in record:
            expected = np.float32(schedule(record["step"] - 1))
            assert np.float32(record["train/learning_rate"]) == expected


def test_config_json_tells_what_ran(finished):
    written = json.loads((finished / "config.json").read_text())
    assert written["schedule"]["name"] == "constant"
    assert written["resolved"]["total_steps"] == small.STEPS
    assert written["resolved"]["data"]["entropy"] > 0


def test_a_complete_run_is_left_alone(finished):
    before = listing(finished)
    training.train(small.config(), finished)
    assert listing(finished) == before


@pytest.mark.parametrize("at", [1, 4, 8, 12])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(finished, tmp_path, at):
    writer = Interrupting(tmp_path, at, kill)
    with pytest.raises(Killed):
        training.train(small.config(), tmp_path, writer)
    training.train(small.config(), tmp_path)
    assert_same_run(tmp_path, finished)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on(finished, tmp_path, number):
    # Once: there is more than one record of the step.
    numbers = iter([number])
    writer = Interrupting(
        tmp_path, 6, lambda: [os.kill(os.getpid(), one) for one in numbers]
    )
    told = rf"^stopped by {number.name} after step [67], which is saved in {tmp_path}; "
    with pytest.raises(training.Preempted, match=told) as caught:
        training.train(small.config(), tmp_path, writer)
    assert caught.value.signal == number
    assert snapshots.stored_steps(tmp_path)[-1] in (6, 7)
    training.train(small.config(), tmp_path)
    assert_same_run(tmp_path, finished)


def test_a_folder_in_use_is_refused_and_left_alone(finished, tmp_path):
    shutil.copytree(finished / "snapshots", tmp_path / "snapshots")
    shutil.rmtree(tmp_path / "snapshots" / "12")
    shutil.copy(finished / "config.json", tmp_path)
    with lock.hold(tmp_path):
        before = listing(tmp_path)
        with pytest.raises(lock.InUse, match=f"in use by process {os.getpid()} on"):
            training.train(small.config(), tmp_path)
        assert listing(tmp_path) == before


def test_an_ended_run_leaves_no_lock(finished):
    assert not (finished / lock.FILE).exists()


def test_a_bucket_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^workdir=gs://bucket/run must be a folder"):
        training.prepare(small.config(), "gs://bucket/run")
    branch = small.config(branch__workdir="gs://a/run")
    with pytest.raises(ValueError, match=r"^branch.workdir=gs://a/run must be a"):
        training.prepare(branch, "run")
    assert not list(tmp_path.iterdir())


def test_a_trunk_can_be_made_longer(finished, tmp_path):
    shorter = small.config(duration__steps=6)
    training.train(shorter, tmp_path)
    training.train(small.config(), tmp_path)
    for name in ("raw", "ema25"):
        jax.tree.map(
            np.testing.assert_array_equal,
            final_weights(tmp_path, name),
            final_weights(finished, name),
        )


def test_another_config_is_refused(finished):
    with pytest.raises(ValueError, match=r"these differ from .*: seed=1 \(was 0\)"):
        training.prepare(small.config(seed=1), finished)


def test_a_fixed_horizon_run_cannot_be_made_longer(tmp_path):
    training.train(small.config("cosine", duration__steps=6), tmp_path)
    with pytest.raises(ValueError, match=r"duration=12 steps .* the 6 of the run"):
        training.prepare(small.config("cosine"), tmp_path)


def test_branch(finished, tmp_path):
    before = listing(finished)
    config = small.config(
        "cooldown",
        branch__workdir=str(finished),
        branch__step=9,
        schedule__steps=3,
        schedule__shape="linear",
        averages={"mean": {"name": "uniform"}},
        logging__every=1,
    )
    training.train(config, tmp_path)
    assert listing(finished) == before

    rates = {
        record["step"]: record["train/learning_rate"]
        for record in small.records(tmp_path)
        if "train/learning_rate" in record
    }
    # Update 10, at count 9, is the first of the branch and still has the trunk's rate.
    np.testing.assert_allclose(
        [rates[step] for step in (10, 11, 12)], [1e-2, 2e-2 / 3, 1e-2 / 3], rtol=1e-6
    )
    # Its first batch is the one that the trunk saw next, and so is its first loss.
    losses = [
        [
            r["train/loss"]
            for r in small.records(run)
            if r["step"] == 10 and "train/loss" in r
        ]
        for run in (tmp_path, finished)
    ]
    assert losses[0] == losses[1]
    assert snapshots.stored_steps(tmp_path)[-1] == 12


def test_what_was_kept_stays_when_the_trunk_grows(tmp_path):
    def lengthen(steps):
        config = small.config(
            duration__steps=steps, horizons__steps=(3,), snapshots__every=1000
        )
        training.train(config, tmp_path)
        return set(snapshots.stored_steps(tmp_path))

    # Horizons 3 and 10, and 0.8 and 0.9 of each; then of 15 and 20 as well.
    assert lengthen(10) == {2, 3, 8, 9, 10}
    assert lengthen(15) == {2, 3, 8, 9, 10, 12, 13, 15}
    assert lengthen(20) == {2, 3, 8, 9, 10, 12, 13, 15, 16, 18, 20}


def test_a_trunk_cannot_be_made_shorter_than_it_is(finished):
    with pytest.raises(ValueError, match=r"duration=8 steps is less than the 12"):
        training.prepare(small.config(duration__steps=8), finished)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"workdir=.*file is no folder"):
        training.prepare(small.config(), tmp_path / "file" / "run")


def test_a_branch_goes_on_when_its_source_is_gone(finished, tmp_path):
    source, branch = tmp_path / "source", tmp_path / "branch"
    shutil.copytree(finished, source)
    config = small.config(
        "cooldown", branch__workdir=str(source), branch__step=9, schedule__steps=3
    )
    with pytest.raises(Killed):
        training.train(config, branch, Interrupting(branch, 12, kill))
    shutil.rmtree(source / "snapshots")
    training.train(config, branch)
    assert snapshots.stored_steps(branch)[-1] == 12


def test_a_branch_needs_a_stored_step(finished):
    config = small.config(
        "cooldown", branch__workdir=str(finished), branch__step=7, schedule__steps=3
    )
    with pytest.raises(ValueError, match=r"branch.step=7 .* stored are 4, 5, 6, 9"):
        training.prepare(config, "unused")


def test_a_loss_that_is_not_finite_stops_the_run(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for later in ("9", "10", "12"):
        shutil.rmtree(tmp_path / "snapshots" / later)
    poisoned = small.config(schedule__peak=1e38)
    config_file = tmp_path / "config.json"
    written = json.loads(config_file.read_text())
    written["schedule"]["peak"] = 1e38
    config_file.write_text(json.dumps(written))
    with pytest.raises(
        FloatingPointError,
        match=r"step 7 has .* weight_norm inf; the last good .* is step 6",
    ):
        training.train(poisoned, tmp_path)


SKIPPING = dict(nonfinite__policy="skip", logging__every=5)


@pytest.fixture
def poisoned(monkeypatch):
    """Steps whose loss is not a number, as a token outside the vocabulary makes it."""
    steps = set()
    read = pipeline.Batches.batch

    def batch(self, consumed, batch_size, rows=slice(None)):
        tokens = read(self, consumed, batch_size, rows)
        return np.full_like(tokens, 16) if consumed // 8 + 1 in steps else tokens

    monkeypatch.setattr(pipeline.Batches, "batch", batch)
    return steps


def test_updates_that_are_not_finite_are_skipped(tmp_path, poisoned, capsys):
    poisoned |= {4, 7, 8, 10}
    config = small.config(**SKIPPING)
    # 5 and 6 are stored, and a row of skips is interrupted.
    with pytest.raises(Killed):
        training.train(config, tmp_path, Interrupting(tmp_path, 8, kill))
    training.train(config, tmp_path)
    by_step = {
        record["step"]: record
        for record in small.records(tmp_path)
        if "train" in str(record)
    }
    assert sorted(by_step) == [4, 5, 7, 8, 10, 12]
    for step, record in by_step.items():
        assert record.get("train/skipped", 0.0) == (step in poisoned)
        assert ("train/loss" in record) == (step not in poisoned)
    metas = [snapshots.read_meta(tmp_path, step)["skipped"] for step in (6, 10, 12)]
    assert [meta["total"] for meta in metas] == [1, 4, 4]
    assert [meta["in_a_row"] for meta in metas] == [0, 1, 0]
    assert snapshots.restore_count(tmp_path, 12, "uniform") == 12 - 4
    told = capsys.readouterr().err
    assert told.count("step 7 is skipped for its loss nan, grad_norm nan") == 2

    with pytest.raises(ValueError, match=r"'uniform' of step 6 .* of which 1 were ski"):
        training.merging.plan(tmp_path, dict(name="window", start=6, stop=12))


def test_a_limit_of_skips_in_a_row_that_a_restart_does_not_forget(tmp_path, poisoned):
    poisoned |= {9, 10, 11, 12}
    config = small.config(**SKIPPING, nonfinite__limit=4)
    with pytest.raises(Killed):
        training.train(config, tmp_path, Interrupting(tmp_path, 11, kill))
    assert snapshots.read_meta(tmp_path, 10)["skipped"]["in_a_row"] == 2
    told = (
        r"^step 12: the last 4 updates were skipped \(nonfinite.limit=4\), this one "
        rf"for its loss nan, .*; the last good snapshot of {tmp_path} is step 10$"
    )
    with pytest.raises(FloatingPointError, match=told):
        training.train(config, tmp_path)


def test_training_approaches_the_entropy_from_above(tmp_path):
    config = small.config(
        duration__steps=300, horizons__steps=(300,), snapshots__every=300
    )
    training.train(config, tmp_path)
    entropy = json.loads((tmp_path / "config.json").read_text())
    entropy = entropy["resolved"]["data"]["entropy"]
    [loss] = [
        r["horizon/loss/ema25"]
        for r in small.records(tmp_path)
        if r["step"] == 300 and "horizon/loss/ema25" in r
    ]
    assert entropy - 0.02 < loss < entropy + 0.2
