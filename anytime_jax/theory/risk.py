"""The exact expected risk of SGD in linear regression, for every average at once."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anytime_jax.averaging import weights
from anytime_jax.theory import inputs, values
from anytime_jax.theory.inputs import PerUpdate
from anytime_jax.theory.linear_regression import LinearRegression

# The host hands out this many updates at a time, with at most so many records among
# them, so that one compilation serves runs of any length.
_CHUNK = 4096
_RECORDS = 64
# A risk above this has diverged; what follows is computed without overflow.
_LIMIT = 1e150
# Where a problem may start, so that passing that is divergence.
_LARGEST = 1e100
PARTS = ("total", "bias", "variance")


class Risk(dict):
    """Excess risks by name, `raw` and each average, and what diverged.

    Attributes:
      diverged: for each multiplier of the schedule, the number of updates after which
        its risk passed 1e150, or -1; its risks are infinite from there. int64 [rates].
    """

    diverged: np.ndarray


class _State(NamedTuple):
    """Second moments of R runs, K averages, N directions."""

    raw_RxN: jax.Array  # E delta^2
    average_KxRxN: jax.Array  # E average^2
    cross_KxRxN: jax.Array  # E average delta
    diverged_R: jax.Array


def sgd_risk(
    problem: LinearRegression,
    schedule: values.Rates,
    averages: Mapping[str, Callable],
    steps: int,
    batch_size: float | Callable[[int], float] = 1,
    record: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
    part: str = "total",
) -> Risk:
    """Returns the exact expected excess risk of SGD and of averages of its iterates.

    With `delta = theta - target` in the eigenbasis, `s_i = E delta_i^2`,
    `q = sum_i lambda_i s_i`, rate r and batch size B, an update is

        s_i <- (1 - 2 r lambda_i + (1 + 1/B) r^2 lambda_i^2) s_i
               + r^2 lambda_i (q + noise) / B

    and an average of mixing weight w has, with `c_i = E average_i delta_i` and
    `u_i = (1 - r lambda_i) c_i`,

        E average_i^2 <- (1 - w)^2 E average_i^2 + 2 w (1 - w) u_i + w^2 s_i
        c_i <- (1 - w) u_i + w s_i

    in float64. The risk is `sum_i lambda_i s_i / 2`, or of the averages likewise.

    Args:
      problem: a `LinearRegression`.
      schedule: a callable from count (0 for the first update) to rate: of optax, of
        this package or plain; or a number; or an array of the rate of every update.
      averages: names, other than `raw`, to averages: of this package, or callables from
        update (1 for the first) to mixing weight.
      steps: how many updates, >= 1.
      batch_size: samples of an update, >= 1, infinity for gradient descent; or a
        callable from count to them.
      record: numbers of updates, 0 to `steps`, after which the risks are wanted; by
        default only `steps`.
      rates: multipliers of the schedule, all computed in one pass.
      part: `total`, or only its `bias` (without noise) or `variance` (started at the
        target), which sum to it.

    Returns:
      A `Risk`: a dict of float64 [record], or [rates, record] if `rates` are given, by
      `raw` and the names of the averages. Where a multiplier diverges its risks are
      infinite, and `diverged` says after how many updates.

    Raises:
      ValueError: an argument is out of range, or the problem's noise or initial risk
        above 1e100; or no multiplier can be used, each one being above the largest
        stable rate at every update, or diverging.

    Example:
      >>> from anytime_jax import averaging, schedules
      >>> problem = LinearRegression(capacity=1.5, source=2, dimension=10**9, noise=1)
      >>> trunk = schedules.inverse_sqrt(peak=0.3, offset=100)
      >>> averages = dict(ema25=averaging.age_ema(divisor=25))
      >>> risk = sgd_risk(problem, trunk, averages, steps=1000, record=[10, 1000])
      >>> {name: values.round(4).tolist() for name, values in risk.items()}
      {'raw': [0.4393, 0.0804], 'ema25': [0.4198, 0.0443]}

    Source: fourth moments of a Gaussian; the recursion of the raw weights is that of
    the released code of Meterez et al., 2026, arXiv 2602.03702.
    """
    weights.require_count("steps", steps, least=1)
    if part not in PARTS:
        raise ValueError(f"part={part!r} must be one of {', '.join(PARTS)}")
    record_S, places = np.unique(inputs.records(record, steps), return_inverse=True)
    multiplier_R = np.ones(1) if rates is None else inputs.multipliers(rates)
    each = inputs.per_update(schedule, averages, steps, batch_size)
    _require_scale(problem)
    _require_stable(problem, each, multiplier_R)
    with jax.enable_x64(True):
        risk_SxLxR, diverged_R = _run(problem, each, record_S, multiplier_R, part)
    if (diverged_R >= 0).all():
        last = diverged_R.argmax()
        update = diverged_R[last] - 1
        raise ValueError(
            f"schedule diverges: the risk is over {_LIMIT:g} after {update + 1} updates"
            f", at a rate of {each.rate_T[update] * multiplier_R[last]:g}; "
            + _stability(problem, each.inverse_batch_T[update])
        )
    gone_SxR = (diverged_R >= 0) & (record_S[:, None] >= diverged_R)
    risk_SxLxR = np.where(gone_SxR[:, None], np.inf, risk_SxLxR)[places]
    found = Risk()
    for index, name in enumerate(("raw", *averages)):
        found[name] = (
            risk_SxLxR[:, index].T if rates is not None else (risk_SxLxR[:, index, 0])
        )
    found.diverged = diverged_R
    return found


def _run(
    problem: LinearRegression,
    each: PerUpdate,
    record_S: np.ndarray,
    multiplier_R: np.ndarray,
    part: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The risks [S, 1 + K, R] at the records, and where each multiplier diverged."""
    eigenvalue_N, target_N, multiplicity_N = problem.spectrum
    noise = 0.0 if part == "bias" else float(problem.noise)
    start_N = np.zeros_like(target_N) if part == "variance" else target_N
    R, N, K = len(multiplier_R), len(eigenvalue_N), each.weight_TxK.shape[1]
    state = _State(
        jnp.broadcast_to(start_N, (R, N)),
        jnp.broadcast_to(start_N, (K, R, N)),
        jnp.broadcast_to(start_N, (K, R, N)),
        jnp.full(R, -1, jnp.int64),
    )
    fixed = (eigenvalue_N, multiplicity_N * eigenvalue_N, noise, multiplier_R)
    risks, begin = [], 0
    while True:
        due = record_S[len(risks) : len(risks) + _RECORDS]
        due = due[due <= begin + _CHUNK]
        end = due[-1] if len(due) == _RECORDS else begin + _CHUNK
        end = int(min(end, record_S[-1]))
        chunk = PerUpdate(*(_padded(x[begin:end], _CHUNK) for x in each))
        stops = np.append(due, np.full(_RECORDS - len(due), end)) - begin
        state, risk = _advance(state, fixed, chunk, stops, begin)
        risks.extend(np.asarray(risk)[: len(due)])
        begin = end
        if len(risks) == len(record_S):
            return np.array(risks), np.asarray(state.diverged_R)


