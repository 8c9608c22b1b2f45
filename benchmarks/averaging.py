"""What an update of K averages costs, beside optax and beside the least possible.

    python benchmarks/averaging.py [--rounds=20]

One update of K averages of a decoder's 50 million float32 parameters, given the
parameters and the optimizer's updates, with everything donated that a step donates:

* `track`: `averaging.track` around an optimizer that hands the updates through;
* `optax`: `optax.apply_updates`, then K `optax.incremental_update`s, in one jit;
* `least`: (2 + 2K) x 4 bytes a parameter (read parameters and updates, read and write K
  averages) at the machine's copy bandwidth, the larger of an in-place `x + 1` under jit
  and, on a CPU, `numpy.copyto`, both counted as one read and one write.

`update` returns the averages alone; `step` returns the new parameters too, one write
more for all three. `reached` is least / track. Rounds are interleaved and the fastest
of each counts. By XLA's account, which no other load disturbs: `bytes` that an update
moves for a parameter, and `copies`, the peak memory of a step above that of the same
step without averages, in copies of the parameters.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax

from anytime_jax import averaging

LAYERS, WIDTH, HIDDEN, VOCABULARY = 4, 512, 2048, 32768
SHAPES = dict(
    embedding=(VOCABULARY, WIDTH),
    attention_norm=(LAYERS, WIDTH),
    query=(LAYERS, WIDTH, WIDTH),
    key=(LAYERS, WIDTH, WIDTH),
    value=(LAYERS, WIDTH, WIDTH),
    output=(LAYERS, WIDTH, WIDTH),
    mlp_norm=(LAYERS, WIDTH),
    gate=(LAYERS, WIDTH, HIDDEN),
    up=(LAYERS, WIDTH, HIDDEN),
    down=(LAYERS, HIDDEN, WIDTH),
    final_norm=(WIDTH,),
    head=(WIDTH, VOCABULARY),
)
PARAMETERS = sum(int(np.prod(shape)) for shape in SHAPES.values())
COPIES = ("x + 1", "numpy.copyto")
AVERAGES = dict(
    ema25=averaging.age_ema(divisor=25),
    uniform=averaging.uniform(),
    ema12_5=averaging.age_ema(divisor=12.5),
    ema50=averaging.age_ema(divisor=50),
    ema6_25=averaging.age_ema(divisor=6.25),
    ema100=averaging.age_ema(divisor=100),
)


def tree(value: float) -> dict[str, jax.Array]:
    return {name: jnp.full(shape, value) for name, shape in SHAPES.items()}


def arms(averages: dict) -> dict:
    """`(params, state, updates) -> ...` of both kinds, with their initial states."""
    tx = averaging.track(optax.identity(), averages)

    def track(params, state, updates):
        updates, state = tx.update(updates, state, params)
        return optax.apply_updates(params, updates), state

    def by_optax(params, state, updates):
        count, values = state
        count, newest = count + 1, optax.apply_updates(params, updates)
        values = {
            name: optax.incremental_update(newest, values[name], average(count))
            for name, average in averages.items()
        }
        return newest, (count, values)

    zeros = (jnp.int32(0), {name: tree(1.0) for name in averages})
    return dict(track=(track, tx.init(tree(1.0))), optax=(by_optax, zeros))


def account(function, donated, *arguments) -> tuple[float, float]:
    """XLA's account: bytes moved a parameter, and peak memory in copies of them."""
    compiled = jax.jit(function, donate_argnums=donated).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    peak = held - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    moved = compiled.cost_analysis().get("bytes accessed", np.nan)
    return moved / PARAMETERS, peak / (4 * PARAMETERS)


class Timer:
    """Keeps the fastest run of each thing timed."""

    def __init__(self):
        self.seconds = {}

    def __call__(self, name, function, *arguments):
        start = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        seconds = time.perf_counter() - start
        self.seconds[name] = min(seconds, self.seconds.get(name, np.inf))
        return result


def measure(number: int, rounds: int, timer: Timer) -> dict[str, float]:
    """Times one update and one step of `number` averages, and a copy beside them."""
    kinds = arms(dict(list(AVERAGES.items())[:number]))
    params, updates, copied = tree(1.0), tree(1e-4), tree(0.0)
    increment = jax.jit(
        lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0
    )
    on_cpu = jax.default_backend() == "cpu"
    source, target = (np.ones(PARAMETERS if on_cpu else 0, np.float32) for _ in "ab")

    def bare(params, state, updates):
        return optax.apply_updates(params, updates), state

    _, bare_peak = account(bare, (0, 1), params, (), updates)
    functions, states, accounts = {}, {}, {}
    for kind, (step, state) in kinds.items():
        update = functools.partial(lambda step, *given: step(*given)[1], step)
        functions[f"update {kind}"] = jax.jit(update, donate_argnums=1)
        functions[f"step {kind}"] = jax.jit(step, donate_argnums=(0, 1))
        given = (params, state, updates)
        accounts[f"update {kind} bytes"], _ = account(update, 1, *given)
        accounts[f"step {kind} bytes"], peak = account(step, (0, 1), *given)
        accounts[f"{kind} copies"] = peak - bare_peak
        states[kind] = state
    for name in functions:
        timer.seconds.pop(name, None)
    for _ in range(rounds):
        for name, function in functions.items():
            what, kind = name.split()
            result = timer(name, function, params, states[kind], updates)
            if what == "step":
                params, result = result
            states[kind] = result
        copied = timer("x + 1", increment, copied)
        if on_cpu:
            timer("numpy.copyto", np.copyto, target, source)
    return accounts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    print(
        f"{machine.describe()}; {PARAMETERS:,} parameters; fastest of {rounds} rounds"
    )
    timer, rows = Timer(), []
    for number in (1, 2, 4, 6):
        accounts = measure(number, rounds, timer)
        rows.append((number, accounts, dict(timer.seconds)))
    copies = {name: timer.seconds[name] for name in COPIES if name in timer.seconds}
    for name, seconds in copies.items():
        print(f"copy bandwidth by {name}: {8 * PARAMETERS / seconds / 1e9:.1f} GB/s")
    columns = ["track", "optax", "ratio", "least", "reached", "bytes", "optax's"]
    columns = ["K", *(f"{w}: {c}" for w in ("update", "step") for c in columns)]
    columns += ["copies: track", "copies: optax"]
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for number, accounts, seconds in rows:
        cells = [str(number)]
        for what, accesses in (("update", 2 + 2 * number), ("step", 3 + 2 * number)):
            least = accesses / 2 * min(copies.values())
            ours, theirs = seconds[f"{what} track"], seconds[f"{what} optax"]
            cells += [_ms(ours), _ms(theirs), f"{ours / theirs:.2f}"]
            cells += [_ms(least), f"{least / ours:.2f}"]
            moved = [accounts[f"{what} {kind} bytes"] for kind in ("track", "optax")]
            cells += [f"{bytes_:.0f}" for bytes_ in moved]
        cells += [f"{accounts[f'{kind} copies']:.2f}" for kind in ("track", "optax")]
        print("| " + " | ".join(cells) + " |")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


if __name__ == "__main__":
    main()
