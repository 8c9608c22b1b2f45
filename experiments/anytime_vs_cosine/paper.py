"""The released numbers of the paper's Figure 2, which this experiment repeats small.

Loss minus that of the separately tuned cosine, in nats per token of 4 to 5 bytes, at
1x, 2x and so on. Meterez et al., 2026, arXiv 2602.03702,
reproducibility/reference/figure2_losses.csv of the authors' repository.
"""

# In 1e-5 nats.
_DIFFERENCES = {
    "150M": {
        "constant_average": (739, -157, -386, -458, -48, 286),
        "inverse_sqrt_average": (395, -453, -656, -667, -99, 406),
        "constant_cooldown_10": (670, -190, -451, -559, -179, 128),
    },
    "300M": {
        "constant_average": (515, -39, -145, 414, 821),
        "inverse_sqrt_average": (797, -96, -344, 147, 514),
        "constant_cooldown_10": (213, -240, -330, 291, 626),
    },
}
DIFFERENCES = {
    size: {name: [value / 1e5 for value in values] for name, values in of.items()}
    for size, of in _DIFFERENCES.items()
}
BAND = 0.008  # the largest of them, as its authors round it
