"""The experiment: its runs, what is chosen and what not."""

import dataclasses
import math
import signal
import subprocess
import sys
import time

import pytest

from anytime_jax import data, training
from anytime_jax.schedules import cooldowns
from anytime_jax.training import recipe
from experiments.anytime_vs_cosine import (
    analysis,
    documents,
    protocol,
    run,
    selection,
    work,
)
from experiments.anytime_vs_cosine.protocol import FULL, QUICK, Job
from tests.pretended import done, result_of


@pytest.fixture(scope="module")
def results():
    return done(FULL)


# What is trained.


def test_the_grid_is_that_of_the_protocol():
    jobs = protocol.grid(FULL, 1)
    assert len(jobs) == len({job.name for job in jobs}) == 2 * 4 + 2 * 4 * 6
    assert len(protocol.grid(FULL, 16)) == 2 * 4 + 4 * 5
    trunks = [job for job in jobs if job.is_trunk]
    assert all(job.times == 32 and job.cooldowns for job in trunks)
    # Six cosines are twice as long as a trunk, but for one 1x.
    cosines = [j.cost for j in jobs if (j.schedule, j.peak) == ("cosine", 1e-2)]
    assert sum(cosines) == 63 == 2 * trunks[0].times - 1
    assert trunks[0].cost == pytest.approx(32 + 0.3 * 63)


@pytest.mark.parametrize("batch", [1, 16])
def test_runs_have_the_papers_ratios(batch):
    for job in (job for job in protocol.grid(FULL, batch) if job.peak == 2e-2):
        config = protocol.config(job)
        plan = training.plan(config)
        steps_1x = 768 // batch
        assert plan.total_steps == job.times * steps_1x
        assert plan.horizons == tuple(
            t * steps_1x for t in FULL.times[: len(plan.horizons)]
        )
        assert plan.tokens_per_step == 1024 * batch
        ratio = 0.4 if batch == 1 else 500 / 782
        warm = config.schedule.warmup_steps
        assert warm == round(ratio * steps_1x)
        assert float(plan.schedule(warm)) == pytest.approx(job.peak, rel=1e-6)
        assert config.clip_norm == 1.0
        assert config.optimizer.to_dict() == dict(name="adam", b1=0.9, b2=0.98)
        if job.schedule == "inverse_sqrt":
            at = warm + round(4.1 * steps_1x)
            expected = job.peak / math.sqrt(2)
            assert float(plan.schedule(at)) == pytest.approx(expected, rel=1e-2)
        if job.schedule == "cosine":
            end = float(plan.schedule(plan.total_steps))
            assert end == pytest.approx(0.1 * job.peak, rel=1e-5)
        expected = set(selection.AVERAGES) if job.is_trunk else set()
        assert set(config.averages) == expected


@pytest.mark.parametrize(
    ("schedule", "variation", "key", "value"),
    [
        ("constant", "constant_warmup_0.1", "warmup_steps", 76),
        ("inverse_sqrt", "inverse_sqrt_warmup_0.1", "warmup_steps", 76),
        ("constant", "constant_warmup_1", "warmup_steps", 768),
        ("linear", "linear_warmup_1", "warmup_steps", 768),
        ("inverse_sqrt", "inverse_sqrt_offset_1", "offset", 768.0),
    ],
)
def test_a_variation_changes_one_thing(schedule, variation, key, value):
    job = Job(schedule, 32, 1e-2, 0.98)
    expected = protocol.config(job).to_dict()
    expected["schedule"][key] = value
    varied = dataclasses.replace(job, variation=variation)
    assert protocol.config(varied).to_dict() == expected


def test_a_run_passes_over_its_data_once():
    config = protocol.config(protocol.grid(FULL, 1)[0])
    dataset = data.load(**config.data, sequence_length=64)
    there = dataset.description["train"]["tokens"]
    assert config.duration.steps * config.batch_size * 64 < there


def test_restarts_end_at_every_horizon():
    job = Job("restarts", 32, 1e-2, 0.98)
    plan = training.plan(protocol.config(job))
    for times, steps in job.horizons.items():
        assert float(plan.schedule(steps - 1)) == pytest.approx(1e-3, rel=2e-3), times
        if times < 32:
            assert float(plan.schedule(steps)) == pytest.approx(1e-2, rel=1e-6)


