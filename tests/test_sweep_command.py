"""The verb sweep: the paper's grids, commands that train reads, sums, mistakes."""

import collections
import pathlib
import shlex

import pytest

from anytime_jax.commands import main, sweep, sweep_jobs, train
from anytime_jax.training import config_file, recipe

FILES = {name: f"configs/anytime_{name}.py" for name in ("150m", "300m")}

# By prefix and schedule: the numbers of jobs, and of 1x that they train in all.
PAPER = {
    "150m": {
        # 3 rates and 3 b2 to 32x; 1e-2 to 8x.
        "constant": (3 * 3 + 3, 9 * 32 + 3 * 8),
        "inverse_sqrt": (3 * 2 * 3, 18 * 32),
        # Tenths of 1 + 2 + 4 + 8 for 9 settings, of 16 + 32 for 6.
        "wsd": (4 * 9 + 2 * 6, (9 * 15 + 6 * 48) / 10),
        "cosine": (6 * 9 + 4 * 3, 9 * 63 + 3 * 15),
        "b4096-constant": (3 * 2, 6 * 16),
        "b4096-inverse_sqrt": (3 * 2 * 4, 24 * 16),
        # 79 + 157 + 313 + 626 + 1252 steps, as whole steps are left of a tenth.
        "b4096-wsd": (5 * 6, 6 * 2427 / 782),
        "b4096-cosine": (5 * 6, 6 * 31),
    },
    "300m": {
        "constant": (3 * 2, 6 * 16),
        "inverse_sqrt": (3 * 2 * 3, 18 * 16),
        "wsd": (5 * 6, 6 * 31 / 10),
        "cosine": (5 * 6, 6 * 31),
    },
}


@pytest.fixture(scope="module")
def sweeps():
    return {name: sweep_jobs.read(file, None, []) for name, file in FILES.items()}


