"""Runs that cannot be put beside each other, each refused in one line."""

import pytest

from anytime_jax.reporting import comparison, runs
from tests import folders


def _compare(*names):
    return comparison.compare([runs.read(name) for name in names])


def test_a_merge_that_was_not_evaluated_is_refused(tmp_path):
    folder = folders.write_merge(
        tmp_path / "merge", tmp_path / "trunk", dict(name="uniform"), None
    )
    with pytest.raises(ValueError, match="merge is a merge without a loss: make it wi"):
        _compare(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(resolved__tokens_per_step=50), "resolved.tokens_per_step is 100 in"),
        (dict(evaluation__horizon_batches=2), "evaluation.horizon_batches is 4 in"),
        (dict(resolved__data={"validation": 1}), "resolved.data.validation is {'sha"),
        (dict(resolved__parameters={"non_embedding": 1}), "resolved.parameters is {"),
    ],
)
def test_runs_that_measure_something_else_are_refused(tmp_path, changes, message):
    one = folders.write(tmp_path / "one", "constant", folders.TRUNK)
    two = folders.write(tmp_path / "two", "cosine", {100: {"raw": 2.0}}, **changes)
    with pytest.raises(ValueError, match="one and two cannot be compared: ") as error:
        _compare(one, two)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("schedule", "losses", "message"),
    [
        ("constant", {}, "horizon yet: the first is step 100, and its last record is"),
        ("cosine", {100: {"raw": 2.0}}, "the first is step 400, and its last record"),
    ],
)
def test_a_run_on_its_way_is_refused(tmp_path, schedule, losses, message):
    folder = folders.write(tmp_path / "run", schedule, losses, total_steps=400)
    with pytest.raises(ValueError, match=f"run has not reached a .*{message}"):
        _compare(folder)


@pytest.mark.parametrize(
    ("schedule", "changes", "others"),
    [
        ("constant", {}, {}),
        ("cosine", {}, {}),
        ("cooldown", dict(trunk="t"), {}),
        # The names say the same share, and the weights are not the same.
        (
            "cooldown",
            dict(trunk="t"),
            dict(branch__step=319, averages={"a": {"name": "uniform"}}),
        ),
        ("constant", {}, dict(mesh={"data": 2})),
    ],
)
def test_two_runs_of_one_setting_and_seed_are_refused(
    tmp_path, schedule, changes, others
):
    losses = {400: {"raw": 2.0}}
    one = folders.write(tmp_path / "one", schedule, losses, **changes)
    two = folders.write(tmp_path / "two", schedule, losses, **changes | others)
    with pytest.raises(ValueError, match="one and two are both runs of one s") as error:
        _compare(one, two)
    assert "seed=0: give one of them, or other seeds" in str(error.value)
    assert "\n" not in str(error.value)
    other = folders.write(
        tmp_path / "three", schedule, losses, seed=1, **changes | others
    )
    assert _compare(one, other).rows[0].losses[400].count == 2


def test_runs_of_one_seed_that_never_meet_are_not_refused(tmp_path):
    one = folders.write(tmp_path / "one", "constant", {100: {"raw": 2.0}})
    two = folders.write(tmp_path / "two", "constant", {200: {"raw": 1.0}})
    losses = _compare(one, two).rows[0].losses
    assert {step: loss.mean for step, loss in losses.items()} == {100: 2.0, 200: 1.0}