def test_cooldowns_end_at_their_horizon():
    job = protocol.grid(FULL, 1)[0]
    trunk = protocol.config(job)
    kept = recipe.kept(trunk, training.plan(trunk))
    for kind, percent in (("cooldown_10", 10), ("cooldown_20", 20)):
        for steps in job.horizons.values():
            config = protocol.cooldown_config(job, "trunk", kind, steps)
            assert config.branch.step + config.schedule.steps == steps
            assert config.schedule.steps == pytest.approx(steps * percent / 100, abs=1)
            assert config.branch.step in kept["branch_starts"]
    shapes = {kind: dict(spec) for kind, spec in protocol.COOLDOWNS.items()}
    end = {
        kind: cooldowns.multiplier(spec["shape"], spec["final_fraction"])(1.0)
        for kind, spec in shapes.items()
    }
    assert end == pytest.approx(dict(cooldown_10=0.1, cooldown_20=0.0))


@pytest.mark.parametrize(
    ("name", "recipe", "steps"),
    [
        ("window_10", dict(name="window", start=1382, stop=1536), None),
        ("window_20", dict(name="window", start=1228, stop=1536), None),
        ("wsm_12", dict(name="from_decay", shape="1-sqrt"), [1440, 1536]),
        ("wsm_50", dict(name="from_decay", shape="1-sqrt"), [*range(864, 1537, 96)]),
    ],
)
def test_merges_are_of_the_last_part(name, recipe, steps, monkeypatch):
    assert name in protocol.MERGES
    asked = []
    monkeypatch.setattr(
        training.merging,
        "plan",
        lambda trunk, recipe, steps=None: asked.append((trunk, recipe, steps)),
    )
    monkeypatch.setattr(training.merging, "merge", lambda plan: [1.0])
    assert work._merged("trunk", name, 2 * 768, 96) == [1.0]
    assert asked == [("trunk", recipe, steps)]


def test_workers_are_stopped_together(tmp_path):
    command = [sys.executable, "-m", "experiments.anytime_vs_cosine.run", "--quick"]
    command += [f"--out={tmp_path}", "--workers=2"]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("quick/*_seed0"))) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait() == 143
    # Both have let go of their jobs, and wrote what time these took.
    for path in tmp_path.glob("quick/claims/*"):
        work.claim(path).close()
    assert len(list(tmp_path.glob("quick/*/training.seconds"))) == 2


# What follows from what.


@pytest.mark.parametrize(
    ("best", "added"),
    [(8e-2, {8e-2, 16e-2}), (2.5e-3, {2.5e-3, 1.25e-3})],
)
def test_the_grid_grows_while_the_best_is_at_its_edge(best, added):
    def rule(job):
        made = result_of(job)
        for of in made["losses"].values():
            for times in of:  # One beyond the grid.
                of[times] += 0.1 * abs(math.log2(job.peak / best))
        return made

    found = done(FULL, rule)
    jobs = [job for job in found if (job.batch, job.seed, job.beta2) == (1, 0, 0.98)]
    for schedule in (*protocol.ENVELOPE, *protocol.TRUNKS):
        peaks = {job.peak for job in jobs if job.schedule == schedule}
        assert peaks == {5e-3, 1e-2, 2e-2, 4e-2} | added


def test_nothing_is_added_to_a_grid_with_its_optimum_inside(results):
    jobs = [job for job in results if (job.batch, job.seed) == (1, 0)]
    assert {job.peak for job in jobs if job.beta2 == 0.98} == {5e-3, 1e-2, 2e-2, 4e-2}
    varied = {job.variation: job for job in jobs if job.variation}
    assert varied.keys() == protocol.VARIATIONS.keys()
    for name, job in varied.items():
        assert name.startswith(job.schedule) and job.name.startswith(name)
        assert (job.peak, job.times, job.cooldowns) == (1e-2, 32, False)
    others = [job for job in jobs if job.beta2 != 0.98]
    assert {(job.schedule, job.beta2, job.peak, job.times) for job in others} == {
        (schedule, beta2, 1e-2, 32)
        for schedule in (*protocol.TRUNKS, "linear")
        for beta2 in (0.95, 0.99)
    }


def test_only_seed_0_decides(results):
    chosen = selection.methods(selection.losses(results))
    other = {
        job: result
        if job.seed == 0
        else result
        | dict(losses={n: dict.fromkeys(of, 0.0) for n, of in result["losses"].items()})
        for job, result in results.items()
    }
    assert selection.methods(selection.losses(other)) == chosen
    wanted = [selection.wanted(selection.losses(r), FULL) for r in (results, other)]
    assert wanted[0] == wanted[1]
    seeds = [job for job in results if job.seed]
    assert {job.seed for job in seeds} == {1, 2, 3}
    assert {job.peak for job in seeds if job.batch == 1} == {1e-2}


