"""The experiment's merges: which it makes, and once from a run to the report."""

import json
import pathlib
import subprocess
import sys

import pytest

from anytime_jax.training import loop
from experiments.every_exit import run
from tests import small


@pytest.fixture
def trunk(tmp_path):
    """What the merges follow from: the horizons, and the distance of the snapshots."""
    resolved = dict(horizons=[484, 969, 1938, 3875], snapshot_every=121)
    folder = tmp_path / "trunk"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(resolved=resolved)))
    return folder


@pytest.fixture
def calls(monkeypatch):
    """The verbs that would have been run."""
    found = []
    monkeypatch.setattr(run.every_horizon, "call", lambda *flags: found.append(flags))
    return found


def test_every_exit_is_made_wherever_there_are_two_snapshots(trunk, tmp_path, calls):
    folders = run.merge_all(trunk, tmp_path)
    made = {call[-2].removeprefix(f"--out={tmp_path}/trunk_"): call for call in calls}
    assert [f"{tmp_path}/trunk_{name}" for name in made] == folders
    assert all(call[:2] == ("merge", str(trunk)) for call in calls)
    assert all(call[-1] == "--evaluate" for call in calls)
    kinds = {name.rsplit("_", 1)[0] for name in made}
    assert len(kinds) == 10
    every = {f"{kind}_{step}" for kind in kinds for step in (484, 969, 1938, 3875)}
    assert every - made.keys() == {f"{name}_25_484" for name in run.RECIPES}
    window, merge = made["window_10_969"], made["quadratic_accurate_50_1938"]
    assert window[2:-2] == ("--recipe=window:start=872,stop=969",)
    assert merge[2:-2] == (
        "--recipe=quadratic_accurate:shape=1-sqrt",
        *("--every=121", "--stop=1938", "--latest=8"),
    )


def test_what_is_there_is_not_made_again(trunk, tmp_path, calls):
    there = tmp_path / "trunk_window_20_3875"
    there.mkdir()
    assert str(there) in run.merge_all(trunk, tmp_path)
    assert len(calls) == 36
    assert not any(f"--out={there}" in call for call in calls)


@pytest.mark.slow
def test_one_command_from_a_run_to_its_report(tmp_path):
    trunk, out = tmp_path / "trunk", tmp_path / "out"
    ema = {
        f"averages__ema{name}": dict(name="age_ema", divisor=divisor)
        for name, divisor in (("12_5", 12.5), ("6_25", 6.25), ("50", 50.0))
    }
    config = small.config(**ema, duration__steps=40, horizons__steps=(20, 40))
    loop.train(config, trunk)
    command = "-m", "experiments.every_exit.run", f"--trunk={trunk}", f"--out={out}"
    done = subprocess.run(
        [sys.executable, *command],
        cwd=pathlib.Path(run.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split("  ") for line in done.stdout.splitlines()]
    table = {row[1]: row for row in rows if row[0] == "" and len(row) > 2}
    assert len([name for name in table if "last 25%" in name]) == 3
    assert "window 10%" in table
    assert "synthesize power(sigma_rel=0.12)" in table
    report = (out / "exits.md").read_text()
    assert "## What was merged" in report
    assert (out / "exits.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob(".trunk_*"))
