"""A comparison as text: aligned for a screen, or in Markdown."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anytime_jax.reporting.comparison import Comparison, Loss


def to_text(comparison: Comparison) -> str:
    """Returns losses and worst regrets, aligned for a screen.

    Args:
      comparison: from `compare`.

    Returns:
      One line for each row, and what was measured below them; the best exit at a
      horizon is marked with a star, and what is missing is `-`. Without an envelope
      there are no regrets.
    """
    header, body = _losses(comparison, lambda text, best: text + " *"[best])
    cells = [["", *header[2:]], *([f"  {row[1]}", *row[2:]] for row in body)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *lines = (
        (
            "  ".join([first.ljust(widths[0]), *map(str.rjust, losses, widths[1:])])
            + missed
        ).rstrip()
        for first, *losses, missed in cells
    )
    grouped = [head]
    for position, (group, *_) in enumerate(body):
        if position == 0 or group != body[position - 1][0]:
            grouped.append(group)
        grouped.append(lines[position])
    return "\n".join([*grouped, "", *_notes(comparison, "*")])


def to_markdown(comparison: Comparison) -> str:
    """Returns losses and worst regrets as a Markdown table, and what they are.

    Without an envelope there are no regrets.

    Args:
      comparison: from `compare`.

    Returns:
      The table, in which the best exit at a horizon is bold and what is missing is `-`,
      and a paragraph.
    """
    header, body = _losses(
        comparison, lambda text, best: f"**{text}**" if best else text
    )
    header, *body = ([*row[:-2], row[-2] + row[-1]] for row in (header, *body))
    return markdown_table(header, body) + "\n\n" + " ".join(_notes(comparison, "bold"))


def regrets_to_markdown(comparison: Comparison) -> str:
    """Returns the regret at every horizon as a Markdown table, under the envelope.

    Args:
      comparison: from `compare`, with an envelope.
    """
    points = comparison.envelope.values()
    body = [
        ["envelope", "loss", *(_loss(point.loss, count=False) for point in points)],
        ["envelope", "run", *(_runs(comparison, step) for step in comparison.envelope)],
    ]
    for row in comparison.rows:
        regrets = comparison.regrets(row)
        cells = (signed(regrets.get(step)) for step in comparison.envelope)
        body.append([row.group, row.name, *cells])
    header = [comparison.horizons[step] for step in comparison.envelope]
    return markdown_table(["schedule", "exit", *header], body)


def markdown_table(
    header: Sequence[str], body: Iterable[Sequence[str]], left: int = 2
) -> str:
    """Returns a Markdown table.

    Args:
      header: what stands above the columns.
      body: rows as long as the header; a first cell equal to the one above is left out.
      left: how many of the first columns are aligned to the left; the others are to the
        right.

    Example:
      >>> print(markdown_table(["run", "steps"], [["a", "20"], ["b", "40"]], left=1))
      | run | steps |
      | --- | ---: |
      | a | 20 |
      | b | 40 |
    """
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    lines, above = [header, rule], None
    for first, *rest in body:
        lines.append(["" if first == above else first, *rest])
        above = first
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def signed(regret: float | None) -> str:
    """Returns a regret with its sign and four decimals, or `-` for None."""
    if regret is None:
        return "-"
    # Adding zero turns a negative zero into a positive one.
    return "nan" if math.isnan(regret) else f"{round(regret, 4) + 0.0:+.4f}"


def distinct(values: Iterable[Any]) -> str:
    """Returns the different values in their order, as text.

    Example:
      >>> distinct([0, 1, 0])
      '0, 1'
    """
    return ", ".join(dict.fromkeys(map(str, values)))


def measured(comparison: Comparison) -> str:
    """Returns what was measured, on what and with which seeds, as a sentence.

    Args:
      comparison: from `compare`.
    """
    runs = list(comparison.names)
    config, resolved = runs[0].config, runs[0].config["resolved"]
    evaluation = config["evaluation"]
    sequences = evaluation["horizon_batches"] * evaluation["batch_size"]
    # Of a path only the last part: the folders above it are those of one machine.
    kind, colon, source = config["data"]["source"].partition(":")
    source = kind + colon + (source.split("/")[-1] if kind == "files" else source)
    seeds = sorted({run.seed for run in runs})
    return (
        f"Nats per token on {sequences * config['sequence_length']:,} validation "
        f"tokens of {source}; {config['model']['name']} with "
        f"{resolved['parameters']['non_embedding']:,} non-embedding parameters, "
        f"batches of {resolved['tokens_per_step']:,} tokens, "
        f"{distinct(run.config['resolved']['devices'] for run in runs)}, "
        f"seed{'s' if len(seeds) > 1 else ''} {distinct(seeds)}."
    )


def _losses(
    comparison: Comparison, mark: Callable[[str, bool], str]
) -> tuple[list[str], list[list[str]]]:
    """The header and rows of the table of losses; last in a row is what it misses."""
    horizons = (mark(name, False) for name in comparison.horizons.values())
    of = len(comparison.envelope)
    header = ["schedule", "exit", *horizons, *(["worst regret"] if of else []), ""]
    count = len(_repetitions(comparison)) > 1
    body = []
    for row in comparison.rows:
        cells = (
            mark(_loss(row.losses.get(step), count), comparison.best(step) is row)
            for step in comparison.horizons
        )
        has = len(comparison.regrets(row))
        missed = f" ({has} of {of})" if 0 < has < of else ""
        worst = [signed(comparison.worst_regret(row))] if of else []
        body.append([row.group, row.name, *cells, *worst, missed])
    return header, body


def _loss(loss: Loss | None, count: bool) -> str:
    if loss is None:
        return "-"
    spread = f" ± {loss.half_range:.4f}" if loss.count > 1 else ""
    return f"{loss.mean:.4f}{spread}" + (f" ({loss.count})" if spread and count else "")


def _repetitions(comparison: Comparison) -> set[int]:
    """The numbers of runs that losses are means of, if they are means."""
    losses = (loss for row in comparison.rows for loss in row.losses.values())
    return {loss.count for loss in losses} - {1}


def _before_horizon(comparison: Comparison) -> int:
    """How far the newest snapshot of a merge is from its horizon, at most."""
    merges = [run for run in comparison.names if run.merge]
    return max((max(run.exits["raw"]) - run.merge["step"] for run in merges), default=0)


def _late(comparison: Comparison) -> list[str]:
    """Of every trunk, the averages that its first horizons lack, and those horizons."""
    several = len({row.group for row in comparison.rows if row.role == "trunk"}) > 1
    found: dict[tuple[str, ...], list[str]] = {}
    for row in comparison.rows:
        if row.role != "trunk":
            continue
        reached = {step for run in row.runs for step in run.exits.get("raw", ())}
        missed = sorted(step for step in reached if step < min(row.losses))
        if missed:
            name = f"{row.name} of {row.group}" if several else row.name
            at = tuple(comparison.horizons[step] for step in missed)
            found.setdefault(at, []).append(name)
    return [
        f"{', '.join(rows)}: not at {', '.join(at)}; tracked from later on."
        for at, rows in found.items()
    ]


def _runs(comparison: Comparison, step: int) -> str:
    """The names of the runs that are the envelope at a horizon."""
    return ", ".join(comparison.names[run] for run in comparison.envelope[step].runs)


def _notes(comparison: Comparison, mark: str) -> list[str]:
    """What was measured, and what the marks in the table of losses mean."""
    notes = [measured(comparison)]
    if any(row.is_exit for row in comparison.rows):
        notes.append(f"Best exit at each horizon: {mark}.")
    envelope = comparison.envelope
    if envelope:
        found = "; ".join(
            f"{comparison.horizons[step]} {_runs(comparison, step)}"
            for step in envelope
        )
        notes.append(
            "Regret: loss minus envelope, the lowest final loss of the fixed-horizon "
            f"runs ({found})."
        )
    else:
        notes.append("No fixed-horizon run: no envelope, and no regret.")
    missed = [len(envelope) - len(comparison.regrets(row)) for row in comparison.rows]
    if any(0 < one < len(envelope) for one in missed):
        notes.append("(n of m): worst of n regrets; at the others there is no loss.")
    notes += _late(comparison)
    if early := _before_horizon(comparison):
        notes.append(
            f"Merges are of snapshots up to {early} step{'s' if early > 1 else ''} "
            "before the horizon."
        )
    if counts := _repetitions(comparison):
        more = "; their number in brackets" if len(counts) > 1 else ""
        notes.append(
            f"Mean ± half the range over runs that differ only in their seed{more}."
        )
    return notes
