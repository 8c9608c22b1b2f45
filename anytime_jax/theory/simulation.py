"""SGD in linear regression, run: what the exact risks are checked against."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anytime_jax.averaging import weights
from anytime_jax.theory import inputs, values
from anytime_jax.theory.linear_regression import LinearRegression


class Estimate(NamedTuple):
    """A mean over replicas, float64 [record], and its standard error."""

    mean: np.ndarray
    standard_error: np.ndarray


def simulate(
    problem: LinearRegression,
    schedule: values.Rates,
    averages: Mapping[str, Callable],
    steps: int,
    batch_size: float | Callable[[int], float] = 1,
    record: Sequence[int] | None = None,
    *,
    replicas: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Returns excess risks of SGD estimated by running it on random samples.

    Every replica draws its own inputs and labels and updates all d coordinates, in
    float64: replicas x steps x batch size x d numbers in all.

    Args:
      problem: a `LinearRegression` of finite dimension.
      schedule: as in `sgd_risk`, and so are the next four.
      averages: names to averages.
      steps: how many updates.
      batch_size: samples of an update, an integer >= 1, or a callable to them.
      record: numbers of updates after which the risks are wanted; by default `steps`.
      replicas: independent runs, >= 2.
      seed: of their samples.

    Returns:
      An `Estimate` by `raw` and the names of the averages.

    Raises:
      ValueError: an argument is out of range, or a batch size is not an integer.

    Example:
      >>> problem = LinearRegression(capacity=1, source=1, dimension=2, noise=1)
      >>> found = simulate(problem, 0.1, {}, steps=10, replicas=100)
      >>> found["raw"].mean.shape
      (1,)
    """
    weights.require_count("replicas", replicas, least=2)
    each = inputs.per_update(schedule, averages, steps, batch_size)
    record_S, places = np.unique(inputs.records(record, steps), return_inverse=True)
    with np.errstate(divide="ignore"):
        batch_T = 1 / each.inverse_batch_T
    # Not every integer is the inverse of its inverse: 49 is not.
    integer_T = np.isfinite(batch_T) & (1 / np.rint(batch_T) == each.inverse_batch_T)
    for t in np.flatnonzero(~integer_T)[:1]:
        raise ValueError(f"batch_size={batch_T[t]:g} at count {t} must be an integer")
    spectrum = problem.expanded().spectrum
    with jax.enable_x64(True):
        risk_SxLxP = _run(
            each,
            spectrum.eigenvalues,
            np.sqrt(spectrum.squared_target),
            float(problem.noise),
            record_S,
            jax.random.key(seed),
            replicas,
            int(np.rint(batch_T.max())),
        )
    risk_SxLxP = np.asarray(risk_SxLxP)[places]
    mean_SxL = risk_SxLxP.mean(-1)
    error_SxL = risk_SxLxP.std(-1, ddof=1) / np.sqrt(replicas)
    return {
        name: Estimate(mean_SxL[:, index], error_SxL[:, index])
        for index, name in enumerate(("raw", *averages))
    }


@functools.partial(jax.jit, static_argnames=("replicas", "largest_batch"))
def _run(
    each: inputs.PerUpdate,
    eigenvalue_N: jax.Array,
    target_N: jax.Array,
    noise: float,
    record_S: jax.Array,
    key: jax.Array,
    replicas: int,
    largest_batch: int,
) -> jax.Array:
    """The risks [S, 1 + K, P] of every replica."""
    P, B, N, K = replicas, largest_batch, len(target_N), each.weight_TxK.shape[1]

    def update(t: jax.Array, state: tuple) -> tuple:
        delta_PxN, average_KxPxN = state
        of_inputs, of_noise = jax.random.split(jax.random.fold_in(key, t))
        scale_N = jnp.sqrt(eigenvalue_N)
        x_PxBxN = scale_N[None, None] * jax.random.normal(of_inputs, (P, B, N))
        noise_PxB = jnp.sqrt(noise) * jax.random.normal(of_noise, (P, B))
        inverse = each.inverse_batch_T[t]
        # Of a smaller batch the last samples do not count.
        share_B = jnp.where(jnp.arange(B) * inverse < 1 - inverse / 2, inverse, 0.0)
        error_PxB = jnp.einsum("pbn,pn->pb", x_PxBxN, delta_PxN) - noise_PxB
        gradient_PxN = jnp.einsum("pb,pbn->pn", share_B[None] * error_PxB, x_PxBxN)
        delta_PxN = delta_PxN - each.rate_T[t] * gradient_PxN
        w_Kx1x1 = each.weight_TxK[t][:, None, None]
        average_KxPxN += w_Kx1x1 * (delta_PxN[None] - average_KxPxN)
        return delta_PxN, average_KxPxN

    def segment(carry: tuple, stop: jax.Array) -> tuple:
        state = jax.lax.fori_loop(carry[0], stop, update, carry[1])
        all_LxPxN = jnp.concatenate([state[0][None], state[1]])
        return (stop, state), jnp.square(all_LxPxN) @ eigenvalue_N / 2

    start_PxN = jnp.broadcast_to(-target_N, (P, N))
    state = start_PxN, jnp.broadcast_to(-target_N, (K, P, N))
    return jax.lax.scan(segment, (jnp.zeros_like(record_S[0]), state), record_S)[1]
