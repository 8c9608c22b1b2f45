"""The paper's 300M model on C4: one trunk for every horizon from 1x to 16x Chinchilla.

    python -m anytime_jax train --config=configs/anytime_300m.py --workdir=runs/300m \
        --config.data.tokenizer=sentencepiece:PATH/TO/t5_vocab.model

Variants, data and branches as in configs/anytime_150m.py, with 24 layers and a batch of
512. Expected: about 11 hours per 1x on one H100 (160k tokens/s in the authors' code),
and validation losses, in nats, from Meterez et al., 2026, arXiv 2602.03702, released
data:

    horizon (steps)          1x      2x      4x      8x     16x
                          12500   25000   50000  100000  200000
    constant, ema25      2.8651  2.7787  2.7162  2.6685  2.6316
    inverse_sqrt, ema25  2.8679  2.7782  2.7142  2.6658  2.6285
    wsd, raw             2.8621  2.7767  2.7143  2.6673  2.6296
    cosine, raw, tuned   2.8600  2.7791  2.7176  2.6644  2.6234
"""

from typing import Any

from ml_collections import config_dict

from configs import anytime_150m

VARIANTS = anytime_150m.VARIANTS
_B2 = dict(constant=0.95, inverse_sqrt=0.99, cosine=0.95, wsd=0.95)


def get_config(variant: str = "constant") -> config_dict.ConfigDict:
    """Returns the config of a variant: one of `VARIANTS`."""
    config = anytime_150m.get_config(variant)
    config.model.layers = 24
    config.batch_size = 512
    config.optimizer.b2 = _B2[variant]
    if variant in ("constant", "inverse_sqrt"):
        config.duration.steps = 200_000
    config.horizons.steps = (12_500, 25_000, 50_000, 100_000, 200_000)
    return config


def get_sweep() -> dict[str, Any]:
    """Returns the runs of the paper, as in configs/anytime_150m.py."""
    multiples, grid = (1, 2, 4, 8, 16), ((3e-4, 1e-3, 3e-3), (0.95, 0.99))
    offsets = (12_800, 25_600, 51_200)
    return dict(
        workdir="runs/300m",
        tokens_per_second=160_000,
        source="one H100, a comment in the authors' configs/kempner/models/300m.yaml",
        jobs=[
            *anytime_150m.runs("constant", [16], *grid),
            *anytime_150m.runs("inverse_sqrt", [16], *grid, offsets=offsets),
            *anytime_150m.branches(multiples, *grid),
            *anytime_150m.runs("cosine", multiples, *grid),
        ],
    )
