"""What runs left on disk, as a table, a picture and a report.

runs = [reporting.read(folder) for folder in folders]
comparison = reporting.compare(runs)
print(reporting.to_text(comparison))
reporting.draw(comparison, "report.png")
"""

from anytime_jax.reporting.comparison import Comparison, compare
from anytime_jax.reporting.document import headline, to_report
from anytime_jax.reporting.plots import draw
from anytime_jax.reporting.rates import draw_rates
from anytime_jax.reporting.runs import Run, read
from anytime_jax.reporting.tables import to_markdown, to_text

__all__ = [
    "Comparison",
    "Run",
    "compare",
    "draw",
    "draw_rates",
    "headline",
    "read",
    "to_markdown",
    "to_report",
    "to_text",
]
