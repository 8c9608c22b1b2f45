"""The experiment: its runs, what is chosen and what not, its numbers and pictures."""

import csv
import dataclasses
import math
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from anytime_jax import data, models, training
from anytime_jax.schedules import cooldowns
from experiments import published
from experiments.anytime_vs_cosine import (
    analysis,
    documents,
    figures,
    paper,
    protocol,
    report,
    run,
    selection,
    work,
)
from experiments.anytime_vs_cosine.protocol import FULL, QUICK, Job
from tests.pretended import done, loss_of, result_of

GROUPS = documents.GROUPS


@pytest.fixture(scope="module")
def results():
    return done(FULL)


@pytest.fixture(scope="module")
def comparison(results):
    return analysis.Comparison(results, FULL, 1)


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
    for job in protocol.grid(FULL, batch):
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
    for kind, percent in (("cooldown_10", 10), ("cooldown_20", 20)):
        for steps in job.horizons.values():
            config = protocol.cooldown_config(job, "trunk", kind, steps)
            assert config.branch.step + config.schedule.steps == steps
            assert config.schedule.steps == pytest.approx(steps * percent / 100, abs=1)
            # There is a snapshot to branch off.
            assert config.branch.step == steps * (100 - percent) // 10 // 10
    shapes = {kind: dict(spec) for kind, spec in protocol.COOLDOWNS.items()}
    end = {
        kind: cooldowns.multiplier(spec["shape"], spec["final_fraction"])(1.0)
        for kind, spec in shapes.items()
    }
    assert end == pytest.approx(dict(cooldown_10=0.1, cooldown_20=0.0))


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
        for schedule in protocol.TRUNKS
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


# Numbers.


def test_regrets_are_paired_by_seed(results, comparison):
    assert comparison.seeds == [1, 2, 3]
    found = comparison.regrets("constant_average", 4, "cosine")
    own, other = (Job(s, t, 1e-2, 0.98) for s, t in (("constant", 32), ("cosine", 4)))
    for seed, regret in zip((1, 2, 3), found, strict=True):
        one, two = (dataclasses.replace(job, seed=seed) for job in (own, other))
        expected = loss_of(one, "ema25", 4) - loss_of(two, "raw", 4)
        assert regret == pytest.approx(expected)
    # Linear was the better one on seed 0, and is what all are compared with.
    assert comparison.regrets("linear", 4) == [0, 0, 0]
    assert max(comparison.regrets("cosine", 4)) != 0


def test_a_seed_counts_when_all_of_it_is_there(results):
    part = {job: r for job, r in results.items() if job.seed < 3 or job.times < 32}
    assert analysis.Comparison(part, FULL, 1).seeds == [1, 2]


def test_standard_error_is_that_of_a_bootstrap_over_groups():
    rng = np.random.default_rng(0)
    counts = rng.integers(50, 500, GROUPS)
    differences = rng.normal(0.01, 0.05, GROUPS)
    drawn = rng.integers(0, GROUPS, (20_000, GROUPS))
    means = (differences * counts)[drawn].sum(1) / counts[drawn].sum(1)
    found = documents.standard_error(differences, counts)
    assert found == pytest.approx(means.std(), rel=0.05)


def test_standard_error_of_equal_groups_is_the_textbooks():
    differences = np.random.default_rng(1).normal(size=GROUPS)
    expected = differences.std(ddof=1) / math.sqrt(GROUPS)
    found = documents.standard_error(differences, np.full(GROUPS, 7))
    assert found == pytest.approx(expected)


def test_documents_are_whole_in_their_groups_and_sum_to_the_loss():
    config = protocol.config(protocol.grid(FULL, 1)[0])
    found = documents.Documents(config, sequences=1024)
    assert found.counts_G.sum() == 1024 * 64
    model = models.build(config.model.to_dict())
    params = model.init(jax.random.key(0))
    losses_G = found.losses(params)
    total = documents.mean(losses_G, found.counts_G)
    logits = model.apply(params, found.tokens_NxBxL1.reshape(1024, -1)[:, :-1])
    targets = found.tokens_NxBxL1.reshape(1024, -1)[:, 1:]
    chances = jax.nn.log_softmax(logits)
    own = -np.take_along_axis(np.asarray(chances), np.asarray(targets)[..., None], 2)
    assert total == pytest.approx(own.mean(), rel=1e-5)
    # A sequence without an end is in one group.
    ends = np.asarray(targets == 0).any(1)
    groups = np.asarray(found.of_NxBxL).reshape(1024, -1)
    assert all(len(set(row)) == 1 for row in groups[~ends])
    assert set(groups.ravel()) == set(range(GROUPS))