def printed(capsys, *arguments):
    assert main.main(["sweep", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("name", FILES)
def test_the_grids_are_the_papers(sweeps, name):
    counts, steps = collections.Counter(), collections.Counter()
    for job in sweeps[name].jobs:
        prefix = job.name.rpartition("-lr")[0].partition("-offset")[0]
        prefix = prefix.removesuffix("x").rstrip("0123456789").rstrip("-")
        counts[prefix] += 1
        unit = 782 if prefix.startswith("b4096-") else 12_500
        steps[prefix] += job.steps / unit
    assert dict(counts) == {prefix: jobs for prefix, (jobs, _) in PAPER[name].items()}
    assert steps == pytest.approx({prefix: n for prefix, (_, n) in PAPER[name].items()})


def test_what_varies_is_what_the_paper_varied(sweeps):
    values = collections.defaultdict(set)
    for job in sweeps["150m"].jobs:
        for word in job.command:
            key, equals, value = word.removeprefix("--config.").partition("=")
            if equals and word.startswith("--config."):
                values[job.name.startswith("b4096-"), key].add(value)
    rates, b2s = {"0.0003", "0.001", "0.003", "0.01"}, {"0.95", "0.98", "0.99"}
    assert values[False, "schedule.peak"] == rates
    assert values[False, "optimizer.b2"] == b2s
    assert values[False, "schedule.offset"] == {"12800", "25600", "51200"}
    starts = {"11250", "22500", "45000", "90000", "180000", "360000"}
    assert values[False, "branch.step"] == starts
    assert values[True, "schedule.peak"] == rates - {"0.0003"}
    assert values[True, "optimizer.b2"] == b2s - {"0.98"}
    assert values[True, "schedule.offset"] == {"800", "1600", "3200", "6400"}
    assert values[True, "duration.steps"] == {"782", "1564", "3128", "6256", "12512"}
    assert values[True, "schedule.warmup_steps"] == {"500"}
    assert values[True, "batch_size"] == {"4096"}


@pytest.mark.parametrize("name", FILES)
def test_train_reads_every_command_and_plans_branches_off_their_trunks(
    sweeps, name, tmp_path, monkeypatch
):
    file = pathlib.Path(FILES[name]).resolve()
    jobs, model = sweeps[name].jobs, None
    monkeypatch.chdir(tmp_path)
    trunks = {job.after for job in jobs if job.after}
    for job in jobs:
        words = shlex.split(job.to_text())
        assert words == list(job.command)
        assert words[:4] == ["python", "-m", "anytime_jax", "train"]
        if not job.after and job.name not in trunks:
            continue  # It was planned when it was read.
        words[4] = words[4].replace(FILES[name], str(file))
        values = train.parse(words[4:])
        assert values.workdir == f"runs/{name}/{job.name}"
        assert values.config.schedule.name == job.schedule
        made = recipe.plan(values.config, model=model)
        model = made.model  # It takes longest, and is the same.
        assert (made.start_step, made.total_steps) == (job.start_step, job.total_steps)
        assert made.tokens_per_step == job.tokens_per_step
        if job.name in trunks:
            resolved = dict(total_steps=made.total_steps, kept=[], snapshot_every=1)
            resolved |= dict(tokens_per_step=made.tokens_per_step)
            config_file.write(values.config, resolved, values.workdir)


def test_a_branch_starts_from_the_trunk_of_its_rate(sweeps):
    jobs = {job.name: job for job in sweeps["150m"].jobs}
    job = jobs["wsd-8x-lr0.003-beta0.99"]
    assert job.after == "constant-lr0.003-beta0.99"
    assert (job.start_step, job.steps) == (90_000, 10_000)
    assert job.to_text() == (
        "python -m anytime_jax train --config=configs/anytime_150m.py:wsd "
        "--workdir=runs/150m/wsd-8x-lr0.003-beta0.99 --config.optimizer.b2=0.99 "
        "--config.branch.step=90000 --config.schedule.steps=10000 "
        "--config.branch.workdir=runs/150m/constant-lr0.003-beta0.99"
    )
    assert {job.kind for job in jobs.values()} == {"trunk", "branch", "envelope"}


def test_the_table_its_totals_and_what_a_trunk_saves(sweeps):
    found = sweeps["150m"]
    given = sweep.parse([f"--config={FILES['150m']}", "--list"])
    jobs = [job for job in found.jobs if job.batch_size == 256]
    text = sweep.to_text(jobs, sweep.speed(found, given), given.file)
    title, table, totals, compared = text.split("\n\n")
    assert title.startswith("configs/anytime_150m.py: 144 jobs\nhours: of the steps ")
    assert " on 1 device at 300,000 tokens/s (one H100, a comment in " in title
    rows = {line.split()[0]: line.split() for line in table.splitlines()[1:]}
    assert len(rows) == 144
    # 400,000 steps of 262,144 tokens and 3.288e14 FLOPs; 349,525 seconds.
    trunk = rows["constant-lr0.003-beta0.99"]
    assert trunk[1:5] == ["400,000", "104.858", "1.315e+20", "97.1"]
    assert trunk[5:9] == ["python", "-m", "anytime_jax", "train"]
    branch = rows["wsd-1x-lr0.001-beta0.95"]
    assert branch[1:5] == ["1,250", "0.328", "4.110e+17", "0.3"]
    assert branch[5:9] == ["constant-lr0.001-beta0.95", "at", "11250", "python"]

    sums = {line[:31].rstrip(): line[31:].split() for line in totals.splitlines()[1:]}
    hours = 12_500 * 262_144 / 300_000 / 3600
    for name, (jobs, units) in {
        "batch of 256, constant trunks": (12, 312),
        "batch of 256, inverse_sqrt trunks": (18, 576),
        "batch of 256, branches": (48, 42.3),
        "batch of 256, cosine envelope": (66, 612),
        "all": (144, 1542.3),
    }.items():
        [found] = [value for key, value in sums.items() if name.startswith(key)]
        found = [float(number.replace(",", "")) for number in found[-4:]]
        assert found == pytest.approx(
            [jobs, units * 3.2768, units * 12_500 * 3.288227e14, units * hours],
            rel=2e-3,
        )
    assert "one trunk of 400,000 steps, 104.9 billion tokens, 97.1 hours" in compared
    assert "each of 6 horizons, 206.4 billion tokens, 191.1 hours: 1.97 " in compared
    assert "(1 + 2 + 4 + 8 + 16 + 32 = 63 times 12,500 steps, against 32)" in compared
    assert "all settings: 66 cosine runs, 2,005.4 billion tokens" in compared
    assert "  1.96 times as much as 12 constant trunks, " in compared  # 612 / 312
    assert "  1.06 times as much as 18 inverse_sqrt trunks, " in compared  # 612 / 576


def test_hours_from_the_peak_of_the_hardware(sweeps):
    given = sweep.parse(
        [
            *("--config=configs/anytime_150m.py", "--list", "--devices=8"),
            *("--hardware=v5e", "--utilisation=0.5"),
        ]
    )
    speed, job = sweep.speed(sweeps["150m"], given), sweeps["150m"].jobs[0]
    assert speed.text == "8 devices at 0.5 of the 197 bfloat16 TFLOP/s of v5e"
    seconds = 400_000 * 328_822_696_181_760 / (8 * 0.5 * 197e12)
    assert speed.hours([job, job]) == pytest.approx(2 * seconds / 3600)
    # What the authors measured is 0.38 of the peak of an H100.
    given = given._replace(hardware=None, devices=1)
    measured = sweep.speed(sweeps["150m"], given).hours([job])
    given = given._replace(hardware="h100", utilisation=1.0)
    peak = sweep.speed(sweeps["150m"], given).hours([job])
    assert peak / measured == pytest.approx(0.38, abs=0.005)


# A sweep of the tiny model, as a user would write one.
TINY = """
from configs import tiny

get_config = tiny.get_config


def get_sweep():
    steps = {"duration.chinchilla": 0.0, "duration.steps": 100}
    horizons = {"horizons.chinchilla": (), "horizons.steps": (100,)}
    trunk = dict(name="trunk", variant="constant", overrides=steps | horizons)
    exit = {"branch.step": START, "schedule.steps": 20} | EXTRA
    exit = dict(name="exit", variant="cooldown", overrides=exit, after="trunk")
    return dict(workdir="runs/a tiny one", jobs=[trunk, exit])
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    def write(start=80, extra="{}", text=TINY):
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        file = folder / "small_sweep.py"
        file.write_text(text.replace("START", str(start)).replace("EXTRA", extra))
        return f"--config={file}"

    return write


def test_commands_alone_for_a_shell(tiny, capsys):
    flag = tiny()
    lines = printed(capsys, flag, "--list=commands", "--config.seed=3").splitlines()
    assert len(lines) == 2
    assert [shlex.split(line)[4:6] for line in lines] == [
        [f"{flag}:constant", "--workdir=runs/a tiny one/trunk"],
        [f"{flag}:cooldown", "--workdir=runs/a tiny one/exit"],
    ]
    assert all(shlex.split(line)[-1] == "--config.seed=3" for line in lines)
    [line] = printed(
        capsys, flag, "--list=commands", "--only=ex*", "--workdir=/r"
    ).splitlines()
    assert " --workdir=/r/exit " in line
    assert shlex.split(line)[-1] == "--config.branch.workdir=/r/trunk"


def test_a_sweep_without_a_measured_speed_or_an_envelope(tiny, capsys):
    text = printed(capsys, tiny(), "--list", "--hardware=h100")
    assert " 1 device at 0.4 of the 989 bfloat16 TFLOP/s of h100" in text
    assert text.split("\n\n")[-1].splitlines()[-1].startswith("all ")
    assert main.main(["sweep", tiny(), "--list"]) == 2
    assert "--hardware=NAME is missing, as the sweep states no" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(start=75), "job exit: branch.step=75 is no step that its trunk keeps"),
        (
            dict(extra="{'optimizer.b2': 0.5}"),
            "these differ from branch.workdir=",
        ),
        (dict(extra="{'optimizer.b7': 0.5}"), "job exit: --config.optimizer.b7 is"),
        (
            dict(extra="{'schedule.steps': 0}"),
            "job exit: schedule.steps=0 must ",
        ),
        (dict(extra="{'batch_size': 0}"), "job exit: batch_size=0 must be "),
        (
            dict(text=TINY.replace('"trunk")', '"tree")')),
            "after='tree' must be ",
        ),
        (dict(text=TINY.replace('"exit"', '"trunk"')), "2 jobs are named trunk"),
        (
            dict(text=TINY.replace("variant", "kind")),
            "get_sweep has to return",
        ),
        (dict(text=TINY.replace("jobs=", "job=")), "documents (KeyError: 'jobs')"),
        (dict(text=TINY.replace("[trunk, exit]", "()")), "returned 0 jobs and tokens"),
        (dict(text=TINY.replace("jobs=", "tokens_per_second=0, jobs=")), "second=0, a"),
        (dict(text=TINY.replace("dict(work", "nodict(")), "NameError: name 'nodict'"),
    ],
)
def test_every_mistake_in_a_sweep_is_one_line(tiny, capsys, changes, message):
    flag = tiny(**changes)
    assert main.main(["sweep", flag, "--list=commands"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith(f"anytime_jax: {flag}: ") and message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--list is missing: a sweep is only listed, nothing is launched"),
        (["--list=all"], "value should be one of <table|commands>"),
        (
            ["--list", "--only=wsd"],
            "--only=wsd matches no job; the first of 2",
        ),
        (["--list", "--devices=0"], "--devices=0: "),
        (["--list", "--utilisation=0.5"], "--utilisation=0.5 needs --hardware=NAME"),
        (
            ["--list", "--hardware=h100", "--utilisation=nan"],
            "--utilisation=nan must be above 0 and at most 1",
        ),
        (
            ["--list", "--config.duration.steps=9"],
            "job trunk of the sweep sets",
        ),
        (["--list", "--config.sede=9"], "--config.sede is unknown; config has "),
    ],
)
def test_every_mistake_of_the_command_line_is_one_line(
    tiny, capsys, arguments, message
):
    assert main.main(["sweep", tiny(), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config=configs/tiny.py", "configs/tiny.py has no function get_sweep"),
        ("--config=configs/nowhere.py", "there is no file configs/nowhere.py"),
        (
            "--config=configs/tiny.py:cosine",
            "has variants of its own; give --config=",
        ),
    ],
)
def test_a_file_without_a_sweep_is_named(capsys, flag, message):
    assert main.main(["sweep", flag, "--list"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"anytime_jax: {flag}: ") and message in line
