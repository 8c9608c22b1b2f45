"""The schedules and the measured curves of the multi-power law's authors."""

import pathlib

import numpy as np

from anytime_jax import laws
from experiments import published

PEAK, END, WARMUP = 3e-4, 3e-5, 2160
TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
TEST = (
    "constant_72000",
    "cosine_72000",
    "wsd_20000_24000",
    "wsdld_20000_24000",
    "wsdcon_3",
    "wsdcon_18",
)
SPLIT = (TRAIN, TEST)
SIZES = (25, 100)
# As printed by the authors' code: L0, A, alpha, B, C, beta, gamma.
PARAMETERS = {
    25: (
        *(3.04045406, 0.52468604, 0.50786857, 363.78751622),
        *(2.06560812, 0.58279013, 0.64142257),
    ),
    100: (
        *(2.6514477, 0.60115152, 0.45295811, 437.9464276),
        *(2.13245612, 0.59785199, 0.65523644),
    ),
}


def rates(name: str) -> np.ndarray:
    """Returns the rate of every step of a schedule of the paper.

    Args:
      name: one of `TRAIN` and `TEST`: kind, and numbers of steps; of `wsdcon` the
        second rate in 1e-5.
    """
    kind, *numbers = name.split("_")
    total = 16_000 if kind == "wsdcon" else int(numbers[-1])
    steps = np.arange(WARMUP, total)
    match kind:
        case "constant":
            body = np.full(len(steps), PEAK)
        case "cosine":
            x = (steps - WARMUP) / (total - WARMUP)
            body = END + (PEAK - END) * (1 + np.cos(np.pi * x)) / 2
        case "wsdcon":
            body = np.where(steps < 8000, PEAK, int(numbers[0]) * 1e-5)
        case "wsd" | "wsdld":
            start = int(numbers[0])
            x = np.maximum((steps - start) / (total - start), 0)
            geometric = PEAK ** (1 - x) * END**x
            body = geometric if kind == "wsd" else PEAK * (1 - x) + END * x
            body = np.where(x > 0, body, PEAK)
    return np.append(np.linspace(0, PEAK, WARMUP), body)


def folder() -> pathlib.Path | None:
    """Returns where the curves are, or None: see experiments/published.py."""
    return published.find("mpl")


def load(size: int) -> dict[str, laws.Curve]:
    """Returns the nine curves of a size by name.

    Args:
      size: of the model, in millions of parameters: 25 or 100.

    Raises:
      ValueError: they are not there.
    """
    if folder() is None:
        raise ValueError("there is no mpl folder: see experiments/published.py")
    files = {name: folder() / f"csv_{size}" / f"{name}.csv" for name in TRAIN + TEST}
    return {
        name: laws.Curve.from_csv(path, rates=rates(name))
        for name, path in files.items()
    }
