"""The verbs: which there are, and one line with exit code 2 for every mistake."""

import subprocess
import sys

import pytest

from anytime_jax.commands import errors, main
from anytime_jax.training import hosts


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb(arguments, capsys):
    assert main.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: python -m anytime_jax VERB")
    assert all(verb in out for verb in main.VERBS)
    assert err == ""


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_its_own_help(verb, capsys):
    assert main.main([verb, "--help"]) == 0
    assert f"{verb} " in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["tarin", "", "--workdir=x"])
def test_an_unknown_verb(verb, capsys):
    assert main.main([verb]) == 2
    out, err = capsys.readouterr()
    known = ", ".join(main.VERBS)
    assert err == f"anytime_jax: {verb!r} is no verb; known are {known}\n"
    assert out == ""


@pytest.mark.parametrize(
    ("code", "several", "at_once"),
    [
        (0, False, False),
        (1, False, True),
        (1, True, False),
        (2, False, False),
        (130, False, True),
        (143, False, False),
    ],
)
def test_a_failure_waits_for_no_thread(monkeypatch, code, several, at_once):
    left = []
    monkeypatch.setattr(main, "main", lambda arguments: code)
    monkeypatch.setattr(hosts, "several", lambda: several)
    monkeypatch.setattr(hosts, "leave", left.append)
    with pytest.raises(SystemExit) as ended:
        main.process([])
    assert ended.value.code == code
    assert left == [code] * at_once


def test_a_message_is_one_line():
    error = errors.BadInput(ValueError("what:\n  given\n\n  allowed"))
    assert str(error) == "what: given allowed"


def test_the_command_line_itself(tmp_path):
    workdir = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "anytime_jax", "train"),
            *("--config=configs/tiny.py", f"--workdir={workdir}"),
            *("--config.data.source=synthetic", "--config.schedule.peak=-1"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "anytime_jax: schedule 'constant': peak=-1.0 must be a finite number, at least "
        "0\n"
    )
    assert done.stdout == ""
    assert not workdir.exists()
