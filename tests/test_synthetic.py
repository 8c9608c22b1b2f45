import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax.data import synthetic


def loss(chain, tokens):
    """Mean next-token loss of a model that knows the chain, and its standard error."""
    losses = -np.log(chain.transition[tokens[:-1], tokens[1:]])
    return losses.mean(), losses.std() / math.sqrt(losses.size)


@pytest.mark.parametrize(("leave_0", "leave_1"), [(0.1, 0.4), (0.5, 0.5), (1.0, 0.25)])
def test_two_states_by_hand(leave_0, leave_1):
    def binary_entropy(p):
        return -sum(x * math.log(x) for x in (p, 1 - p) if x > 0)

    chain = synthetic.MarkovChain([[1 - leave_0, leave_0], [leave_1, 1 - leave_1]])
    share_0 = leave_1 / (leave_0 + leave_1)
    assert_allclose(chain.stationary, [share_0, 1 - share_0], rtol=1e-14)
    expected = share_0 * binary_entropy(leave_0)
    expected += (1 - share_0) * binary_entropy(leave_1)
    assert_allclose(chain.entropy_rate, expected, rtol=1e-14)


def test_extreme_chains():
    cycle = synthetic.MarkovChain(np.roll(np.eye(5), 1, axis=1))
    assert cycle.entropy_rate == 0
    assert_array_equal(np.diff(cycle.sample(20, seed=0).astype(int)) % 5, 1)
    uniform = synthetic.MarkovChain(np.full((300, 300), 1 / 300))
    assert_allclose(uniform.entropy_rate, math.log(300))
    assert uniform.sample(2000, seed=0).dtype == np.uint16


def test_stationary_distribution_is_a_fixed_point():
    chain = synthetic.random_chain(vocab_size=200, concentration=0.05, seed=3)
    assert_allclose(chain.stationary @ chain.transition, chain.stationary, atol=1e-15)
    assert_allclose(chain.stationary.sum(), 1)
    assert (chain.stationary >= 0).all()


def test_empirical_loss_is_the_entropy_rate():
    chain = synthetic.random_chain(vocab_size=8, seed=1)
    mean, error = loss(chain, chain.sample(50_000, seed=2))
    # Losses of neighbouring tokens are correlated, hence a few more standard errors.
    assert abs(mean - chain.entropy_rate) < 6 * error


def test_sample_has_the_frequencies_of_the_chain():
    chain = synthetic.MarkovChain([[0.2, 0.8, 0.0], [0.0, 0.5, 0.5], [0.7, 0.1, 0.2]])
    tokens = chain.sample(30_000, seed=0)
    counts = np.zeros((3, 3))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    assert counts[0, 2] == counts[1, 0] == 0
    assert_allclose(counts / counts.sum(1, keepdims=True), chain.transition, atol=0.02)
    assert_allclose(counts.sum(1) / counts.sum(), chain.stationary, atol=0.02)


def test_sample_starts_from_the_stationary_distribution():
    chain = synthetic.MarkovChain([[0.9, 0.1], [0.3, 0.7]])
    starts = [chain.sample(1, seed)[0] for seed in range(2000)]
    assert abs(np.mean(starts) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 2000)


def test_seed_decides_the_sample():
    chain = synthetic.random_chain()
    assert_array_equal(chain.sample(500, seed=4), chain.sample(500, seed=4))
    assert (chain.sample(500, seed=4) != chain.sample(500, seed=5)).any()
    assert (synthetic.random_chain(seed=1).transition != chain.transition).any()


@pytest.mark.parametrize(
    ("transition", "message"),
    [
        ([0.5, 0.5], "must be square"),
        ([[0.5, 0.5]], "must be square"),
        ([[0.5, 0.6], [0.5, 0.5]], "sum to 1"),
        ([[1.5, -0.5], [0.5, 0.5]], "probabilities"),
        ([[1.0, 0.0], [0.0, 1.0]], "reachable"),
        ([[1.0, 0.0], [0.5, 0.5]], "reachable"),
    ],
)
def test_transition_must_be_a_connected_stochastic_matrix(transition, message):
    with pytest.raises(ValueError, match=message):
        synthetic.MarkovChain(transition)


def test_random_chain_arguments():
    with pytest.raises(ValueError, match="vocab_size=1 must be at least 2"):
        synthetic.random_chain(vocab_size=1)
    with pytest.raises(ValueError, match="concentration=0 must be above 0"):
        synthetic.random_chain(concentration=0)


@pytest.fixture(scope="module")
def streams():
    return synthetic.streams()


def test_default_streams(streams):
    chain, tokens = streams
    assert chain.vocab_size == 16
    assert {split: array.size for split, array in tokens.items()} == {
        "train": 2**20,
        "validation": 2**17,
    }
    assert (tokens["train"][: 2**17] != tokens["validation"]).any()
    with pytest.raises(ValueError, match="read-only"):
        tokens["train"][0] = 1


def test_a_model_fitted_to_the_train_stream_approaches_entropy_from_above(streams):
    chain, tokens = streams
    counts = np.full((16, 16), 1e-3)
    train, validation = tokens["train"], tokens["validation"]
    optimum, _ = loss(chain, validation)
    excess = []
    for size in (2**8, 2**12, 2**20):
        np.add.at(counts, (train[: size - 1], train[1:size]), 1)
        fitted = synthetic.MarkovChain(counts / counts.sum(1, keepdims=True))
        excess.append(loss(fitted, validation)[0] - optimum)
    assert excess[0] > excess[1] > excess[2] > -1e-4
    assert abs(excess[2]) < 1e-3
    # Context matters: a model without any is far above.
    unigram = np.bincount(train, minlength=16) / train.size
    assert -np.log(unigram[validation]).mean() - optimum > 0.3
