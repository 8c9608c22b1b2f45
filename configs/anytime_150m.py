"""The paper's 150M model on C4: one trunk for every horizon from 1x to 32x Chinchilla.

    python -m anytime_jax train --config=configs/anytime_150m.py --workdir=runs/150m \
        --config.data.tokenizer=sentencepiece:PATH/TO/t5_vocab.model

A variant after a colon picks the schedule: `constant` (the default), `inverse_sqrt`,
`cosine` (one run per horizon: --config.duration.steps=25000), or `wsd`, a branch that
cools the constant run down over the last tenth of a horizon:

    ... --config=configs/anytime_150m.py:wsd --config.branch.workdir=runs/150m \
        --config.branch.step=22500 --config.schedule.steps=2500

All runs of the paper, with the command and the price of each:

    python -m anytime_jax sweep --config=configs/anytime_150m.py --list

Needs C4 (`c4/en`) prepared as array_record, and the T5 vocabulary of 32,100 pieces.
Expected: about 3 hours per 1x on one H100 (300k tokens/s in the authors' code), and
validation losses, in nats, from Meterez et al., 2026, arXiv 2602.03702, released data:

    horizon (steps)          1x      2x      4x      8x     16x     32x
                          12500   25000   50000  100000  200000  400000
    constant, ema25      3.0259  2.9342  2.8680  2.8178  2.7786  2.7477
    inverse_sqrt, ema25  3.0225  2.9312  2.8653  2.8157  2.7780  2.7489
    wsd, raw             3.0252  2.9338  2.8673  2.8168  2.7772  2.7461
    cosine, raw, tuned   3.0185  2.9357  2.8719  2.8224  2.7790  2.7448
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import config_dict

PEAK = 3e-3
WARMUP_STEPS = 5000
VARIANTS = ("constant", "inverse_sqrt", "cosine", "wsd")

_WARMED_UP = dict(peak=PEAK, warmup_steps=WARMUP_STEPS, warmup_start=0.1)
_SCHEDULES = dict(
    constant=dict(name="constant", **_WARMED_UP),
    inverse_sqrt=dict(name="inverse_sqrt", offset=51200, **_WARMED_UP),
    # The authors tuned the peak (3e-4 to 1e-2) and b2 (0.95 to 0.99) at each horizon.
    cosine=dict(name="cosine", final_fraction=0.1, **_WARMED_UP),
    wsd=dict(name="cooldown", steps=1250, shape="linear", final_fraction=0.1),
)
_B2 = dict(constant=0.99, inverse_sqrt=0.98, cosine=0.99, wsd=0.99)


def get_config(variant: str = "constant") -> config_dict.ConfigDict:
    """Returns the config of a variant: one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise ValueError(
            f"variant {variant!r} is unknown; known are {', '.join(VARIANTS)}"
        )
    config = config_dict.ConfigDict()
    config.seed = 0

    config.model = dict(
        name="decoder",
        vocab_size=32128,  # the 32,100 pieces of T5, padded
        width=1024,
        layers=12,
        heads=16,
        norm="layernorm",
        mlp="gelu",  # of 4 times the width
        compute_dtype="bfloat16",
        remat=False,
    )
    config.data = dict(
        source="tfds:c4/en",
        tokenizer="sentencepiece:t5_vocab.model",
        workers=0,  # processes that tokenise
    )
    config.sequence_length = 1024  # tokens
    config.batch_size = 256  # sequences per step; its critical batch size
    config.accumulation = 1  # parts of a batch, run one after the other

    config.schedule = _SCHEDULES[variant]
    config.optimizer = dict(name="adam", b1=0.9, b2=_B2[variant], eps=1e-8)
    config.clip_norm = 1.0  # largest norm of the gradient
    config.averages = {}
    if variant in ("constant", "inverse_sqrt"):
        config.averages = dict(
            ema6_25=dict(name="age_ema", divisor=6.25),
            ema12_5=dict(name="age_ema", divisor=12.5),
            ema25=dict(name="age_ema", divisor=25.0),
            ema50=dict(name="age_ema", divisor=50.0),
            ema100=dict(name="age_ema", divisor=100.0),
        )
    config.tracking = dict(
        every=1,  # steps between ticks
        dtype="float32",  # or bfloat16, float64
        compensated=False,
        time="steps",  # or tokens
        memory_kind="device",  # or pinned_host
    )

    # Exactly one unit is not 0. The paper's "1x" is 12,500 steps.
    longest = dict(constant=400_000, inverse_sqrt=400_000, cosine=12_500, wsd=0)
    config.duration = dict(steps=longest[variant], tokens=0, chinchilla=0.0)
    horizons = (12_500, 25_000, 50_000, 100_000, 200_000, 400_000)
    config.horizons = dict(steps=horizons, tokens=(), chinchilla=())
    config.branch = dict(  # only for wsd, a cooldown
        workdir="",
        step=0,
        averages="restart",  # or continue, freeze: what becomes of the run's
    )

    config.evaluation = dict(
        points=20,  # log-spaced steps at which `batches` are evaluated
        batches=8,
        horizon_batches=128,  # at every horizon
        batch_size=256,  # sequences, split over the devices
        patience=3,  # evaluations in a row; an average that moves away so often
        # is warned of, 0 for never
    )
    # Steps between snapshots that are kept for good; and between those of which only
    # the latest two are kept.
    config.snapshots = dict(every=3125, latest_every=1000)
    config.logging = dict(every=50)  # steps
    config.mesh = dict(data=-1, fsdp=1, tensor=1)  # devices; -1 takes all that are left
    config.shard_state = False  # split optimizer and averages over mesh.data too
    # What becomes of an update whose loss or gradient is not finite: stop, or skip, at
    # most `limit` of them in a row.
    config.nonfinite = dict(policy="stop", limit=10)
    return config


