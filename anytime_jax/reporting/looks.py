"""What pictures have in common: colours, axes, and texts that leave each other room."""

import math
from collections.abc import Iterable, Sequence

# From Okabe and Ito's palette, which the colour-blind can tell apart; for each trunk
# one colour for its average and one for its cooldowns.
TRUNKS = (("#0072B2", "#D55E00"), ("#009E73", "#E69F00"), ("#AA4499", "#882255"))
# For lines without a meaning of their own.
LINES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#AA4499", "#94877A")
RAW, OTHERS, FIXED, GRID = "#94877A", "#6F9EBF", "#000000", "#E6E6E6"
FONT = 9


def limits(values: Iterable[float]) -> tuple[float, float]:
    """The ends of an axis that has room for all finite values."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    pad = 0.06 * (high - low) or 0.01
    return low - pad, high + pad


def legible(places: Sequence[float], texts: Iterable[str]) -> list[str]:
    """Leaves out the texts that would run into one further right."""
    kept, edge = [], math.inf
    for place, text in reversed(list(zip(places, texts, strict=True))):
        # About a fiftieth of a panel's width for a character, centred at its place.
        half = (len(text) + 1) / 100
        fits = place + half <= edge
        kept.append(text if fits else "")
        edge = place - half if fits else edge
    return kept[::-1]


def apart(places: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Moves places as little as can be until neighbours have room for both.

    Each block of places that push each other sits around its mean.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    offsets, offset, before = {}, 0.0, None
    for i in order:
        offset += 0.0 if before is None else (gaps[before] + gaps[i]) / 2
        offsets[i], before = offset, i
    blocks: list[list[float]] = []  # [sum of places less offsets, number of places]
    for i in order:
        blocks.append([places[i] - offsets[i], 1])
        while len(blocks) > 1 and (
            blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]
        ):
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    means = [total / count for total, count in blocks for _ in range(count)]
    found = dict(zip(order, means, strict=True))
    return [found[i] + offsets[i] for i in range(len(places))]


def short(number: float) -> str:
    """A number of tokens with its power of a thousand: 500k, 2M, 30B."""
    for power, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:g}{letter}"
    return f"{number:g}"


def finish(axes, title: str, x: str, y: str) -> None:
    """A title above the axes, and what is along them."""
    axes.text(0, 1.1, title, transform=axes.transAxes, fontsize=11, fontweight="bold")
    axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)
    plain(axes)


def plain(axes) -> None:
    """No box around the axes, and small numbers."""
    axes.tick_params(labelsize=FONT, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