@functools.partial(jax.jit, donate_argnums=0)
def _advance(
    state: _State, fixed: tuple, chunk: PerUpdate, stops: jax.Array, begin: int
) -> tuple[_State, jax.Array]:
    """Updates up to the last of `stops`, and the risks [stops, 1 + K, R] at each."""
    eigenvalue_N, weight_N, noise, multiplier_R = fixed
    eigenvalue_1xN = eigenvalue_N[None]

    def update(t: jax.Array, state: _State) -> _State:
        raw_RxN, average_KxRxN, cross_KxRxN, diverged_R = state
        q_R = raw_RxN @ weight_N
        diverged_R = _where_diverged(diverged_R, q_R, begin + t)
        gone_R = diverged_R >= 0
        # At rate 0 what has diverged stands still.
        rate_Rx1 = jnp.where(gone_R, 0.0, chunk.rate_T[t] * multiplier_R)[:, None]
        inverse_batch = chunk.inverse_batch_T[t]
        step_RxN = rate_Rx1 * eigenvalue_1xN
        raw_RxN = (
            1 - 2 * step_RxN + (1 + inverse_batch) * step_RxN**2
        ) * raw_RxN + inverse_batch * rate_Rx1 * step_RxN * (q_R[:, None] + noise)
        w = chunk.weight_TxK[t][:, None, None]
        old_KxRxN = (1 - w) * cross_KxRxN * (1 - step_RxN)[None]
        new_KxRxN = w * raw_RxN[None]
        average_KxRxN = (1 - w) ** 2 * average_KxRxN + w * (2 * old_KxRxN + new_KxRxN)
        return _State(raw_RxN, average_KxRxN, old_KxRxN + new_KxRxN, diverged_R)

    def segment(carry, stop):
        t, state = carry
        state = jax.lax.fori_loop(t, stop, update, state)
        q_R, q_KxR = state.raw_RxN @ weight_N, state.average_KxRxN @ weight_N
        diverged_R = _where_diverged(state.diverged_R, q_R, begin + stop)
        risk_LxR = jnp.concatenate([q_R[None], q_KxR]) / 2
        return (stop, state._replace(diverged_R=diverged_R)), risk_LxR

    (_, state), risks = jax.lax.scan(segment, (jnp.zeros_like(stops[0]), state), stops)
    return state, risks


def _where_diverged(diverged_R: jax.Array, q_R: jax.Array, updates: int) -> jax.Array:
    gone_R = ~(q_R / 2 <= _LIMIT)  # True for NaN too.
    return jnp.where(gone_R & (diverged_R < 0), updates, diverged_R)


def _padded(values_T: np.ndarray, length: int) -> np.ndarray:
    """With zeros at the end, which no update reads."""
    missing = length - len(values_T)
    return np.pad(values_T, [(0, missing)] + [(0, 0)] * (values_T.ndim - 1))


def _require_scale(problem: LinearRegression) -> None:
    """Refuses numbers so large that they would be taken for divergence."""
    scales = {"initial risk": problem.initial_risk, "noise": problem.noise}
    for name, value in scales.items():
        if value > _LARGEST:
            raise ValueError(
                f"problem: its {name}, {value:g}, must be <= {_LARGEST:g}: a risk over "
                f"{_LIMIT:g} counts as divergence"
            )


def _require_stable(
    problem: LinearRegression, each: PerUpdate, multiplier_R: np.ndarray
) -> None:
    """Refuses rates that are above the largest stable one at every update."""
    rate = each.rate_T.min() * multiplier_R.min()
    inverse_batch = each.inverse_batch_T.min()
    if rate > _critical_rate(problem, inverse_batch):
        raise ValueError(
            f"schedule: its rate is never below {rate:g}; "
            + _stability(problem, inverse_batch)
        )


def _critical_rate(problem: LinearRegression, inverse_batch: float) -> float:
    return problem.critical_rate(1 / inverse_batch if inverse_batch else math.inf)


def _stability(problem: LinearRegression, inverse_batch: float) -> str:
    size = 1 / inverse_batch if inverse_batch else math.inf
    largest = _critical_rate(problem, inverse_batch)
    return f"the largest stable rate at a batch size of {size:g} is {largest:g}"
