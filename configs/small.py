"""A byte model of 39k parameters, 1x to 32x Chinchilla: experiments/anytime_vs_cosine.

    python -m anytime_jax train --config=configs/small.py --workdir=runs/small

Variants and branches as in configs/tiny.py, and `restarts`: a cosine that is restarted
at every horizon. What follows from the paper, in units of its 1x (12,500 steps): 0.4 of
warmup, an offset of 4.1 for 1/sqrt, Adam without weight decay, gradients clipped at 1.
"""

from ml_collections import config_dict

from configs import tiny

STEPS_1X = 768  # of 1,024 tokens: 20.3 for each of the 38,680 parameters
PEAK = 1e-2
_WARMED_UP = dict(peak=PEAK, warmup_steps=round(0.4 * STEPS_1X))

_SCHEDULES = dict(
    constant=dict(name="constant", **_WARMED_UP),
    inverse_sqrt=dict(name="inverse_sqrt", offset=4.1 * STEPS_1X, **_WARMED_UP),
    cosine=dict(name="cosine", final_fraction=0.1, **_WARMED_UP),
    linear=dict(name="linear", final_fraction=0.0, **_WARMED_UP),
    # Cycles that double after a warmup as long as the first one end at every horizon.
    restarts=dict(
        name="cyclic",
        peak=PEAK,
        period=STEPS_1X // 2,
        growth=2,
        warmup_steps=STEPS_1X // 2,
        final_fraction=0.1,
    ),
    cooldown=dict(name="cooldown", steps=77, shape="linear", final_fraction=0.1),
)
VARIANTS = tuple(_SCHEDULES)


def get_config(variant: str = "constant") -> config_dict.ConfigDict:
    """Returns the config of a variant: one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise ValueError(
            f"variant {variant!r} of configs/small.py is unknown; known are "
            f"{', '.join(VARIANTS)}"
        )
    config = tiny.get_config("cooldown" if variant == "cooldown" else "constant")
    config.model.update(width=40, layers=2, heads=2)
    # 800 documents, and more than the 25M tokens of 32x are left to train on.
    config.data.validation_fraction = 0.2
    config.schedule = _SCHEDULES[variant]
    config.optimizer.b2 = 0.98
    if variant in ("constant", "inverse_sqrt"):
        config.averages.power10 = dict(name="power", sigma_rel=0.1)
    else:
        config.averages = {}
    if variant != "cooldown":
        config.duration.update(chinchilla=0.0, steps=32 * STEPS_1X)
    horizons = tuple(times * STEPS_1X for times in (1, 2, 4, 8, 16, 32))
    config.horizons.update(chinchilla=(), steps=horizons)
    # The experiment has a larger set of its own, with the loss of every document.
    config.evaluation.update(points=30, batches=8, horizon_batches=8)
    config.snapshots.update(every=STEPS_1X // 8, latest_every=0)
    return config