def get_sweep() -> dict[str, Any]:
    """Returns the runs of the paper; the grids are those of the authors' sweep files.

    Their pilots with other offsets are left out, and so is the batch of 512.

    Returns:
      `jobs`, of which each has a `name`, its `variant`, the `overrides` of that config,
      and, if it is a branch, the name of the trunk that it goes on `after`; `workdir`,
      the folder of them all; and the `tokens_per_second` that `source` measured.
    """
    peaks, b2s = (3e-4, 1e-3, 3e-3), (0.95, 0.98, 0.99)
    offsets, long = (12_800, 25_600, 51_200), (16, 32)
    high, short = 1e-2, (1, 2, 4, 8)
    return dict(
        workdir="runs/150m",
        tokens_per_second=300_000,
        source="one H100, a comment in the authors' configs/kempner/models/150m.yaml",
        jobs=[
            *runs("constant", [32], peaks, b2s),
            *runs("constant", [8], [high], b2s),
            *runs("inverse_sqrt", [32], peaks, b2s[1:], offsets=offsets),
            *branches(short, (*peaks[1:], high), b2s),
            *branches(long, peaks[1:], b2s),
            *runs("cosine", short + long, peaks, b2s),
            *runs("cosine", short, [high], b2s),
            *_large_batch(short + long[:1], (*peaks[1:], high), (0.95, 0.99)),
        ],
    )


def runs(
    variant: str,
    multiples: Iterable[int],
    peaks: Iterable[float],
    b2s: Iterable[float],
    *,
    offsets: Iterable[int | None] = (None,),
    unit: int = 12_500,
    prefix: str = "",
    common: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the jobs of a grid.

    Args:
      variant: one of `VARIANTS`, not wsd.
      multiples: durations in units of 1x.
      peaks: of the learning rate.
      b2s: of Adam.
      offsets: of inverse_sqrt.
      unit: steps of 1x.
      prefix: of the names.
      common: overrides of all.
    """
    grid = itertools.product(multiples, peaks, b2s, offsets)
    for multiple, peak, b2, offset in grid:
        overrides = {"schedule.peak": peak, "optimizer.b2": b2}
        name = f"{prefix}{variant}"
        if variant == "cosine":
            name += f"-{multiple}x"
        if offset:
            name += f"-offset{offset}"
            overrides["schedule.offset"] = offset
        overrides["duration.steps"] = multiple * unit
        yield dict(
            name=f"{name}-lr{peak:g}-beta{b2:g}",
            variant=variant,
            overrides=overrides | dict(common or {}),
        )


def branches(
    multiples: Iterable[int],
    peaks: Iterable[float],
    b2s: Iterable[float],
    *,
    unit: int = 12_500,
    prefix: str = "",
    common: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the cooldowns of constant runs over the last tenth of a horizon.

    Args:
      multiples, peaks, b2s, unit, prefix, common: as for `runs`.
    """
    for multiple, peak, b2 in itertools.product(multiples, peaks, b2s):
        start = 9 * multiple * unit // 10
        overrides = {
            "optimizer.b2": b2,
            "branch.step": start,
            "schedule.steps": multiple * unit - start,
        }
        yield dict(
            name=f"{prefix}wsd-{multiple}x-lr{peak:g}-beta{b2:g}",
            variant="wsd",
            overrides=overrides | dict(common or {}),
            after=f"{prefix}constant-lr{peak:g}-beta{b2:g}",
        )


def _large_batch(multiples, peaks, b2s) -> Iterator[dict[str, Any]]:
    """The runs with a batch of 4096, 16 times the critical one; 1x is 782 steps."""
    unit = 782
    horizons = tuple(multiple * unit for multiple in multiples)
    common = {"batch_size": 4096, "horizons.steps": horizons}
    # As many tokens as with the batch of 256.
    common |= {"snapshots.every": 195, "snapshots.latest_every": 62}
    warmed_up = common | {"schedule.warmup_steps": 500}
    grid, large = (peaks, b2s), dict(unit=unit, prefix="b4096-")
    offsets = (800, 1600, 3200, 6400)
    yield from runs("constant", multiples[-1:], *grid, **large, common=warmed_up)
    yield from runs(
        *("inverse_sqrt", multiples[-1:], *grid),
        **(large | dict(offsets=offsets, common=warmed_up)),
    )
    yield from branches(multiples, *grid, **large, common=common)
    yield from runs("cosine", multiples, *grid, **large, common=warmed_up)
