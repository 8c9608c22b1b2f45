"""How strong the ridge of a regularised fit should be: a sweep.

    python -m experiments.multi_power_law.ridge

Fits the multi-power law to three curves of 25M and of 100M with many ridges and prints
how well the other six are predicted, beside the published and the converged fit.
"""

import warnings

from anytime_jax import laws
from anytime_jax.reporting import tables
from experiments.multi_power_law import curves

RIDGES = (1.0, 3.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0, 70.0, 100.0, 200.0)


def sweep(size: int) -> list[list[str]]:
    """Returns rows: fit, sum of the Huber loss, worst error, error at the end.

    Args:
      size: in millions of parameters.
    """
    measured = curves.load(size)
    train, test = ([measured[name] for name in names] for names in curves.SPLIT)
    fits = {
        "published": dict(procedure="published", warmup="authors"),
        "converged": dict(procedure="converged"),
    }
    fits |= {f"ridge {ridge:g}": dict(ridge=ridge) for ridge in RIDGES}
    rows = []
    for name, choices in fits.items():
        law = laws.MultiPowerLaw.fit(train, **choices)
        score = law.score(test)
        values = (score["worst_error"], score["final_error"])
        row = [f"{size}M", name, f"{law.fitted.objective:.3e}"]
        rows.append(row + [f"{value:.5f}" for value in values])
    return rows


def main() -> None:
    """Prints both sizes."""
    warnings.simplefilter("ignore", laws.UnidentifiedWarning)
    header = ["size", "fit", "objective", "worst error", "final error"]
    rows = [row for size in curves.SIZES for row in sweep(size)]
    print(tables.markdown_table(header, rows))


if __name__ == "__main__":
    main()
