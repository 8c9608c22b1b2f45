"""Where a run starts: averages that are new to it, and every way of tracking them."""

import functools
import shutil

import jax
import numpy as np
import pytest

from anytime_jax import averaging, training
from anytime_jax.training import (
    config_file,
    evaluation,
    merge_recipes,
    metrics,
    sharding,
    snapshots,
    stored,
)
from tests import small
from tests.small import stored_weights as weights

STEPS = 6
MEAN = dict(uniform=dict(name="uniform"))


def config(**overrides):
    options = dict(
        duration__steps=STEPS,
        horizons__steps=(STEPS,),
        snapshots__every=1,
        averages=MEAN,
    )
    return small.config(**options | overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    training.train(config(), workdir)
    return workdir


def interrupted(finished, workdir, step):
    """A copy of the finished run as if it had been killed after a step."""
    shutil.copytree(finished, workdir, dirs_exist_ok=True)
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(workdir / "snapshots" / str(later))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_run_goes_on_on_other_devices(finished, tmp_path, monkeypatch, count):
    """What eight devices have stored; rounding differs, and nothing else."""
    interrupted(finished, tmp_path, 3)
    few = functools.partial(sharding.make_mesh, devices=jax.devices()[:count])
    monkeypatch.setattr(sharding, "make_mesh", few)
    fsdp = 2 if count == 4 else 1
    training.train(config(mesh__data=-1, mesh__fsdp=fsdp), tmp_path)
    for name in ("raw", "uniform"):
        one, other = (weights(run, STEPS, name) for run in (tmp_path, finished))
        assert np.linalg.norm(one - other) < 1e-5 * np.linalg.norm(other)
    for one, other in zip(*map(small.records, (tmp_path, finished)), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_allclose(one[key], other[key], rtol=1e-4, err_msg=key)
    assert snapshots.newest_whole(tmp_path) == (STEPS, {})


def test_records_that_were_lost_come_back(finished, tmp_path, capsys):
    whole = (finished / "metrics.jsonl").read_text()
    interrupted(finished, tmp_path, 4)
    (tmp_path / "metrics.jsonl").write_text(whole[: len(whole) // 4])
    training.train(config(), tmp_path)
    assert (
        f"{tmp_path}/metrics.jsonl was cut or damaged; restored from the snapshot of "
        "step 4\n" in capsys.readouterr().err
    )
    assert small.records(tmp_path) == small.records(finished)


def test_an_average_can_be_added_to_a_run(finished, tmp_path, capsys):
    interrupted(finished, tmp_path, 2)
    power = dict(name="power", gamma=1.5)
    training.train(config(averages=MEAN | dict(late=power)), tmp_path)
    assert (
        "not in the snapshot of step 2, and starting from its weights: averages late\n"
        in capsys.readouterr().err
    )
    # What was there goes on as if nothing had happened.
    for name in ("raw", "uniform"):
        np.testing.assert_array_equal(
            weights(tmp_path, STEPS, name), weights(finished, STEPS, name)
        )
    path = [weights(finished, step, "raw") for step in range(2, STEPS + 1)]
    coefficients = averaging.kernel(averaging.power(gamma=1.5), STEPS - 2)
    assert abs(coefficients.sum() - 1) < 1e-12  # it forgets what it started from
    np.testing.assert_allclose(
        weights(tmp_path, STEPS, "late"),
        coefficients @ np.asarray(path[1:], np.float64),
        rtol=1e-5,
        atol=1e-7,
    )
    assert snapshots.restore_count(tmp_path, STEPS, "late") == STEPS - 2
    assert snapshots.restore_count(tmp_path, STEPS, "uniform") == STEPS
    assert "late" in stored.evaluate(tmp_path, names=["late"])
    # It is a part of the run from now on.
    with pytest.raises(ValueError, match=r"averages\.late\.gamma=None \(was 1\.5\)"):
        training.prepare(config(), tmp_path)


def test_distances_are_recorded_beside_the_losses(finished):
    for record in metrics.read(finished):
        if "eval/loss/raw" not in record:
            continue
        raw, mean = (weights(finished, record["step"], n) for n in ("raw", "uniform"))
        expected = np.linalg.norm(mean - raw) / np.linalg.norm(raw)
        np.testing.assert_allclose(
            record["eval/distance/uniform"], expected, rtol=1e-4, atol=1e-8
        )
        assert "eval/distance/raw" not in record


def test_the_loop_warns_of_an_average_that_goes_astray(
    finished, tmp_path, capsys, monkeypatch
):
    interrupted(finished, tmp_path, 4)
    distances = iter([0.5, 5.0, 50.0])
    monkeypatch.setattr(
        evaluation, "distances", lambda weights: dict(uniform=next(distances))
    )
    training.train(config(evaluation__points=STEPS, evaluation__patience=2), tmp_path)
    assert "step 6: the average uniform has moved away" in capsys.readouterr().err


TRACKING = {
    "bfloat16": dict(dtype="bfloat16"),
    "all others": dict(
        memory_kind="pinned_host", every=2, time="tokens", compensated=True
    ),
}


@pytest.mark.parametrize("tracking", TRACKING.values(), ids=TRACKING)
def test_every_way_of_tracking_trains_and_goes_on(finished, tmp_path, tracking):
    """Interrupted, it is the same run bit for bit; and what it holds is the mean."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    options = {f"tracking__{key}": value for key, value in tracking.items()}
    training.train(config(**options), whole)
    interrupted(whole, parted, 4)
    training.train(config(**options), parted)
    for name in ("raw", "uniform"):
        np.testing.assert_array_equal(
            weights(whole, STEPS, name), weights(parted, STEPS, name)
        )
    np.testing.assert_array_equal(
        weights(whole, STEPS, "raw"), weights(finished, STEPS, "raw")
    )
    every = tracking.get("every", 1)
    merge_source = merge_recipes.stored_source(
        whole, config_file.read(whole), STEPS, "uniform"
    )
    in_tokens = tracking.get("time") == "tokens"
    assert merge_source.tokens == (8 * 16 if in_tokens else 1)
    path = [weights(finished, step, "raw") for step in range(every, STEPS + 1, every)]
    # Every update may round up or down.
    tolerance = 2.0**-5 if tracking.get("dtype") == "bfloat16" else 1e-5
    np.testing.assert_allclose(
        weights(whole, STEPS, "uniform"),
        np.mean(path, axis=0, dtype=np.float64),
        rtol=tolerance,
        atol=1e-2 * tolerance,
    )
    horizon = metrics.read(whole)[-1]
    stored_loss = stored.evaluate(whole)["uniform"]
    np.testing.assert_allclose(horizon["horizon/loss/uniform"], stored_loss, rtol=1e-5)
