"""SIGTERM and SIGINT reach the loop, and nothing else of the process."""

import os
import signal
import threading

import jax
import pytest
from jax.experimental import multihost_utils

from anytime_jax.training import signals


@pytest.fixture
def terminated():
    """What SIGTERM would do outside: here it is noted."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(signal.SIGTERM))
    yield heard
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_each_is_heard_and_let_go_of(number, terminated):
    before = signal.getsignal(number)
    with signals.stopping() as stop:
        assert not stop.told(1)
        os.kill(os.getpid(), number)
        assert stop.told(1)
        assert stop.told(2)
        assert stop.signal == number
    assert signal.getsignal(number) is before
    assert not terminated


def test_a_second_sigint_does_not_wait():
    with pytest.raises(KeyboardInterrupt), signals.stopping():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_nothing_is_heard(terminated):
    told = []

    def run():
        with signals.stopping() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            told.append(stop.told(1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert told == [False]
    assert terminated == [signal.SIGTERM]


def test_several_processes_stop_after_the_same_step(terminated, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda done: done == 7
    )
    with signals.stopping() as stop:
        # SIGTERM is left to JAX, which SIGINT goes to as well.
        os.kill(os.getpid(), signal.SIGINT)
        assert terminated == [signal.SIGTERM]
        assert [stop.told(done) for done in (6, 7, 8)] == [False, True, False]
        assert stop.signal == signal.SIGINT


def test_what_was_agreed_on_before_the_first_step_is_not_missed(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda number: number == 1
    )
    with signals.stopping() as stop:
        assert [stop.told(done) for done in (13, 14)] == [True, False]
