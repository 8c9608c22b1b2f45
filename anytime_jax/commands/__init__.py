"""The verbs of `python -m anytime_jax VERB`."""
