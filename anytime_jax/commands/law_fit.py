"""law fit CURVES... --out=FILE.json [--plot=FILE.png] [--law=multi_power]
    [--procedure=regularised] [--ridge=WEIGHT] [--profile=NAME ...]
    [--key=eval/loss/raw] [--begin=STEP] [--warmup_steps=W]

Fits a law of the loss curve to measured curves of one model, batch size and peak rate,
with schedules of at least two kinds, and writes it to FILE.json. CURVES are any of

  NAME.csv          with the columns step, lr and loss; steps count from 0
  FILE.npz          with the arrays NAME_step, NAME_lr and NAME_loss, for any names
  WORKDIR           a run of this package, or the metrics.jsonl in it

--law is annealing, forward_momentum, functional_scaling, multi_power or simple; a
choice or a parameter that is not to be fitted comes after a colon, such as
annealing:memory=1000. --procedure is regularised, converged or published, --ridge how
firmly a regularised fit holds some parameters, by default as the law has it. --key says
which losses of a run, --begin from which step on, by default after the warmup.
--warmup_steps is how long the warmup was of files that begin later than at step 0.

Prints the parameters with their standard errors, how far predictions are from the
curves, and how far off the end of each is that a fit to the others predicts; the
picture has curves and predictions. --profile=NAME, as often as wanted, also prints how
well the curves can be fitted with other values of a parameter.
"""

import warnings
from collections.abc import Mapping, Sequence

from absl import flags

from anytime_jax import laws
from anytime_jax.commands import arguments as arguments_lib
from anytime_jax.commands import law_files
from anytime_jax.commands.errors import BadInput
from anytime_jax.reporting import losses

LAWS = {
    law_files.name_of(getattr(laws, name)): getattr(laws, name)
    for name in laws.__all__
    if name.endswith("Law") and name != "Law"
}
_SCORES = dict(
    r2="R2",
    mae="MAE",
    rmse="RMSE",
    pred_error="PredE",
    worst_error="WorstE",
    final_error="final",
)


def run(arguments: Sequence[str]) -> int:
    """Fits a law.

    Args:
      arguments: those after the action.

    Returns:
      0.

    Raises:
      BadInput: an argument is not allowed, or the curves cannot be fitted.
    """
    values, paths = law_files.parse("fit", arguments, _define)
    if not paths:
        raise BadInput("CURVES is missing: csv or npz files, or folders of runs")
    if not values.out:
        raise BadInput("--out=FILE.json is missing: the law to write")
    out = law_files.path_of(values, "out", ".json")
    plot = law_files.path_of(values, "plot", ".png")
    kind, choices = _law(values.law)
    curves = [one.curve for one in law_files.read_curves(paths, values)]
    try:
        with warnings.catch_warnings():
            # The record has it, and it is told below.
            warnings.simplefilter("ignore", laws.UnidentifiedWarning)
            law = kind.fit(curves, values.procedure, ridge=values.ridge, **choices)
        profiles = {n: laws.profile(law, curves, n) for n in values.profile}
    except ValueError as error:
        raise BadInput(error) from error
    law, unknown = _held_out(law, curves)
    lines = {
        curve.name: losses.Line(
            curve.steps, law.predict(curve.rates, curve.steps), curve.losses
        )
        for curve in curves
    }
    title = f"Fit of the {law_files.name_of(kind)} law"
    law_files.write(
        {
            out: lambda path: path.write_text(
                law_files.to_json(law, curves, values.key)
            ),
            plot: lambda path: losses.draw_fits(lines, path, title=title),
        }
    )
    print(to_text(law, curves, profiles))
    for caution in [unknown] if unknown else []:
        print(f"\nCaution: {caution}.")
    law_files.tell_written(out, plot)
    return 0


def _held_out(
    law: laws.Law, curves: Sequence[laws.Curve]
) -> tuple[laws.Law, str | None]:
    """The law with its held-out errors, or else why it has none."""
    if len(curves) == 1:
        return law, "how far off the law is on another curve takes two to know"
    try:
        return laws.hold_out(law, curves), None
    except ValueError as error:
        return law, f"how far off the law is on another curve is not known: {error}"


