"""The tables and pictures of what is in results/, in seconds and without training.

    python -m experiments.anytime_vs_cosine.report [--results=DIR] [--out=DIR]

Prints the tables and writes them to tables.md, with results.csv and figure1.png to
figure4.png; draws views.png from views.json, which experiments.anytime_vs_cosine.views
computes in minutes.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Mapping

import numpy as np

from anytime_jax.reporting import tables
from experiments.anytime_vs_cosine import (
    analysis,
    figures,
    paper,
    protocol,
    run,
    selection,
    views,
)
from experiments.anytime_vs_cosine.analysis import (
    BETTER,
    RESTARTED,
    Comparison,
    spread,
)
from experiments.anytime_vs_cosine.protocol import Job

_HEAD = """# anytime_vs_cosine: all tables

Losses in nats per byte. After ± is the standard deviation over seeds; a regret is a
difference of two runs of the same seed, and positive where the method is worse. What
was tried on seed 0 was measured on other documents than what is reported: of the two,
regrets can be compared and losses cannot.
"""


def losses_to_markdown(comparison: Comparison) -> str:
    """The losses of every method: mean and standard deviation over seeds."""
    header = ["method", "setting", *(f"{times}x" for times in comparison.times)]
    body = []
    for name, method in comparison.methods.items():
        cells = []
        for times in comparison.times:
            found = [comparison.loss(name, times, seed) for seed in comparison.seeds]
            cells.append(f"{np.mean(found):.4f} ± {spread(found):.4f}")
        body.append([figures.TITLES[name], method.setting, *cells])
    return tables.markdown_table(header, body)


def regrets_to_markdown(comparison: Comparison, against: str) -> str:
    """The regrets of every method, and the worst over the horizons."""
    header = ["method", *(f"{times}x" for times in comparison.times), "worst"]
    body = []
    for name in comparison.methods:
        if name == against:
            continue
        found = [comparison.regrets(name, times, against) for times in comparison.times]
        cells = [f"{np.mean(one):+.4f} ± {spread(one):.4f}" for one in found]
        worst = max(float(np.mean(one)) for one in found)
        body.append([figures.TITLES[name], *cells, f"{worst:+.4f}"])
    return tables.markdown_table(header, body, left=1)


def paper_to_markdown(comparison: Comparison) -> str:
    """Loss minus tuned cosine there and here, and how far apart in seed spreads.

    The spreads are those of this experiment's seeds: that of 1x, which is far larger
    than the others, and that of the other horizons, pooled.
    """
    header = ["method", "where", *(f"{times}x" for times in comparison.times)]
    body = []
    for name in paper.DIFFERENCES["150M"]:
        found = [comparison.regrets(name, t, "cosine") for t in comparison.times]
        means = [float(np.mean(one)) for one in found]
        first, *others = [spread(one) for one in found]
        pooled = math.sqrt(np.mean(np.square(others)))
        spreads = [first, *[pooled] * len(others)]
        title = figures.TITLES[name]
        # The larger model has no last horizon, a smoke test no later ones.
        known = {size: of[name][: len(means)] for size, of in paper.DIFFERENCES.items()}
        for size, values in known.items():
            where = f"paper, {size}, nats per token"
            body.append([title, where, *(f"{x:+.4f}" for x in values)])
        where = "here, nats per byte"
        body.append([title, where, *(f"{x:+.4f}" for x in means)])
        body.append([title, "spread of seeds", *(f"{x:.4f}" for x in spreads)])
        for size, values in known.items():
            triples = zip(means, values, spreads, strict=False)
            cells = [f"{(x - y) / z:+.1f}" if z else "" for x, y, z in triples]
            body.append([title, f"here minus {size}, in spreads", *cells])
    width = len(header)
    body = [[*row, *[""] * (width - len(row))] for row in body]
    return tables.markdown_table(header, body)


def exits_to_markdown(comparison: Comparison) -> str:
    """The regrets of all averages and merges of what was chosen for its average."""
    header = ["trunk", "exit", *(f"{times}x" for times in comparison.times), "worst"]
    body = []
    for schedule in protocol.TRUNKS:
        for name in (*selection.AVERAGES, *protocol.MERGES):
            found = [
                float(np.mean(comparison.exit_regrets(f"{schedule}_average", name, t)))
                for t in comparison.times
            ]
            cells = [f"{value:+.4f}" for value in (*found, max(found))]
            body.append([schedule, name, *cells])
    return tables.markdown_table(header, body)


def standard_errors_to_markdown(comparison: Comparison) -> str:
    """The standard errors of the mean regrets over validation documents.

    Last that of the set to choose by, with seed 0: the largest at each horizon.
    """
    header = ["method", *(f"{times}x" for times in comparison.times)]
    body = []
    for name in comparison.methods:
        found = [comparison.standard_error(name, times) for times in comparison.times]
        body.append([figures.TITLES[name], *(f"{error:.4f}" for error in found)])
    chosen = [name for name in comparison.methods if name != RESTARTED]
    found = [
        max(comparison.standard_error(name, times, seeds=[0]) for name in chosen)
        for times in comparison.times
    ]
    last = "the largest of them on seed 0, where everything is chosen"
    body.append([last, *(f"{error:.4f}" for error in found)])
    return tables.markdown_table(header, body, left=1)


def tuning_to_markdown(results: Mapping[Job, dict], batch: int) -> str:
    """What was tried on seed 0: the losses of fixed-horizon runs, by peak.

    Last the least of the parabola, in the logarithm of the peak, through the best one
    and its neighbours: about what a finer grid would have found.
    """
    losses = selection.losses(results)
    jobs = {s: selection.tried(losses, s, batch) for s in protocol.ENVELOPE}
    peaks = sorted({job.peak for of in jobs.values() for job in of})
    header = ["schedule", "horizon", *(f"{peak:g}" for peak in peaks), "parabola"]
    body = []
    for schedule, of in jobs.items():
        for times, winner in selection.tuned(losses, [schedule], batch).items():
            found = {
                job.peak: losses[job]["raw"][times] for job in of if job.times == times
            }
            texts = {peak: f"{loss:.4f}" for peak, loss in found.items()}
            texts[winner.peak] = f"**{texts[winner.peak]}**"
            cells = [texts.get(peak, "") for peak in peaks]
            body.append([schedule, f"{times}x", *cells, f"{_least(found):.4f}"])
    return tables.markdown_table(header, body)


def _least(losses: Mapping[float, float]) -> float:
    """The least of the parabola through the best of losses by peak."""
    peaks = sorted(losses)
    place = peaks.index(min(losses, key=losses.get))
    near = [losses[peak] for peak in peaks[max(0, place - 1) : place + 2]]
    if len(near) < 3 or not np.isfinite(near).all():
        return min(near)
    left, middle, right = near
    return middle - (left - right) ** 2 / (8 * (left - 2 * middle + right))


def trunks_to_markdown(results: Mapping[Job, dict], batch: int) -> str:
    """What was tried on seed 0: the worst regret of the best exit of each trunk."""
    losses = selection.losses(results)
    body = []
    for schedule in protocol.TRUNKS:
        for family, exits in selection.FAMILIES.items():
            ranked = selection.worst_regrets(losses, schedule, exits, batch)
            for job in sorted({setting.job for setting in ranked}):
                best = min((s for s in ranked if s.job == job), key=ranked.get)
                cells = [schedule, family, f"{job.peak:g}", best.exit]
                body.append([*cells, f"{ranked[best]:+.4f}"])
    header = ["trunk", "exit", "peak", "best", "worst regret, seed 0"]
    return tables.markdown_table(header, body, left=4)


def checks_to_markdown(results: Mapping[Job, dict]) -> str:
    """The regrets on seed 0 with another beta2, warmup or offset, and as usual."""
    losses = selection.losses(results)
    best = selection.envelope(losses, protocol.ENVELOPE, 1)
    found = {job.setting: losses[job] for job in losses if job.seed == 0}
    checks: dict[Job, list[Job]] = {}
    for job in found:
        if job != job.usual:
            checks.setdefault(job.usual, [job.usual]).append(job)
    body = []
    for usual, jobs in checks.items():
        name, at = "raw", [usual.times]
        if usual.is_trunk:
            name, at = selection.choose(losses, usual.schedule, "average")[0].exit, best
        for job in jobs:
            regrets = {times: found[job][name][times] - best[times] for times in at}
            cells = [f"{regrets[t]:+.4f}" if t in regrets else "" for t in best]
            change = job.variation.removeprefix(f"{job.schedule}_").replace("_", " ")
            beta2 = "usual" if job == usual else f"beta2 {job.beta2:g}"
            body.append([job.schedule, name, change or beta2, *cells])
    header = ["run", "exit", "with", *(f"{times}x" for times in best)]
    return tables.markdown_table(header, body, left=3)


def budgets_to_markdown(results: Mapping[Job, dict], batch: int) -> str:
    """The regrets on seed 0 if a trunk too is chosen anew for every horizon.

    That is what one setting for all horizons costs, and no anytime method.
    """
    losses = selection.losses(results)
    best = selection.envelope(losses, protocol.ENVELOPE, batch)
    header = ["trunk", "exit", *(f"{times}x" for times in best)]
    body = []
    for schedule in protocol.TRUNKS:
        trunks = selection.tried(losses, schedule, batch)
        for family in selection.families(batch):
            cells = []
            for times in best:
                regrets = {
                    (job, name): losses[job][name][times] - best[times]
                    for job in trunks
                    for name in selection.FAMILIES[family]
                    if times in losses[job].get(name, {})
                }
                job, name = chosen = min(regrets, key=regrets.get)
                cells.append(f"{regrets[chosen]:+.4f} ({name}, {job.peak:g})")
            body.append([schedule, family, *cells])
    return tables.markdown_table(header, body)


def costs(results: Mapping[Job, dict]) -> list[tuple[str, float, float]]:
    """What every method costs in tokens, in units of 1x: once, and with its tuning.

    A trunk with cooldowns need not go on where the last one has left it.
    """
    fixed = {
        schedule: [job.times for job in selection.tried(results, schedule)]
        for schedule in protocol.ENVELOPE
    }
    times = max(map(max, fixed.values()))
    horizons = sum(t for t in protocol.FULL.times if t <= times)
    rows = []
    for schedule, title in (("constant", "constant"), ("inverse_sqrt", "1/sqrt")):
        count = len(selection.tried(results, schedule))
        rows.append((f"{title} + averages", times, count * times))
    for kind, spec in protocol.COOLDOWNS.items():
        share = spec["percent"] / 100
        once = (1 - share) * times + share * horizons
        count = len(selection.tried(results, "constant"))
        rows.append((figures.TITLES[f"constant_{kind}"], once, count * once))
    for schedule, of in fixed.items():
        rows.append((f"{len(set(of))} runs, {schedule}", horizons, sum(of)))
    both = sum(map(sum, fixed.values()))
    count = sum(len(set(of)) for of in fixed.values())
    rows.append((f"{count} runs, the better", len(fixed) * horizons, both))
    return rows


def main() -> int:
    """Prints the tables, writes the csv file and draws the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=pathlib.Path, default=run.RESULTS)
    parser.add_argument("--out", type=pathlib.Path, default=run.HERE)
    parser.add_argument("--quick", action="store_true", help="of a smoke test")
    options = parser.parse_args()
    plan = protocol.QUICK if options.quick else protocol.FULL
    results = run.read(options.results)
    missing = [
        j for j in selection.wanted(selection.losses(results), plan) if j not in results
    ]
    if missing:
        print(
            f"{len(missing)} jobs are not done, such as {missing[0].name}",
            file=sys.stderr,
        )
    comparisons = compare(results, plan)
    if not comparisons:
        print("no seed is complete", file=sys.stderr)
        return 1
    text = to_markdown(comparisons, results)
    stored = options.out / "views.json"
    if stored.exists():
        found = json.loads(stored.read_text())
        text = f"{text}\n{views.to_markdown(found)}"
        views.draw(plan.times, found, options.out / "views.png")
    print(text)
    (options.out / "tables.md").write_text(text)
    analysis.write_csv(comparisons, options.out / "results.csv")
    figures.losses(comparisons[0], options.out / "figure1.png")
    figures.regrets(comparisons, options.out / "figure2.png")
    figures.averages(comparisons[0], options.out / "figure3.png")
    figures.costs(costs(results), options.out / "figure4.png")
    return 0


