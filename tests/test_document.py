import re

import pytest

from anytime_jax.reporting import comparison, document, runs
from tests import folders


def _compare(*names):
    return comparison.compare([runs.read(name) for name in names])


def _section(text, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=\n\n## |\Z)", text, re.S | re.M)[1]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    begun = {100: {"raw": 2.9}}
    begun = folders.write(
        folder / "begun", "inverse_sqrt", begun, total_steps=4000, seed=1
    )
    return _compare(*folders.write_all(folder), begun)


def test_the_parts_are_in_order(everything):
    text = document.to_report(everything, "report.png")
    assert re.findall("^#.*|^!.*", text, re.M) == [
        "# Exits and their envelope",
        "![Losses, and their distance to the envelope](report.png)",
        "## Loss at every horizon",
        "## Regret at every horizon",
        "## What was run",
    ]
    assert text.endswith("\n\nWith anytime_jax 0.1.0, jax 0.10.2.\n")


def test_what_was_run(everything):
    text = _section(document.to_report(everything, "report.png"), "What was run")
    assert (
        text.split("\n\n")[0]
        == """\
| run | schedule | steps | peak | seed |
| --- | --- | ---: | ---: | ---: |
| trunk | constant | 400 | 0.01 | 0 |
| cosine_100 | cosine | 100 | 0.01 | 0 |
| cosine_200 | cosine | 200 | 0.01 | 0 |
| cosine_400 | cosine | 400 | 0.01 | 0 |
| exit_200 | cooldown off trunk at 160 | 200 | - | 0 |
| exit_400 | cooldown off trunk at 320 | 400 | - | 0 |
| begun | inverse_sqrt | 100 of 4,000 | 0.01 | 1 |"""
    )


def test_what_was_merged(tmp_path):
    names = folders.write_all(tmp_path)
    uniform = dict(name="uniform")
    merge = folders.write_merge
    names += [
        merge(tmp_path / "a", names[0], uniform, 2.5, step=198, every=40, span=99),
        merge(tmp_path / "b", names[0], uniform, 2.0, step=400, every=80, span=200),
        merge(tmp_path / "c", names[0], dict(name="linear"), 2.0, span=40),
    ]
    text = document.to_report(_compare(*names), "report.png")
    assert (
        _section(text, "What was merged").split("\n\n")[0]
        == """\
| schedule | exit | 1x | 2x | 4x |
| --- | --- | ---: | ---: | ---: |
| constant | uniform, last 50% | - | 2 of 158 to 198 | 2 of 320 to 400 |
|  | linear, last 10% | - | - | 2 of 360 to 400 |"""
    )
    run = _section(text, "What was run")
    assert "| trunk |" in run
    assert not any(f"| {name} |" in run for name in "abc")
    assert "before the horizon" in text


def test_no_path_of_the_machine_is_told(everything):
    text = document.to_report(everything, "report.png")
    for run in everything.names:
        assert str(run.folder.parent) not in text
    assert "somebody" not in text


def test_a_branch_names_its_trunk_as_the_trunk_is_named(tmp_path):
    write, losses = folders.write, {100: {"raw": 2.0}}
    found = _compare(
        write(tmp_path / "a" / "trunk", "constant", folders.TRUNK),
        write(tmp_path / "b" / "trunk", "constant", folders.TRUNK, peak=0.02),
        write(tmp_path / "c", "cooldown", losses, trunk=tmp_path / "b" / "trunk"),
        write(tmp_path / "d", "cooldown", losses, trunk=tmp_path / "gone"),
    )
    text = document.to_report(found, "report.png")
    assert "| c | cooldown off b/trunk at 80 |" in text
    assert "| d | cooldown off gone at 80 |" in text


def test_headline_of_an_average_and_a_cooldown(tmp_path):
    names = folders.write_all(tmp_path)
    exit_100 = tmp_path / "exit_100"
    folders.write(exit_100, "cooldown", {100: {"raw": 2.5}}, trunk=names[0])
    assert document.headline(_compare(*names, exit_100)) == (
        "Worst regret over the horizons 1x, 2x, 4x, in nats per token: +0.1250 for "
        "ema25 of constant, the best exit without a cooldown; +0.0625 for cooldown 20% "
        "of constant, the best cooldown."
    )


def test_headline_leaves_out_cooldowns_that_miss_a_horizon(everything):
    assert document.headline(everything).endswith(
        "+0.1250 for ema25 of constant, the best exit without a cooldown."
    )


def test_headline_without_an_envelope(tmp_path):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    assert document.headline(_compare(trunk)) == (
        "At 4x the best exit is ema25 of constant; no fixed-horizon run to compare "
        "with."
    )
    assert "## Regret" not in document.to_report(_compare(trunk), "report.png")


def test_headline_without_an_exit(tmp_path):
    runs = [
        folders.write(tmp_path / f"{step}", "cosine", {step: {"raw": 2.0}})
        for step in (100, 200)
    ]
    assert document.headline(_compare(*runs)) == (
        "Final losses of fixed-horizon runs at 1x, 2x; no trunk to compare."
    )


def test_headline_when_no_exit_has_all_horizons(tmp_path):
    found = _compare(
        folders.write(tmp_path / "trunk", "constant", {100: {"raw": 2.0}}),
        folders.write(tmp_path / "100", "cosine", {100: {"raw": 2.0}}),
        folders.write(tmp_path / "200", "cosine", {200: {"raw": 2.0}}),
    )
    assert document.headline(found) == (
        "No exit has a loss at all horizons of the envelope (1x, 2x)."
    )


def test_different_versions_are_all_named(tmp_path):
    new = {"anytime_jax": "0.1.0", "jax": "0.11.0"}
    found = _compare(
        folders.write(tmp_path / "a", "constant", folders.TRUNK),
        folders.write(
            tmp_path / "b", "cosine", {100: {"raw": 2.0}}, resolved__versions=new
        ),
    )
    text = document.to_report(found, "report.png")
    assert text.endswith("With anytime_jax 0.1.0, jax 0.10.2, 0.11.0.\n")