def test_the_setting_is_that_of_the_smallest_worst_regret(results):
    losses = selection.losses(results)
    setting, worst = selection.choose(losses, "constant", "average")
    assert (setting.exit, setting.job.peak, setting.job.beta2) == ("ema25", 1e-2, 0.98)
    best = {
        times: min(
            of["raw"][times]
            for job, of in losses.items()
            if job.schedule in protocol.ENVELOPE
            and (job.times, job.seed, job.batch) == (times, 0, 1)
        )
        for times in FULL.times
    }
    regrets = [losses[setting.job]["ema25"][times] - best[times] for times in best]
    assert worst == max(regrets)


def test_a_peak_that_is_best_early_and_bad_late_is_not_chosen():
    def rule(job):
        made = result_of(job)
        if job.schedule == "constant" and job.peak == 2e-2:
            of = made["losses"]["ema25"]
            of |= {times: loss - 0.5 for times, loss in of.items() if times != "32"}
        return made

    losses = selection.losses({job: rule(job) for job in protocol.grid(FULL, 1)})
    assert selection.choose(losses, "constant", "average")[0].job.peak == 1e-2


# What is done.


def test_quick_has_every_kind_of_job():
    found = done(QUICK)
    assert {job.schedule for job in found} == {
        *protocol.TRUNKS,
        *protocol.ENVELOPE,
        "restarts",
    }
    assert {job.seed for job in found} == {0, 1}
    assert max(job.steps(job.times) for job in found) == 96
    assert analysis.Comparison(found, QUICK, 1).seeds == [1]


def test_one_worker_has_a_job(tmp_path):
    held = work.claim(tmp_path / "claims" / "job")
    assert work.claim(tmp_path / "claims" / "job") is None
    held.close()
    again = work.claim(tmp_path / "claims" / "job")
    assert again is not None
    again.close()


def test_time_is_counted_over_all_starts(tmp_path, monkeypatch):
    clock = iter([0.0, 2.0, 100.0, 103.5])
    monkeypatch.setattr(work.time, "perf_counter", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), work._timed(tmp_path / "job", "training"):
        raise KeyboardInterrupt
    with work._timed(tmp_path / "job", "training"):
        pass
    assert work._seconds(tmp_path / "job", "training") == 5.5
    assert work._seconds(tmp_path / "job", "evaluation") == 0.0


@pytest.mark.parametrize("count", [1, 3])
def test_shards_share_the_jobs(tmp_path, count, monkeypatch):
    found = []
    for index in range(1, count + 1):
        flags = ["run", f"--results={tmp_path}", f"--shard={index}/{count}"]
        monkeypatch.setattr("sys.argv", flags)
        options = run.parse()
        found += run.pending(options)
    assert sorted(found) == sorted(selection.wanted({}, FULL))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_is_none_is_an_error(shard, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", f"--shard={shard}"])
    with pytest.raises(SystemExit, match="2"):
        run.parse()
    assert f"--shard={shard} is not I/N" in capsys.readouterr().err


def test_one_set_is_to_choose_by_and_another_to_report_on(monkeypatch):
    made = []
    monkeypatch.setattr(
        documents, "Documents", lambda config, **options: made.append(options)
    )
    run._documents.cache_clear()
    for reported in (False, True):
        run._documents(reported, quick=False)
    run._documents.cache_clear()
    assert made == [{}, dict(most=documents.MOST)]


def test_a_run_that_diverges_is_the_worst_of_its_grid():
    def rule(job):
        made = result_of(job)
        return made | dict(losses=work._diverged(job)) if job.peak == 4e-2 else made

    found = done(FULL, rule)
    for job in found:
        if job.seed:
            assert job.peak == 1e-2
    assert work._diverged(one := protocol.grid(FULL, 1)[0]).keys() == (
        result_of(one)["losses"].keys()
    )


@pytest.mark.slow
def test_the_smoke_test_is_interrupted_goes_on_and_is_reported(tmp_path):
    command = [sys.executable, "-m", "experiments.anytime_vs_cosine.run", "--quick"]
    command += [f"--out={tmp_path}", "--workers", "2"]
    first = subprocess.Popen([*command[:-1], "1"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if list(tmp_path.glob("quick/*/run/snapshots/4*")):
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    _, text = first.communicate()
    assert first.returncode == 143
    assert text.splitlines()[-1].startswith("stopped by SIGTERM after step")
    subprocess.run(command, check=True)
    results = tmp_path / "quick" / "results"
    assert run.read(results).keys() == done(QUICK).keys()
    report = ["experiments.anytime_vs_cosine.report", "--quick"]
    report += [f"--results={results}", f"--out={tmp_path}"]
    made = subprocess.run(
        [sys.executable, "-m", *report], check=True, capture_output=True, text=True
    )
    assert "constant + average" in made.stdout
    assert (tmp_path / "figure2.png").exists()
