"""The experiment's numbers, tables and pictures, from results that are pretended."""

import csv
import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from anytime_jax import models
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
    views,
    work,
)
from experiments.anytime_vs_cosine.protocol import FULL, Job
from tests.pretended import done, loss_of, result_of

GROUPS = documents.GROUPS


@pytest.fixture(scope="module")
def results():
    return done(FULL)


@pytest.fixture(scope="module")
def comparison(results):
    return analysis.Comparison(results, FULL, 1)


# Numbers.


def test_regrets_are_paired_by_seed(results, comparison):
    assert comparison.seeds == [1, 2, 3]
    found = comparison.regrets("constant_average", 4, "cosine")
    own, other = (Job(s, t, 1e-2, 0.98) for s, t in (("constant", 32), ("cosine", 4)))
    for seed, regret in zip((1, 2, 3), found, strict=True):
        one, two = (dataclasses.replace(job, seed=seed) for job in (own, other))
        expected = loss_of(one, "ema25", 4) - loss_of(two, "raw", 4)
        assert regret == pytest.approx(expected)
    # What was the better one on seed 0 is what all are compared with.
    assert comparison.regrets("linear", 4) == comparison.regrets("cosine", 1) == [0] * 3
    assert max(comparison.regrets("cosine", 4)) > 0
    assert min(comparison.regrets("linear", 1)) > 0


def test_a_seed_counts_when_all_of_it_is_there(results):
    part = {job: r for job, r in results.items() if job.seed < 3 or job.times < 32}
    assert analysis.Comparison(part, FULL, 1).seeds == [1, 2]


def test_other_exits_are_compared_with_the_same_envelope(comparison):
    found = comparison.exit_regrets("constant_average", "uniform", 4)
    for seed, regret in zip((1, 2, 3), found, strict=True):
        run_of = dict(beta2=0.98, peak=1e-2, seed=seed)
        one = loss_of(Job("constant", 32, **run_of), "uniform", 4)
        assert regret == pytest.approx(
            one - loss_of(Job("linear", 4, **run_of), "raw", 4)
        )


def test_standard_error_is_of_the_methods_own_differences(results, comparison):
    def groups(schedule, times, name):
        jobs = [Job(schedule, times, 1e-2, 0.98, seed=seed) for seed in (1, 2, 3)]
        if schedule == "constant":
            jobs = [dataclasses.replace(job, cooldowns=True) for job in jobs]
        return np.mean([results[job]["groups"][name]["4"] for job in jobs], axis=0)

    apart = groups("constant", 32, "ema25") - groups("linear", 4, "raw")
    found = comparison.standard_error("constant_average", 4)
    assert found == pytest.approx(apart.std(ddof=1) / math.sqrt(GROUPS), rel=1e-6)
    one = comparison.standard_error("constant_average", 4, seeds=[0])
    assert one > found > 0


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
    some = own.reshape(found.of_NxBxL.shape)[:: documents._PART]
    assert found.part(params) == pytest.approx(some.mean(), rel=1e-5)


# Tables and pictures.


def test_tables_tell_the_best_and_the_worst(results, comparison):
    def rows(table):
        lines = table.splitlines()[2:]
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]

    for _, horizon, *cells in rows(report.tuning_to_markdown(results, 1)):
        assert [cell.startswith("**") for cell in cells] == [False, True] + 3 * [False]
        assert cells[1] == f"**{float(cells[1].strip('*')):.4f}**", horizon
    for row in rows(report.regrets_to_markdown(comparison, "cosine")):
        means = [float(cell.split(" ± ")[0]) for cell in row[1:-1]]
        assert float(row[-1]) == max(means)
    best = {row[0]: row for row in rows(report.trunks_to_markdown(results, 1))}
    assert best["constant"][1:4] == ["average", "0.005", "ema25"]


def test_hours_are_told_of_runs_of_which_they_are_not_known(results):
    total = sum(job.cost for job in results) / 3600  # As pretended: a second for 1x.
    one, *_ = results
    unknown = {k: v for k, v in results[one].items() if k != "seconds"}
    assert report.hours(results) == pytest.approx(total)
    assert report.hours(results | {one: unknown}) == pytest.approx(total)


def test_csv_has_a_row_for_each_horizon_and_seed(comparison, tmp_path):
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
    regret = float(row["constant_average"]) - min(
        float(row[name]) for name in protocol.ENVELOPE
    )
    assert float(row["regret_constant_average"]) == pytest.approx(regret, abs=2e-6)


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


def test_the_distance_to_the_paper_is_in_spreads_of_seeds(comparison):
    rows = [
        [cell.strip() for cell in line.split("|")[3:9]]
        for line in report.paper_to_markdown(comparison).splitlines()[-6:]
    ]
    there, _, here, spreads, apart, _ = rows
    found = [
        comparison.regrets("constant_cooldown_10", t, "cosine") for t in FULL.times
    ]
    first, *others = [np.var(one, ddof=1) for one in found]
    assert float(spreads[0]) == pytest.approx(math.sqrt(first), abs=5e-5)
    pooled = math.sqrt(np.mean(others))
    assert [float(cell) for cell in spreads[1:]] == pytest.approx(
        [pooled] * 5, abs=5e-5
    )
    distance = float(here[5]) - float(there[5])
    assert float(apart[5]) == pytest.approx(distance / pooled, rel=0.01)


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


