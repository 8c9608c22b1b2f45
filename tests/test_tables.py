import re

import pytest

from anytime_jax.reporting import comparison, runs, tables
from tests import folders

MEASURED = (
    "Nats per token on 1,024 validation tokens of files:*.txt; decoder with 500 "
    "non-embedding parameters, batches of 100 tokens, 1 x cpu, seed 0."
)


def _compare(*names):
    return comparison.compare([runs.read(name) for name in names])


def _cells(table):
    """The cells of a Markdown table, with GitHub's rule for escaped bars."""
    lines = [line for line in table.split("\n") if line.startswith("|")]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return _compare(*folders.write_all(tmp_path_factory.mktemp("runs")))


def test_text(everything):
    assert (
        tables.to_text(everything)
        == f"""\
                    1x       2x       4x   worst regret
constant
  raw           3.0000   2.5000   2.0000        +0.3750
  ema25         2.7500*  2.1250*  1.8750        +0.1250
  uniform       2.8750   2.6250   2.5000        +0.7500
  cooldown 20%       -   2.1875   1.8125*       +0.0625 (2 of 3)
fixed horizon
  cosine        2.6250   2.2500   1.7500        +0.0000

{MEASURED}
Best exit at each horizon: *.
Regret: loss minus envelope, the lowest final loss of the fixed-horizon runs \
(1x cosine_100; 2x cosine_200; 4x cosine_400).
(n of m): worst of n regrets; at the others there is no loss."""
    )


def test_markdown(everything):
    table, notes = tables.to_markdown(everything).split("\n\n")
    assert _cells(table) == [
        ["schedule", "exit", "1x", "2x", "4x", "worst regret"],
        ["---", "---", "---:", "---:", "---:", "---:"],
        ["constant", "raw", "3.0000", "2.5000", "2.0000", "+0.3750"],
        ["", "ema25", "**2.7500**", "**2.1250**", "1.8750", "+0.1250"],
        ["", "uniform", "2.8750", "2.6250", "2.5000", "+0.7500"],
        ["", "cooldown 20%", "-", "2.1875", "**1.8125**", "+0.0625 (2 of 3)"],
        ["fixed horizon", "cosine", "2.6250", "2.2500", "1.7500", "+0.0000"],
    ]
    assert notes.startswith(f"{MEASURED} Best exit at each horizon: bold. Regret: ")
    assert "\n" not in notes


def test_regrets(everything):
    assert _cells(tables.regrets_to_markdown(everything)) == [
        ["schedule", "exit", "1x", "2x", "4x"],
        ["---", "---", "---:", "---:", "---:"],
        ["envelope", "loss", "2.6250", "2.2500", "1.7500"],
        ["", "run", "cosine_100", "cosine_200", "cosine_400"],
        ["constant", "raw", "+0.3750", "+0.2500", "+0.2500"],
        ["", "ema25", "+0.1250", "-0.1250", "+0.1250"],
        ["", "uniform", "+0.2500", "+0.3750", "+0.7500"],
        ["", "cooldown 20%", "-", "-0.0625", "+0.0625"],
        ["fixed horizon", "cosine", "+0.0000", "+0.0000", "+0.0000"],
    ]


def test_without_an_envelope_there_is_no_regret(tmp_path):
    found = _compare(folders.write(tmp_path / "t", "constant", folders.TRUNK))
    text = tables.to_text(found)
    cells = _cells(tables.to_markdown(found))
    assert cells[0] == ["schedule", "exit", "1x", "2x", "4x"]
    assert cells[2] == ["constant", "raw", "3.0000", "2.5000", "2.0000"]
    assert re.search(r"^  ema25    2.7500\*  2.1250\*  1.8750\*$", text, re.M)
    assert re.search(r"^  uniform  2.8750   2.6250   2.5000$", text, re.M)
    assert "worst regret" not in text
    assert "No fixed-horizon run: no envelope, and no regret." in text
    assert "(n of m)" not in text