def to_text(
    law: laws.Law,
    curves: Sequence[laws.Curve],
    profiles: Mapping[str, laws.Profile],
) -> str:
    """Returns what a fit found, how sure it is, and what to beware of.

    Args:
      law: fitted to the curves.
      curves: measured.
      profiles: of some parameters.
    """
    record = law.fitted
    ridge = f" with a ridge of {record.ridge:g}" if record.ridge else ""
    name = law_files.name_of(type(law))
    lines = [
        f"{name}, {record.procedure}{ridge}, {len(curves)} "
        f"curve{'s' * (len(curves) > 1)}, {record.points} "
        "points",
        "",
        f"{'parameter':<12}{'value':>12}  standard error",
    ]
    for name, value in law.parameters.items():
        error = record.standard_errors.get(name)
        shown = "given" if error is None else f"{value * error:.2g} ({error:.1%})"
        if name in record.unidentified:
            held = record.ridge and name in law.SHRUNK
            shown += f", not determined{': the ridge holds it' * bool(held)}"
        lines.append(f"{name:<12}{value:>12.6g}  {shown}")
    lines += ["", score_table({one.name: law.errors(one) for one in curves}, curves)]
    if record.held_out_errors:
        lines += ["", "Of a fit to the other curves, final:"]
        held_out = zip(record.curves, record.held_out_errors, strict=True)
        lines += [f"{error:>+10.5f}  {curve}" for curve, error in held_out]
    for name, one in profiles.items():
        lines += ["", f"{name:>12}  objective without ridge, with the best others"]
        pairs = zip(one.values, one.objective, strict=True)
        lines += [f"{value:>12.6g}  {objective:.4e}" for value, objective in pairs]
    for caution in _cautions(law, curves):
        lines += ["", f"Caution: {caution}."]
    return "\n".join(lines)


def score_table(
    scores: dict[str, dict[str, float]], curves: Sequence[laws.Curve]
) -> str:
    """Returns a line of errors for each curve, and their means.

    Args:
      scores: by name, what `laws.errors` gave.
      curves: as many, in the same order.
    """
    width = max(len("curve"), *map(len, scores))
    header = "".join(f"{text:>10}" for text in _SCORES.values())
    lines = [f"{'curve':<{width}}{'steps':>20}{header}"]
    for (name, score), curve in zip(scores.items(), curves, strict=True):
        steps = f"{curve.steps[0]:,} to {curve.steps[-1]:,}"
        lines.append(f"{name:<{width}}{steps:>20}{_cells(score)}")
    if len(scores) > 1:
        mean = _cells(laws.average_errors(list(scores.values())))
        lines.append(f"{'mean':<{width}}{'':>20}{mean}")
    lines += [
        "",
        "final: prediction - measurement at the end of a curve, in nats; its mean is "
        "without signs.",
    ]
    return "\n".join(lines)


def _cells(score: dict[str, float]) -> str:
    return "".join(f"{score[key]:>10.5f}" for key in _SCORES)


def _cautions(law: laws.Law, curves: Sequence[laws.Curve]) -> list[str]:
    found = []
    if law.fitted.unidentified:
        found.append(
            f"the curves do not determine {', '.join(law.fitted.unidentified)}: other "
            "values fit them about as well, and a schedule that is unlike theirs may "
            "be predicted badly; curves of another kind of schedule, such as a "
            "cooldown or a cosine, help"
        )
    peaks = law_files.differ([float(curve.rates.max()) for curve in curves])
    if peaks:
        found.append(
            f"the curves have peaks from {peaks}, and a law is for one: fit those of "
            "each peak by themselves"
        )
    return found


def _define(values: flags.FlagValues) -> None:
    law_files.define_curves(values)
    flags.DEFINE_string("law", "multi_power", "", flag_values=values)
    flags.DEFINE_string("procedure", "regularised", "", flag_values=values)
    flags.DEFINE_float("ridge", None, "", flag_values=values)
    flags.DEFINE_multi_string("profile", [], "", flag_values=values)
    for name in ("out", "plot"):
        flags.DEFINE_string(name, None, "", flag_values=values)


def _law(text: str) -> tuple[type, dict]:
    """The class, and what of it is chosen and fixed."""
    spec = arguments_lib.parse_spec(text, "--law")
    name = spec.pop("name")
    if name not in LAWS:
        raise BadInput(
            f"--law={text}: {name!r} is unknown; known are {', '.join(sorted(LAWS))}"
        )
    kind = LAWS[name]
    fixed = {key: spec.pop(key) for key in kind.PARAMETERS if key in spec}
    for key, value in fixed.items():
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise BadInput(f"--law={text}: {key}={value!r} must be a number above 0")
    for key in spec:
        if key not in kind.CONVENTIONS:
            fields = ", ".join((*kind.PARAMETERS, *kind.CONVENTIONS))
            raise BadInput(
                f"--law={text}: {key} must be a field of {kind.__name__}: {fields}"
            )
    if len(fixed) == len(kind.PARAMETERS):
        raise BadInput(f"--law={text} must leave a parameter to be fitted")
    return kind, dict(fixed=fixed, **spec)
