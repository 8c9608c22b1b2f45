"""The paper's 150M model on C4: one trunk for every horizon from 1x to 32x Chinchilla.

    python -m anytime_jax train --config=configs/anytime_150m.py --workdir=runs/150m \
        --config.data.tokenizer=sentencepiece:PATH/TO/t5_vocab.model

A variant after a colon picks the schedule: `constant` (the default), `inverse_sqrt`,
`cosine` (one run per horizon: --config.duration.steps=25000), or `wsd`, a branch that
cools the constant run down over the last tenth of a horizon:

    ... --config=configs/anytime_150m.py:wsd --config.branch.workdir=runs/150m \
        --config.branch.step=22500 --config.schedule.steps=2500

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
