"""What a merge is called, and what is in it, from its config.json."""

import itertools
from collections.abc import Mapping
from typing import Any

# Where it ends and how good it has to be make no other recipe.
_NOT_IN_LABEL = ("name", "start", "stop", "limit")


def label(origin: Mapping[str, Any], *, detailed: bool = False) -> str:
    """Returns what a merge is called, the same for the same share of any horizon.

    Args:
      origin: what its config.json has under `merge`.
      detailed: whether to add the distance of the snapshots.

    Example:
      >>> recipe = dict(name="from_decay", shape="1-sqrt")
      >>> sources = [dict(step=90, weights="raw"), dict(step=100, weights="raw")]
      >>> label(dict(recipe=recipe, step=100, span=20, sources=sources))
      'from_decay 1-sqrt, last 20%'
    """
    recipe, span = origin["recipe"], origin["span"]
    share = percent(span, origin["step"]) if span else ""
    if recipe["name"] == "window":
        return f"window {share}"
    words = [recipe["name"]]
    for key, value in recipe.items():
        if key in ("shape", "target"):
            words.append(_spec(value))
        elif key not in _NOT_IN_LABEL:
            words.append(f"{key}={value}")
    weights = {source["weights"] for source in origin["sources"]}
    if recipe["name"] != "synthesize" and weights != {"raw"}:
        words.append(f"of {', '.join(sorted(weights))}")
    text = " ".join(words) + (f", last {share}" if share else "")
    steps = sorted(source["step"] for source in origin["sources"])
    if detailed and share and len(steps) > 1:
        every = min(later - step for step, later in itertools.pairwise(steps))
        text += f", every {every}"
    return text


def percent(span: int, step: int) -> str:
    """Returns a share of a run, the same for spans that differ only by rounding.

    The share itself if it is a multiple of a half percent; or else the multiple of 5,
    2.5, 1 or a half percent, whichever comes first, that is no further from it than a
    step or a quarter percent.

    Args:
      span: updates, at least 1.
      step: those of the whole run.

    Example:
      >>> percent(97, 484), percent(3, 8), percent(61, 484), percent(13, 100)
      ('20%', '37.5%', '12.5%', '13%')
    """
    share = 100 * span / step
    if 200 * span % step == 0:
        return f"{share:g}%"
    room = max(100 / step, 0.25)
    for unit in (5, 2.5, 1, 0.5):
        near = unit * round(share / unit)
        if near and abs(near - share) <= room:
            return f"{near:g}%"
    return f"{share:.2g}%"


def contents(origin: Mapping[str, Any]) -> str:
    """Returns how many sets of weights are in a merge, and of which steps.

    Args:
      origin: what its config.json has under `merge`.

    Example:
      >>> sources = [dict(step=90, weights="a"), dict(step=100, weights="a")]
      >>> contents(dict(sources=sources, quality=dict(error=1e-3)))
      '2 of 90 to 100, error 0.001'
    """
    steps = [source["step"] for source in origin["sources"]]
    ends = dict.fromkeys((f"{min(steps):,}", f"{max(steps):,}"))
    error = origin["quality"].get("error")
    return f"{len(steps)} of {' to '.join(ends)}" + (
        f", error {error:.1g}" if error is not None else ""
    )


def _spec(spec: Any) -> str:
    """A spec, such as power(sigma_rel=0.1), or the name it may be instead."""
    if not isinstance(spec, Mapping):
        return str(spec)
    arguments = ", ".join(f"{k}={v}" for k, v in spec.items() if k != "name")
    return f"{spec['name']}({arguments})" if arguments else str(spec["name"])