def test_without_an_exit_there_is_no_best(tmp_path):
    text = tables.to_text(
        _compare(folders.write(tmp_path / "c", "cosine", {100: {"raw": 2.0}}))
    )
    assert re.search(r"^  cosine  2.0000 +\+0.0000$", text, re.M)
    assert "*" not in text.replace("*.txt", "")


@pytest.mark.parametrize(("trunks", "count"), [(2, ""), (3, " (3)")])
def test_seeds_are_shown_as_mean_and_half_range(tmp_path, trunks, count):
    names = [
        folders.write(
            tmp_path / f"trunk_{seed}",
            "constant",
            {100: {"raw": 3.0 + 0.25 * (seed % 2)}},
            seed=seed,
        )
        for seed in range(trunks)
    ]
    names += [
        folders.write(tmp_path / f"c_{s}", "cosine", {100: {"raw": 2.5}}, seed=s)
        for s in (0, 1)
    ]
    text = tables.to_text(_compare(*names))
    mean = 3.0 + 0.25 / trunks
    assert f"  raw     {mean:.4f} ± 0.1250{count}*" in text
    assert f"seeds {', '.join(map(str, range(trunks)))}." in text
    assert "Mean ± half the range over runs that differ only in their seed" in text
    assert ("number in brackets" in text) == bool(count)


def test_a_bar_in_a_name_does_not_break_the_table(tmp_path):
    found = _compare(
        folders.write(tmp_path / "a|b", "constant", folders.TRUNK),
        folders.write(tmp_path / "c", "constant", folders.TRUNK, peak=1.0),
        folders.write(tmp_path / "d|e", "cosine", {100: {"raw": 2.0}}),
    )
    losses = tables.to_markdown(found).split("\n\n")[0]
    for table in (losses, tables.regrets_to_markdown(found)):
        [width] = {len(line) for line in _cells(table)}
        assert width == (6 if table is losses else 3)
    assert r"| constant (a\|b) | raw |" in losses


@pytest.mark.parametrize(
    ("regret", "text"),
    [
        (0.00004, "+0.0000"),
        (-0.00004, "+0.0000"),
        (-0.0, "+0.0000"),
        (-0.00006, "-0.0001"),
        (1.23456, "+1.2346"),
        (float("nan"), "nan"),
        (None, "-"),
    ],
)
def test_signed(regret, text):
    assert tables.signed(regret) == text


def test_a_path_of_the_machine_is_not_told(everything):
    assert "somebody" not in tables.to_text(everything)


def test_how_far_merges_are_from_their_horizon_is_told(tmp_path):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    uniform = dict(name="uniform")

    def note(name, step):
        folder = tmp_path / name
        folders.write_merge(folder, trunk, uniform, 2.0, step=step, span=step // 2)
        lines = tables.to_text(_compare(trunk, folder)).splitlines()
        return [line for line in lines if line.startswith("Merges")]

    said = "Merges are of snapshots up to {} before the horizon."
    assert note("at", 400) == []
    assert note("one", 399) == [said.format("1 step")]
    assert note("three", 397) == [said.format("3 steps")]
    assert note("elsewhere", 300) == []


def test_an_average_that_was_added_later_is_explained(tmp_path):
    def late(text):
        return [line for line in text.splitlines() if "later on" in line]

    losses = {step: dict(of) for step, of in folders.TRUNK.items()}
    losses[200]["q"] = losses[400]["p"] = losses[400]["p7"] = 2.0
    trunk = folders.write(tmp_path / "trunk", "constant", losses)
    assert late(tables.to_text(_compare(trunk))) == [
        "p, p7: not at 1x, 2x; tracked from later on.",
        "q: not at 1x; tracked from later on.",
    ]
    other = folders.write(tmp_path / "other", "inverse_sqrt", folders.TRUNK)
    assert late(tables.to_text(_compare(other))) == []
    found = _compare(trunk, other)
    assert "q of constant: not at 1x; tracked" in tables.to_text(found)
    assert "q of constant: not at 1x; tracked" in tables.to_markdown(found)
