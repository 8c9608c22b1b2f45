"""The verb schedule: what it prints, draws and refuses."""

import numpy as np
import pytest

from anytime_jax import reporting, training
from anytime_jax.commands import main
from anytime_jax.training import config_file, recipe
from configs import tiny

CONFIG = "configs/tiny.py"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the verb; returns what it drew, and the table that it printed."""
    drawn = []
    monkeypatch.setattr(reporting, "draw_rates", lambda *a, **k: drawn.append((a, k)))
    out = tmp_path / "new" / "rates.png"

    def run(*arguments, config=CONFIG):
        line = ["schedule", f"--config={config}", f"--out={out}", *arguments]
        assert main.main(line) == 0
        first, _, header, *rows, _, last = capsys.readouterr().out.splitlines()
        assert header.split() == ["count", "learning", "rate"]
        assert last == f"Wrote {out}"
        table = {}
        for row in rows:
            count, rate, what = row.split(maxsplit=2)
            table[int(count)] = (float(rate), what)
        [((counts, rates, path), marks)] = drawn
        assert path == out
        return first, table, counts, rates, marks

    return run


def test_prints_and_draws_the_run_of_the_config(command):
    first, table, counts, rates, marks = command(
        "--config.schedule.peak=0.5", "--config.duration.chinchilla=2", config=CONFIG
    )
    config = tiny.get_config()
    config.schedule.peak, config.duration.chinchilla = 0.5, 2.0
    plan = training.plan(config)
    assert first == f"constant, {plan.total_steps} steps of 1024 tokens"
    half = plan.horizons[0]
    assert table == {
        0: (0.05, "first update"),
        100: (0.5, "end of the warmup"),
        half - 1: (0.5, f"last update before step {half}"),
        plan.total_steps - 1: (0.5, f"last update before step {plan.total_steps}"),
    }
    np.testing.assert_array_equal(counts, np.arange(plan.total_steps))
    np.testing.assert_array_equal(rates, plan.schedule(counts))
    assert marks == dict(
        title="constant", warmup_steps=100, branch_step=0, horizons=plan.horizons
    )


def test_steps_is_the_length_of_the_run(command):
    first, table, counts, rates, _ = command("--steps=1000", config=f"{CONFIG}:linear")
    assert first.startswith("linear, 1000 steps")
    assert len(counts) == 1000
    assert table[999] == (
        pytest.approx(1e-2 / 900, rel=1e-4),
        "last update before step 1000",
    )
    assert rates[100] == np.float32(1e-2)


def test_a_long_run_is_sampled_to_its_last_update(command):
    _, table, counts, rates, _ = command("--steps=1000000000")
    assert len(counts) == len(rates) == 100_000
    assert (counts[0], counts[-1]) == (0, 10**9 - 1)
    assert 10**9 - 1 in table


def test_a_branch_is_drawn_with_its_trunk(command, tmp_path):
    trunk = tmp_path / "trunk"
    config = tiny.get_config("inverse_sqrt")
    config.data.source = "synthetic"
    config_file.write(config, recipe.build(config).resolved(), trunk)
    (trunk / "snapshots" / "1550").mkdir(parents=True)
    _, table, counts, rates, marks = command(
        f"--config.branch.workdir={trunk}",
        "--config.branch.step=1550",
        "--config.schedule.steps=388",
        config=f"{CONFIG}:cooldown",
    )
    assert [what for _, what in table.values()] == [
        "first update",
        "first update of the branch",
        "last update before step 1938",
    ]
    assert marks["branch_step"] == 1550 and marks["warmup_steps"] == 0
    expected = 1e-2 * np.sqrt(2000 / (1550 - 100 + 2000))
    np.testing.assert_allclose(rates[1550], expected, rtol=1e-5)
    assert rates[100] == rates.max() == np.float32(1e-2)
    assert len(counts) == 1938


def test_any_schedule_of_a_config_file(command, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import tiny\n"
        "def get_config():\n"
        "    config = tiny.get_config()\n"
        "    config.schedule = dict(name='power_scheduler', warmup_steps=10)\n"
        "    return config\n"
    )
    _, table, _, rates, _ = command("--steps=900", config=file)
    # 1024 tokens of a step are a quarter of a sequence of the law.
    np.testing.assert_allclose(table[899][0], (899 * 1024) ** -0.51, rtol=1e-5)
    assert table[10][0] == pytest.approx(rates[10], rel=1e-5)


def test_the_picture_is_written(tmp_path, capsys):
    out = tmp_path / "rates.png"
    line = ["schedule", f"--config={CONFIG}", f"--out={out}", "--steps=300"]
    assert main.main(line) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_help_tells_the_usage(capsys):
    assert main.main(["schedule", "--help"]) == 0
    usage = "usage: python -m anytime_jax schedule --config=FILE[:VARIANT] --out="
    assert capsys.readouterr().out.startswith(usage)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x.png"], "--config=FILE[:VARIANT] is given 0 times, not once"),
        ([f"--config={CONFIG}"], "--out=FILE.png is missing: the picture to write"),
        ([f"--config={CONFIG}", "--out=x.md"], "--out=x.md must end in .png"),
        (
            [f"--config={CONFIG}", "--out=x.png", "--steps=0"],
            "see python -m anytime_jax schedule --help",
        ),
        ([f"--config={CONFIG}", "--out=x.png", "--step=9"], "Unknown command line fl"),
        (
            [f"--config={CONFIG}", "--out=x.png", "--config.schedule.peak=-1"],
            "schedule 'constant': peak=-1.0 must be a finite number, at least 0",
        ),
        (
            [f"--config={CONFIG}:cosine", "--out=x.png", "--steps=50"],
            "schedule 'cosine': warmup_steps=100 must be at most total_steps=50",
        ),
        (
            [f"--config={CONFIG}:cooldown", "--out=x.png"],
            "a cooldown has a branch.workdir to start from",
        ),
        (
            [
                f"--config={CONFIG}:cooldown",
                *("--out=x.png", "--steps=9", "--config.branch.workdir=trunk"),
            ],
            "--steps=9 is not for a branch, whose length is --config.schedule.steps",
        ),
        ([f"--config={CONFIG}", "--out=setup.cfg/x.png"], "cannot be written: "),
    ],
)
def test_every_mistake_is_one_line(capsys, arguments, message):
    assert main.main(["schedule", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("anytime_jax: ") and err.count("\n") == 1
    assert message in err
