"""A byte model of 25k parameters on Python source text: the demo, in minutes on a CPU.

    python -m anytime_jax train --config=configs/tiny.py --workdir=runs/trunk

A variant after a colon picks the schedule: `constant` (the trunk, and the default),
`inverse_sqrt`, `cosine`, `linear`, `wsd`, or `cooldown`, a branch off a trunk:

    python -m anytime_jax train --config=configs/tiny.py:cosine --workdir=runs/cosine \
        --config.duration.chinchilla=4
    python -m anytime_jax train --config=configs/tiny.py:cooldown --workdir=runs/exit \
        --config.branch.workdir=runs/trunk --config.branch.step=1550 \
        --config.schedule.steps=388
"""

from ml_collections import config_dict

_AVERAGES = dict(
    ema6_25=dict(name="age_ema", divisor=6.25),
    ema12_5=dict(name="age_ema", divisor=12.5),
    ema25=dict(name="age_ema", divisor=25.0),
    ema50=dict(name="age_ema", divisor=50.0),
    ema100=dict(name="age_ema", divisor=100.0),
    uniform=dict(name="uniform"),
)

_PEAK = 1e-2
_WARMUP_STEPS = 100
_SCHEDULES = dict(
    constant=dict(name="constant", peak=_PEAK, warmup_steps=_WARMUP_STEPS),
    inverse_sqrt=dict(
        name="inverse_sqrt",
        peak=_PEAK,
        warmup_steps=_WARMUP_STEPS,
        offset=2000.0,  # steps; about four times 1x, as in the paper
    ),
    cosine=dict(name="cosine", peak=_PEAK, warmup_steps=_WARMUP_STEPS),
    linear=dict(name="linear", peak=_PEAK, warmup_steps=_WARMUP_STEPS),
    wsd=dict(
        name="wsd",
        peak=_PEAK,
        warmup_steps=_WARMUP_STEPS,
        cooldown_fraction=0.2,
        shape="1-sqrt",
        final_fraction=0.0,
    ),
    cooldown=dict(name="cooldown", steps=97, shape="1-sqrt", final_fraction=0.0),
)
VARIANTS = tuple(_SCHEDULES)


def get_config(variant: str = "constant") -> config_dict.ConfigDict:
    """Returns the config of a variant: one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise ValueError(
            f"variant {variant!r} of configs/tiny.py is unknown; known are "
            f"{', '.join(VARIANTS)}"
        )
    trunk = variant in ("constant", "inverse_sqrt")
    config = config_dict.ConfigDict()
    config.seed = 0

    config.model = dict(
        name="decoder",
        vocab_size=256,  # at least that of the tokenizer
        width=32,
        layers=2,
        heads=2,  # a divisor of the width
        norm="layernorm",  # or rmsnorm
        mlp="gelu",  # or swiglu
        compute_dtype="float32",  # or bfloat16
        remat=False,
    )
    config.data = dict(
        source="corpus",  # or files:GLOB, tfds:NAME, synthetic
        tokenizer="bytes",  # or sentencepiece:FILE, huggingface:FILE
        validation_fraction=0.02,  # of the documents, if the source has no split
    )
    config.sequence_length = 64  # tokens
    config.batch_size = 16  # sequences per step
    config.accumulation = 1  # parts of a batch, run one after the other

    config.schedule = _SCHEDULES[variant]
    config.optimizer = dict(name="adam", b1=0.9, b2=0.99)  # any of optax
    config.clip_norm = 1.0  # largest norm of the gradient
    config.averages = _AVERAGES if trunk else {}
    config.tracking = dict(
        every=1,  # steps between ticks
        dtype="float32",  # or bfloat16, float64
        compensated=False,
        time="steps",  # or tokens
        memory_kind="device",  # or pinned_host
    )

    # Exactly one unit is not 0; one chinchilla is 20 tokens a non-embedding parameter.
    config.duration = dict(
        chinchilla=0.0 if variant == "cooldown" else 8.0, tokens=0, steps=0
    )
    config.horizons = dict(chinchilla=(1.0, 2.0, 4.0, 8.0), tokens=(), steps=())
    config.branch = dict(  # only for the schedule cooldown
        workdir="",
        step=0,
        averages="restart",  # or continue, freeze: what becomes of the run's
    )

    config.evaluation = dict(
        points=20,  # log-spaced steps at which `batches` are evaluated
        batches=2,
        horizon_batches=16,  # at every horizon
        batch_size=64,  # sequences
        patience=3,  # evaluations in a row; an average that moves away so often
        # is warned of, 0 for never
    )
    # Steps between snapshots that are kept for good, 0 for a quarter of 1x; and between
    # those of which only the latest two are kept, 0 for none.
    config.snapshots = dict(every=0, latest_every=0)
    config.logging = dict(every=20)  # steps
    config.mesh = dict(data=-1, fsdp=1, tensor=1)  # devices; -1 takes all that are left
    config.shard_state = False  # split optimizer and averages over mesh.data too
    # What becomes of an update whose loss or gradient is not finite: stop, or skip, at
    # most `limit` of them in a row.
    config.nonfinite = dict(policy="stop", limit=10)
    return config
