"""Where the time goes: shares that add up, and a trace on disk."""

import jax
import jax.numpy as jnp
import pytest

from anytime_jax.training import timing


class Clock:
    """Goes on by what it is told to."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def test_shares_add_up_and_begin_anew():
    clock = Clock()
    shares = timing.Shares(clock)
    for name, seconds in (("evaluation", 1.0), ("snapshot", 2.0), ("evaluation", 3.0)):
        clock.seconds += 0.5
        with shares(name):
            clock.seconds += seconds
    clock.seconds += 0.5
    taken = shares.take()
    assert taken == {
        "step": 0.25,
        "data": 0.0,
        "evaluation": 0.5,
        "snapshot": 0.25,
    }
    clock.seconds += 1.0
    assert shares.take()["step"] == 1.0


def test_time_that_an_error_ends_counts():
    clock = Clock()
    shares = timing.Shares(clock)
    with pytest.raises(KeyError), shares("data"):
        clock.seconds += 1.0
        raise KeyError
    assert shares.take()["data"] == 1.0


def test_the_wait_for_each_item_counts_and_not_its_use():
    clock = Clock()

    def slow():
        for item in "abc":
            clock.seconds += 2.0
            yield item

    shares = timing.Shares(clock)
    seen = []
    for item in shares.timed("data", slow()):
        seen.append(item)
        clock.seconds += 1.0
    assert seen == ["a", "b", "c"]
    assert shares.take()["data"] == pytest.approx(6 / 9)


def test_shares_of_no_time_are_whole():
    assert sum(timing.Shares(Clock()).take().values()) == 1.0


def run(profile, steps):
    for step in steps:
        profile.before(step)
        profile.after(step, jnp.ones(3) * step)
    profile.close()


def test_a_trace_of_five_steps(tmp_path, capsys):
    run(timing.Profile(tmp_path, 20, 40, wanted=True), range(21, 41))
    [trace] = tmp_path.rglob("*.xplane.pb")
    assert trace.stat().st_size > 0
    assert capsys.readouterr().err == f"steps 26 to 30 are in {tmp_path}/profile\n"


def test_a_short_run_says_that_there_is_none(tmp_path, capsys):
    run(timing.Profile(tmp_path, 0, 9, wanted=True), range(1, 10))
    assert not list(tmp_path.iterdir())
    told = "--profile needs 10 steps and there are 9: nothing is traced\n"
    assert capsys.readouterr().err == told


def test_an_interrupted_trace_is_ended(tmp_path):
    profile = timing.Profile(tmp_path, 0, 10, wanted=True)
    profile.before(6)
    profile.close()
    profile.close()
    # JAX refuses a second trace while one is running.
    run(timing.Profile(tmp_path / "again", 0, 10, wanted=True), range(1, 11))


def test_only_the_first_process_traces(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    run(timing.Profile(tmp_path, 0, 10, wanted=True), range(1, 11))
    assert not list(tmp_path.iterdir())
