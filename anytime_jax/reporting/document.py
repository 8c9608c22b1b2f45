"""The report of some runs, in Markdown."""

import pathlib
from collections.abc import Mapping

from anytime_jax.reporting import merges, tables
from anytime_jax.reporting.comparison import Comparison
from anytime_jax.reporting.runs import Run

_MERGED = (
    "How many sets of weights, raw or averages, of which steps. The error is that of "
    "the kernel of a synthesis relative to its target's, or a window's from rounding."
)


def to_report(comparison: Comparison, picture: str) -> str:
    """Returns the report: what it shows, the picture, the tables, what was run.

    Args:
      comparison: from `compare`.
      picture: name of the picture's file, beside the report.
    """
    parts = [
        "# Exits and their envelope",
        headline(comparison),
        f"![Losses, and their distance to the envelope]({picture})",
        "## Loss at every horizon",
        tables.to_markdown(comparison),
    ]
    if comparison.envelope:
        parts += ["## Regret at every horizon", tables.regrets_to_markdown(comparison)]
    parts += ["## What was run", _runs(comparison), f"With {_versions(comparison)}."]
    if any(row.role == "merge" for row in comparison.rows):
        parts += ["## What was merged", _merges(comparison)]
    return "\n\n".join(parts) + "\n"


def headline(comparison: Comparison) -> str:
    """Returns the one sentence that says what the runs show.

    Args:
      comparison: from `compare`.
    """
    if not any(row.is_exit for row in comparison.rows):
        horizons = ", ".join(comparison.horizons.values())
        return f"Final losses of fixed-horizon runs at {horizons}; no trunk to compare."
    if not comparison.envelope:
        step = max(comparison.horizons)
        best = comparison.best(step)
        what = f"{best.name} of {best.group}" if best else "no exit with a finite loss"
        return (
            f"At {comparison.horizons[step]} the best exit is {what}; no fixed-horizon "
            "run to compare with."
        )
    horizons = tables.distinct(
        comparison.horizons[step] for step in comparison.envelope
    )
    found = [
        f"{tables.signed(comparison.worst_regret(row))} for {row.name} of {row.group}, "
        f"the best {kind}"
        for kind, row in (
            ("exit without a cooldown", comparison.best_overall(cooldown=False)),
            ("cooldown", comparison.best_overall(cooldown=True)),
        )
        if row
    ]
    if not found:
        return f"No exit has a loss at all horizons of the envelope ({horizons})."
    return (
        f"Worst regret over the horizons {horizons}, in nats per token: "
        f"{'; '.join(found)}."
    )


def _runs(comparison: Comparison) -> str:
    header = ["run", "schedule", "steps", "peak", "seed"]
    given = {run.folder: name for run, name in comparison.names.items()}
    body = [
        [name, _schedule(run, given), _steps(run), _peak(run), str(run.seed)]
        for run, name in comparison.names.items()
        if not run.merge
    ]
    return tables.markdown_table(header, body)


def _merges(comparison: Comparison) -> str:
    """Of every merge and horizon, how many weights of which steps are in it."""
    body = []
    for row in comparison.rows:
        found: dict[int, list[str]] = {}
        for run in row.runs if row.role == "merge" else ():
            for step in run.exits["raw"]:
                found.setdefault(step, []).append(merges.contents(run.merge))
        if found:
            cells = (tables.distinct(found.get(k, "-")) for k in comparison.horizons)
            body.append([row.group, row.name, *cells])
    header = ["schedule", "exit", *comparison.horizons.values()]
    return tables.markdown_table(header, body) + "\n\n" + _MERGED


def _schedule(run: Run, given: Mapping[pathlib.Path, str]) -> str:
    if not run.trunk:
        return run.schedule
    source = given.get(run.trunk, run.trunk.name)
    return f"{run.schedule} off {source} at {run.config['branch']['step']:,}"


def _steps(run: Run) -> str:
    if run.last_step < run.total_steps:
        return f"{run.last_step:,} of {run.total_steps:,}"
    return f"{run.total_steps:,}"


def _peak(run: Run) -> str:
    peak = run.config["schedule"].get("peak")
    return "-" if peak is None else f"{peak:g}"


def _versions(comparison: Comparison) -> str:
    versions: dict[str, list[str]] = {}
    for run in comparison.names:
        for name, version in run.config["resolved"]["versions"].items():
            versions.setdefault(name, []).append(version)
    return ", ".join(f"{name} {tables.distinct(of)}" for name, of in versions.items())
