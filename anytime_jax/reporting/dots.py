"""Every exit as a dot: a line for each exit, a panel for each horizon."""

import math
from collections.abc import Iterable, Mapping, Sequence

from anytime_jax.reporting import looks
from anytime_jax.reporting.comparison import FIXED_HORIZON, Comparison, Row

_ROW, _TOP, _BOTTOM = 0.185, 0.7, 0.55  # inches
_WIDTH, _LETTER, _MARGIN = 32 / 3, 0.073, 0.18
_MERGE, _SYNTHESIS, _NOTHING = "#009E73", "#AA4499", "#8A8A8A"
_COLORS = {
    "weights": looks.RAW,
    "tracked average": looks.TRUNKS[0][0],
    "merge of snapshots": _MERGE,
    "synthesis": _SYNTHESIS,
    "cooldown": looks.TRUNKS[0][1],
    FIXED_HORIZON: looks.FIXED,
}


def height(comparison: Comparison) -> float:
    """Returns how high the panels are, in inches.

    Args:
      comparison: from `compare`.
    """
    return _TOP + _BOTTOM + _ROW * (1 + len(comparison.rows))


def draw(figure, comparison: Comparison, lines: Mapping[Row, Sequence[float]]) -> None:
    """Draws the dots, with half the range over seeds, and an arrow for what is far off.

    Args:
      figure: a figure or part of one, as high as `height` says.
      comparison: from `compare`.
      lines: the rows to draw, with a distance for each horizon, NaN for none.
    """
    steps = list(comparison.envelope or comparison.horizons)
    high, names = height(comparison), _names(lines)
    left = (_MARGIN + _LETTER * max(map(len, names))) / _WIDTH
    right = 1 - _MARGIN / _WIDTH
    grid = figure.add_gridspec(
        1,
        len(steps),
        left=left,
        right=right,
        bottom=_BOTTOM / high,
        top=1 - _TOP / high,
        wspace=0.07,
    )
    panels = grid.subplots(sharex=True, sharey=True, squeeze=False)[0]
    scale = _scale(lines)
    for column, (step, axes) in enumerate(zip(steps, panels, strict=True)):
        _panel(axes, step, {row: line[column] for row, line in lines.items()}, scale)
        axes.set_title(comparison.horizons[step], fontsize=looks.FONT)
        best = comparison.best(step)
        if best in lines:
            place = lines[best][column], list(lines).index(best)
            axes.plot(*place, "o", ms=11, mfc="none", mec=_color(best), mew=1.0)
    panels[0].set_yticks(range(len(names)), names)
    for text, row in zip(panels[0].get_yticklabels(), lines, strict=True):
        text.set_color(_color(row))
    zero = "envelope" if comparison.envelope else "best exit"
    what = f"loss minus {zero}, nats/token (ring: best exit"
    several = any(loss.count > 1 for row in lines for loss in row.losses.values())
    what += "; bar: half the range over seeds, each way)" if several else ")"
    figure.text((left + right) / 2, 0.12 / high, what, ha="center", fontsize=looks.FONT)
    figure.text(
        0.065,
        1 - 0.3 / high,
        "Every exit at every horizon",
        fontsize=11,
        fontweight="bold",
    )
    _legend(figure, lines, (right, 1 - 0.16 / high))


def _legend(figure, rows: Iterable[Row], corner: tuple[float, float]) -> None:
    """What the colours are, on the line of the title."""
    from matplotlib import lines

    kinds = {_kind(row): _color(row) for row in rows}
    style = dict(marker="o", markersize=5.5, linestyle="none")
    figure.legend(
        handles=[
            lines.Line2D([], [], color=color, label=kind, **style)
            for kind, color in kinds.items()
        ],
        loc="upper right",
        bbox_to_anchor=corner,
        ncols=len(kinds),
        fontsize=looks.FONT,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.2,
        handletextpad=0.1,
    )


def _panel(
    axes, step: int, distances: Mapping[Row, float], scale: tuple[float, float]
) -> None:
    axes.axvline(0, color=looks.FIXED, linewidth=1.0, zorder=1)
    for y, (row, x) in enumerate(distances.items()):
        far = x > scale[1]
        if far or math.isnan(x):
            axes.annotate(
                f"{x:+.2f} →" if far else "none",
                (scale[1], y),
                color=_color(row) if far else _NOTHING,
                fontsize=looks.FONT - 1,
                ha="right",
                va="center",
            )
            continue
        axes.errorbar(
            x,
            y,
            xerr=row.losses[step].half_range or None,
            color=_color(row),
            elinewidth=1.0,
            marker=_marker(row),
            markersize=5.5,
            zorder=3,
        )
    axes.set_xlim(*scale)
    axes.set_ylim(len(distances) - 0.4, -0.6)
    axes.grid(color=looks.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    looks.plain(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _names(lines: Mapping[Row, Sequence[float]]) -> list[str]:
    """The names of the rows, with that of their trunk if there are two."""
    several = len({row.group for row in lines if row.is_exit}) > 1
    return [
        f"{row.group}: {row.name}" if row.is_exit and several else row.name
        for row in lines
    ]


def _scale(lines: Mapping[Row, Sequence[float]]) -> tuple[float, float]:
    """Up to the weights themselves: an average that is worse than them is far off."""
    values = [x for line in lines.values() for x in line if math.isfinite(x)]
    raw = [x for row, line in lines.items() if row.name == "raw" for x in line]
    raw = [x for x in raw if math.isfinite(x)]
    top = max(raw, default=math.inf)
    return looks.limits([0.0, *(x for x in values if x <= top)])


def _kind(row: Row) -> str:
    if not row.is_exit:
        return FIXED_HORIZON
    if row.role == "merge":
        return "synthesis" if row.name.startswith("synth") else "merge of snapshots"
    if row.role == "branch":
        return "cooldown"
    return "weights" if row.weights == "raw" else "tracked average"


def _color(row: Row) -> str:
    return _COLORS[_kind(row)]


def _marker(row: Row) -> str:
    if row.role == "branch" and row.weights != "raw":
        return "d"
    if row.role == "merge":
        kind = row.runs[0].merge["recipe"]["name"]
        return {"window": "s", "synthesize": "P"}.get(kind, "^")
    return {"branch": "D", "fixed": "x"}.get(row.role, "o")
