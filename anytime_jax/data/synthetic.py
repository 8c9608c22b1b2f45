"""Tokens whose entropy is known exactly: a first-order Markov chain.

A model that knows the transition matrix has, on average over the chain, a next-token
loss equal to the entropy rate, and no model has less. So the gap of a training run to
`MarkovChain.entropy_rate` is its excess loss, with no constant to guess.
"""

import bisect
import functools
import itertools

import numpy as np


class MarkovChain:
    """A stationary first-order Markov chain over the symbols 0 ... V - 1.

    `H = - sum_i pi_i sum_j P_ij ln P_ij` with `pi P = pi` (Shannon, 1948, theorem 5).

    Args:
      transition: [V, V], the probability of the next symbol (column) after each symbol
        (row). Every symbol must be reachable from every other.

    Raises:
      ValueError: the matrix is not of that kind.

    Example:

      >>> fair = MarkovChain([[0.5, 0.5], [0.5, 0.5]])
      >>> f"{fair.entropy_rate / np.log(2):.6f} bits"
      '1.000000 bits'
    """

    def __init__(self, transition: np.ndarray):
        p_VxV = np.array(transition, np.float64)
        square = p_VxV.ndim == 2 and p_VxV.shape[0] == p_VxV.shape[1] > 0
        if not square or (p_VxV < 0).any() or not np.allclose(p_VxV.sum(1), 1):
            raise ValueError(
                f"transition has shape {p_VxV.shape} and row sums "
                f"{p_VxV.sum(-1).tolist()}; it must be square with rows of "
                "probabilities that sum to 1"
            )
        vocab_size = len(p_VxV)
        reachable_VxV = (p_VxV > 0) | np.eye(vocab_size, dtype=bool)
        for _ in range(vocab_size.bit_length()):
            reachable_VxV = reachable_VxV @ reachable_VxV
        if not reachable_VxV.all():
            raise ValueError(
                f"transition={p_VxV.tolist()} splits the symbols; every symbol must be "
                "reachable from every other"
            )
        p_VxV /= p_VxV.sum(1, keepdims=True)
        self.transition = p_VxV
        # pi (P - I) = 0 has one equation too many, which sum(pi) = 1 replaces.
        equations_VxV = (p_VxV - np.eye(vocab_size)).T
        equations_VxV[-1] = 1
        right_V = np.zeros(vocab_size)
        right_V[-1] = 1
        self.stationary = np.linalg.solve(equations_VxV, right_V)

    @property
    def vocab_size(self) -> int:
        """The number of symbols V."""
        return len(self.transition)

    @property
    def entropy_rate(self) -> float:
        """The entropy rate H in nats per token, in float64."""
        log_VxV = np.log(np.where(self.transition > 0, self.transition, 1))
        return float(-self.stationary @ (self.transition * log_VxV).sum(1))

    def sample(self, length: int, seed: int) -> np.ndarray:
        """Returns `length` symbols, the first from the stationary distribution.

        Args:
          length: number of symbols.
          seed: of the random numbers; the same seed gives the same symbols.

        Returns:
          An array [length] of the smallest unsigned type that holds V - 1.
        """
        rows = [self.stationary, *self.transition]
        # The last boundary is at 1, but its rounding error must not make a symbol V.
        start, *boundaries = [np.cumsum(row)[:-1].tolist() for row in rows]
        first, *rest = np.random.default_rng(seed).random(length).tolist()
        symbols = itertools.accumulate(
            rest,
            lambda symbol, uniform: bisect.bisect(boundaries[symbol], uniform),
            initial=bisect.bisect(start, first),
        )
        return np.fromiter(symbols, np.min_scalar_type(self.vocab_size - 1), length)


def random_chain(
    *, vocab_size: int = 16, concentration: float = 0.3, seed: int = 0
) -> MarkovChain:
    """Makes a chain whose rows are independent draws from a Dirichlet distribution.

    Args:
      vocab_size: number of symbols V, at least 2.
      concentration: the Dirichlet parameter, above 0: small means that few symbols
        follow each symbol, large means that all are about equally likely.
      seed: of the random numbers.

    Raises:
      ValueError: an argument is out of range.

    Example:

      >>> f"{random_chain().entropy_rate:.3f} of at most {np.log(16):.3f} nats"
      '1.969 of at most 2.773 nats'
    """
    if vocab_size < 2:
        raise ValueError(f"vocab_size={vocab_size} must be at least 2")
    if not concentration > 0:
        raise ValueError(f"concentration={concentration} must be above 0")
    generator = np.random.default_rng(seed)
    return MarkovChain(
        generator.dirichlet(np.full(vocab_size, concentration), vocab_size)
    )


@functools.cache
def streams(
    train_tokens: int = 2**20, validation_tokens: int = 2**17
) -> tuple[MarkovChain, dict[str, np.ndarray]]:
    """Returns the default chain and two independent, read-only streams of it.

    Args:
      train_tokens: length of the stream "train".
      validation_tokens: length of the stream "validation".
    """
    chain = random_chain()
    tokens = {
        "train": chain.sample(train_tokens, seed=1),
        "validation": chain.sample(validation_tokens, seed=2),
    }
    for array in tokens.values():
        array.flags.writeable = False
    return chain, tokens