# Tables and pictures.


def test_csv_has_the_columns_of_the_papers_table(comparison, tmp_path):
    analysis.write_csv([comparison], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 3
    row = rows[0]
    assert [row[k] for k in ("batch", "horizon", "step", "tokens", "seed")] == [
        "1024",
        "1x",
        "768",
        "786432",
        "1",
    ]
    delta = float(row["constant_average"]) - float(row["cosine"])
    assert float(row["delta_constant_average"]) == pytest.approx(delta, abs=2e-6)


def test_report_prints_and_draws_everything(results, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    for job, result in results.items():
        work.write(result, folder / f"{job.name}.json")
    assert run.read(folder).keys() == results.keys()
    flags = ["report", f"--results={folder}", f"--out={tmp_path}"]
    monkeypatch.setattr("sys.argv", flags)
    assert report.main() == 0
    printed = capsys.readouterr()
    assert not printed.err
    for title in figures.TITLES.values():
        assert title in printed.out
    assert "Batch of 16,384 tokens" in printed.out
    for number in (1, 2, 3, 4):
        assert (tmp_path / f"figure{number}.png").stat().st_size > 10_000
    assert (tmp_path / "results.csv").exists()
    assert printed.out.strip() in (tmp_path / "tables.md").read_text()


def test_the_papers_numbers_are_the_released_ones():
    path = published.find("anytime/figure2_losses.csv")
    if path is None:
        pytest.skip("the published numbers are not here")
    columns = dict(
        constant_average="delta_constant_ema25",
        inverse_sqrt_average="delta_inverse_sqrt_ema25",
        constant_cooldown_10="delta_wsd_last_iterate",
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    largest = 0.0
    for size, of in paper.DIFFERENCES.items():
        for name, values in of.items():
            expected = [float(r[columns[name]]) for r in rows if r["model"] == size]
            assert values == pytest.approx(expected, abs=5.1e-6)
            largest = max(largest, *map(abs, values))
    assert round(largest, 3) == paper.BAND


def test_the_distance_to_the_paper_is_in_pooled_spreads(comparison):
    rows = [
        [cell.strip() for cell in line.split("|")[2:4]]
        for line in report.paper_to_markdown(comparison).splitlines()[-5:]
    ]
    (_, _), (_, there), (_, here), (_, _), (text, apart) = rows
    pooled = float(text.split()[-1])
    found = [
        comparison.regrets("constant_cooldown_10", t, "cosine") for t in FULL.times
    ]
    variances = [np.var(one, ddof=1) for one in found]
    assert pooled == pytest.approx(math.sqrt(np.mean(variances)), abs=5e-5)
    distance = float(here) - float(there)
    assert float(apart) == pytest.approx(distance / pooled, rel=0.15)


def test_a_budget_may_choose_another_trunk():
    def rule(job):
        made = result_of(job)
        if job.schedule == "constant" and job.peak == 2e-2:
            made["losses"]["uniform"]["1"] -= 0.5
        return made

    found = {job: rule(job) for job in protocol.grid(FULL, 1)}
    first = report.budgets_to_markdown(found, 1).splitlines()[2]
    cells = [cell.strip() for cell in first.split("|")[3:-1]]
    assert cells[0].endswith("(uniform, 0.02)")
    assert all(cell.endswith("(ema25, 0.01)") for cell in cells[1:])


def test_costs_count_what_was_trained(results):
    rows = {name: (once, tuned) for name, once, tuned in report.costs(results)}
    assert rows["constant + averages"] == (32, 128 + 64)  # with beta2, not variations
    assert rows["6 runs, cosine"] == (63, 252)
    assert rows["constant + cooldown of 10 %"][0] == pytest.approx(32 + 6.3)


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


def test_results_of_different_data_are_not_mixed(results):
    one, *_ = results
    mixed = results | {one: results[one] | dict(data="another")}
    with pytest.raises(ValueError, match="different data"):
        analysis.Comparison(mixed, FULL, 1)


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


def test_documents_to_report_on_count_none_too_often():
    whole = documents._capped(np.repeat([3, 4, 9], [5, 40, 1]), 16)
    assert whole[:5].tolist() == [0, 1, 2, 3, 4] and whole[-1] == 45
    assert len(whole) == 5 + 16 + 1
    assert np.diff(whole[5:-1]).min() >= 2


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