def compare(results: Mapping[Job, dict], plan: protocol.Protocol) -> list[Comparison]:
    """Returns the comparisons at the batches of which at least a seed is complete."""
    found = [
        Comparison(results, plan, batch)
        for batch in plan.batches
        if set(protocol.grid(plan, batch)) <= set(results)
    ]
    return [comparison for comparison in found if comparison.seeds]


def hours(results: Mapping[Job, dict]) -> float:
    """What all runs took; those of which it is not known as long as the others."""
    known = {
        job: sum(r["seconds"].values()) for job, r in results.items() if "seconds" in r
    }
    rate = sum(known.values()) / sum(job.cost for job in known)
    return rate * sum(job.cost for job in results) / 3600


def to_markdown(comparisons: list[Comparison], results: Mapping[Job, dict]) -> str:
    """All tables."""
    parts = [_of_batch(comparison, results) for comparison in comparisons]
    end = f"All runs: about {hours(results):.1f} hours of one of two workers.\n"
    return "\n".join([_HEAD, *parts, end])


def _of_batch(comparison: Comparison, results: Mapping[Job, dict]) -> str:
    batch = comparison.batch
    found = {"Loss": losses_to_markdown(comparison)}
    if len(protocol.FULL.envelope(batch)) > 1:
        better = regrets_to_markdown(comparison, BETTER)
        found["Regret against the better envelope"] = better
    found |= {
        "Regret against cosine": regrets_to_markdown(comparison, "cosine"),
        "Regret of every average and merge of the chosen trunks": exits_to_markdown(
            comparison
        ),
        "Standard error of regrets over documents": standard_errors_to_markdown(
            comparison
        ),
    }
    if batch == 1:
        found["Beside the paper"] = paper_to_markdown(comparison)
    found |= {
        "Tried on seed 0, fixed horizons": tuning_to_markdown(results, batch),
        "Tried on seed 0, trunks": trunks_to_markdown(results, batch),
        "Regret on seed 0, tuned per horizon": budgets_to_markdown(results, batch),
    }
    if batch == 1 and any(job != job.usual for job in results):
        found["Checks on seed 0"] = checks_to_markdown(results)
    seeds = ", ".join(map(str, comparison.seeds))
    title = f"## Batch of {batch * protocol.TOKENS_PER_STEP:,} tokens, seeds {seeds}"
    return "\n\n".join([title, *(f"### {k}\n\n{v}" for k, v in found.items())]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
