"""Training: one horizon-free run, its averages, its snapshots."""

from anytime_jax.training import merging
from anytime_jax.training.loop import Preempted, run, train
from anytime_jax.training.preparing import prepare
from anytime_jax.training.recipe import Plan, plan
from anytime_jax.training.snapshots import Damaged, restore_weights, stored_steps
from anytime_jax.training.store import Unwritable
from anytime_jax.training.stored import evaluate, load

__all__ = [
    "Damaged",
    "Plan",
    "Preempted",
    "Unwritable",
    "evaluate",
    "load",
    "merging",
    "plan",
    "prepare",
    "restore_weights",
    "run",
    "stored_steps",
    "train",
]
