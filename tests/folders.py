"""Folders as runs leave them, with losses that are easy to compute with.

1x is 100 steps. Losses are sums of a few powers of two, so that means and differences
are exact.
"""

import json
import pathlib

AVERAGES = {
    "ema100": {"name": "age_ema", "divisor": 100.0},
    "ema12_5": {"name": "age_ema", "divisor": 12.5},
    "ema25": {"name": "age_ema", "divisor": 25.0},
    "uniform": {"name": "uniform"},
}
TRUNK = {
    100: {"raw": 3.0, "ema25": 2.75, "uniform": 2.875},
    200: {"raw": 2.5, "ema25": 2.125, "uniform": 2.625},
    400: {"raw": 2.0, "ema25": 1.875, "uniform": 2.5},
}
COSINE = {100: 2.625, 200: 2.25, 400: 1.75}


def write(
    folder: pathlib.Path,
    schedule: str,
    losses: dict[int, dict[str, float]],
    *,
    total_steps: int | None = None,
    trunk: str | pathlib.Path = "",
    curves: bool = True,
    seed: int = 0,
    peak: float = 0.01,
    **changes,
) -> str:
    """Writes a run.

    Args:
      folder: where to.
      schedule: its name.
      losses: on the larger set, by step and by name of the weights.
      total_steps: the length of the run; by default up to its last loss.
      trunk: the folder that a cooldown of a fifth of its length branches off.
      curves: whether the small set was evaluated as well; its losses are 1/16 larger.
      seed: the seed.
      peak: of the schedule.
      **changes: values of config.json, written `section__key=value`.
    """
    total = total_steps or max(losses)
    start = total * 4 // 5 if trunk else 0
    spec = {"name": schedule, "peak": peak, "warmup_steps": 10}
    if trunk:
        spec = {"name": schedule, "steps": total - start, "shape": "1-sqrt"}
        spec["final_fraction"] = 0.0
    config = {
        "averages": {} if trunk else AVERAGES,
        "branch": {"workdir": str(trunk), "step": start},
        "data": {"source": "files:/home/somebody/*.txt", "tokenizer": "bytes"},
        "evaluation": {"batch_size": 8, "horizon_batches": 4},
        "model": {"name": "decoder"},
        "schedule": spec,
        "seed": seed,
        "sequence_length": 32,
        "resolved": {
            "data": {"validation": {"sha256": "abc"}},
            "devices": "1 x cpu",
            "horizons": sorted(losses) or [100],
            "parameters": {"embedding": 7, "non_embedding": 500},
            "tokens_per_step": 100,
            "total_steps": total,
            "versions": {"anytime_jax": "0.1.0", "jax": "0.10.2"},
        },
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"step": start + 1, "train/loss": 4.0, "train/learning_rate": 0.01}]
    for step, by_name in losses.items():
        if curves:
            small = {f"eval/loss/{name}": by_name[name] + 1 / 16 for name in by_name}
            lines.append({"step": step, **small})
        lines.append(
            {"step": step, **{f"horizon/loss/{k}": v for k, v in by_name.items()}}
        )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return str(folder)


def write_merge(
    folder: pathlib.Path,
    trunk: str | pathlib.Path,
    recipe: dict,
    loss: float | None,
    *,
    step: int = 400,
    span: int | None = None,
    weights: str = "raw",
    every: int = 40,
    **changes,
) -> str:
    """Writes a merge of two snapshots of a trunk.

    Args:
      folder: where to.
      trunk: the folder of its run.
      recipe: its spec.
      loss: on the larger set; None if it was not evaluated.
      step: of the newer snapshot.
      span: the last updates that it is about.
      weights: those that were merged.
      every: steps between the two.
      **changes: as in `write`; of the config of the trunk.
    """
    sources = [
        dict(step=step - every, weights=weights, coefficient=0.5),
        dict(step=step, weights=weights, coefficient=0.5),
    ]
    merge = dict(workdir=str(trunk), recipe=recipe, step=step, span=span)
    merge |= dict(sources=sources, quality={})
    changes = {"resolved__horizons": sorted(TRUNK), "averages": {}} | changes
    losses = {} if loss is None else {step: {"raw": loss}}
    return write(
        folder,
        "constant",
        losses,
        total_steps=400,
        curves=False,
        merge=merge,
        **changes,
    )


def write_all(folder: pathlib.Path) -> list[str]:
    """Writes a trunk, a cosine run at every horizon, and a cooldown at the last two."""
    trunk = folder / "trunk"
    return [
        write(trunk, "constant", TRUNK),
        *(
            write(folder / f"cosine_{step}", "cosine", {step: {"raw": loss}})
            for step, loss in COSINE.items()
        ),
        write(folder / "exit_200", "cooldown", {200: {"raw": 2.1875}}, trunk=trunk),
        write(folder / "exit_400", "cooldown", {400: {"raw": 1.8125}}, trunk=trunk),
    ]