def test_checks_are_beside_the_usual_run():
    def rule(job):
        made = result_of(job)
        if job.variation == "linear_warmup_1":
            made["losses"]["raw"]["32"] -= 0.5
        return made

    found = done(FULL, rule)
    lines = report.checks_to_markdown(found).splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    what = ["usual", "beta2 0.95", "beta2 0.99", "warmup 1"]
    assert [row[2] for row in rows[-4:]] == what
    assert rows[-4][3:] == [""] * 5 + ["+0.0000"]
    assert rows[-1][3:] == [""] * 5 + ["-0.5000"]  # and no part of the envelope
    [first] = [row[3:] for row in rows if row[0] == "constant"]
    [wide] = [row[3:] for row in rows if row[2] == "beta2 0.95"][:1]
    change = [float(b) - float(a) for a, b in zip(first, wide, strict=True)]
    assert change == pytest.approx([0.03] * 6, abs=1e-9)
    comparison = analysis.Comparison(found, FULL, 1)
    expected = loss_of(Job("linear", 32, 1e-2, 0.98, seed=1), "raw", 32)
    assert comparison.loss("linear", 32, 1) == pytest.approx(expected)


def test_costs_count_what_was_trained_to_choose_from(results):
    rows = {name: (once, tuned) for name, once, tuned in report.costs(results)}
    assert rows["constant + averages"] == (32, 128)
    assert rows["6 runs, cosine"] == (63, 252)
    assert rows["12 runs, the better"] == (126, 504)
    # 0.9 of 32x, and a tenth of each of the horizons.
    assert rows["constant + cooldown of 10 %"] == pytest.approx((35.1, 4 * 35.1))


@pytest.mark.parametrize("lowest", [0.4, 1.0, 1.3])
def test_between_peaks_a_parabola_is_found(lowest):
    losses = {2.0**k: 3 + 0.1 * (k - lowest) ** 2 for k in range(-1, 4)}
    assert report._least(losses) == pytest.approx(3, abs=1e-12)
    del losses[0.5], losses[1.0]
    assert report._least(losses) == min(losses.values())


def test_a_run_that_diverged_is_reported(results):
    one = next(job for job in results if (job.schedule, job.seed) == ("restarts", 2))
    lost = work._diverged(one)
    groups = {n: {t: [math.inf] * GROUPS for t in of} for n, of in lost.items()}
    made = results | {one: dict(job=vars(one), losses=lost, groups=groups)}
    comparison = analysis.Comparison(made, FULL, 1)
    text = report.to_markdown([comparison], made)
    assert "cosine, restarted at every horizon | +inf ± nan" in text
    assert math.isnan(comparison.standard_error(analysis.RESTARTED, 8))


def test_results_of_different_data_are_not_mixed(results):
    one, *_ = results
    mixed = results | {one: results[one] | dict(data="another")}
    with pytest.raises(ValueError, match="different data"):
        analysis.Comparison(mixed, FULL, 1)


def test_documents_to_report_on_count_none_too_often():
    whole = documents._capped(np.repeat([3, 4, 9], [5, 40, 1]), 16)
    assert whole[:5].tolist() == [0, 1, 2, 3, 4] and whole[-1] == 45
    assert len(whole) == 5 + 16 + 1
    assert np.diff(whole[5:-1]).min() >= 2


# What the repository says.


@pytest.fixture(scope="module")
def trained():
    found = run.read(run.RESULTS)
    return found, report.compare(found, FULL)


def test_all_seeds_of_all_batches_are_there(trained):
    results, comparisons = trained
    assert [(c.batch, c.seeds) for c in comparisons] == [
        (1, [1, 2, 3]),
        (16, [1, 2, 3]),
    ]
    assert set(selection.wanted(selection.losses(results), FULL)) <= set(results)


def test_the_tables_are_those_of_the_results(trained, tmp_path):
    results, comparisons = trained
    stored = json.loads((run.HERE / "views.json").read_text())
    parts = [report.to_markdown(comparisons, results), views.to_markdown(stored)]
    assert (run.HERE / "tables.md").read_text() == "\n".join(parts)
    analysis.write_csv(comparisons, tmp_path / "results.csv")
    made = (tmp_path / "results.csv").read_text()
    assert (run.HERE / "results.csv").read_text() == made


def test_the_readme_has_tables_of_the_results(trained):
    results, (usual, large) = trained
    readme = (run.HERE / "README.md").read_text()
    for table in (
        report.regrets_to_markdown(usual, analysis.BETTER),
        report.regrets_to_markdown(large, "cosine"),
        report.paper_to_markdown(usual),
        report.checks_to_markdown(results),
    ):
        assert table in readme


def test_differences_are_known_to_less_than_a_thousandth(trained):
    """Over validation documents, of all that is compared but what nobody would ship."""
    for comparison in trained[1]:
        unfinished = ("constant_raw", "inverse_sqrt_raw", analysis.STOPPED)
        for name in set(comparison.methods) - set(unfinished):
            for times in comparison.times:
                against = analysis.BETTER if comparison.batch == 1 else "cosine"
                assert comparison.standard_error(name, times, against) < 1e-3
