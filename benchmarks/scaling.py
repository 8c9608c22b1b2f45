"""What the compiled step sends between devices, and what the averages add to it.

    python benchmarks/scaling.py

The train step is compiled for meshes of 1 to 64 simulated devices, with six averages
and with none. Collectives, the bytes that a device sends in a step, and the memory of a
device are read from the compiled programs; what is sent assumes rings. Seconds are
measured on 1 and 8 devices, which share the cores of this machine. The choices are
those of XLA's CPU compiler; a GPU or a TPU has others, such as reduce-scatter.
"""

import argparse
import dataclasses
import time

import jax
import machine
import numpy as np

from anytime_jax.commands import config_files
from anytime_jax.training import collectives, compiling, recipe, sharding, state

DEVICES = 64
# data, fsdp, tensor; each is also compiled with its state split over data.
MESHES = [
    (1, 1, 1),
    (2, 1, 1),
    (1, 2, 1),
    (4, 1, 1),
    (2, 2, 1),
    (8, 1, 1),
    (2, 4, 1),
    (2, 2, 2),
    (64, 1, 1),
    (8, 8, 1),
    (4, 4, 4),
]
TIMED = [(1, 1, 1), (8, 1, 1), (2, 2, 2)]
MODEL = dict(width=128, layers=4, heads=8)


def make_config(split, averages):
    """A decoder of 0.8M parameters on 64 sequences of 128 tokens."""
    config = config_files.load_config("configs/tiny.py")
    config.model.update(MODEL)
    config.update(batch_size=64, sequence_length=128, shard_state=split)
    config.data.source = "synthetic"
    if not averages:
        config.averages = {}
    return config


def build(sizes, split, averages):
    """The config, the recipe and the lowered step of a mesh, and its state's layout."""
    config = make_config(split, averages)
    axes = dict(zip(sharding.AXES, sizes, strict=True))
    mesh = sharding.make_mesh(**axes, devices=jax.devices()[: np.prod(sizes)])
    made = dataclasses.replace(recipe.build(config), mesh=mesh)
    train_step, _, like = compiling.compile_steps(config, made)
    lowered = train_step.lower(like, compiling.batch_like(config, made))
    return config, made, lowered, like


def account(sizes, split, averages):
    """What is sent by kind, the bytes of the state, and those of the whole step."""
    *_, lowered, _ = build(sizes, split, averages)
    # Collectives are chosen before LLVM, which takes half of the time.
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    memory = compiled.memory_analysis()
    whole = (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    found = collectives.collectives(compiled.as_text())
    return collectives.sent(found), memory.argument_size_in_bytes, whole


def seconds_per_step(sizes, split, rounds):
    """With averages and without, the best of some rounds of alternating steps."""
    arms = []
    for averages in (True, False):
        config, made, lowered, like = build(sizes, split, averages)
        layout = jax.tree.map(lambda leaf: leaf.sharding, like)
        current = jax.jit(
            lambda made=made: state.init(made.model, made.optimizer, 0),
            out_shardings=layout,
        )()
        shape = (config.batch_size, config.sequence_length + 1)
        tokens_BxL1 = np.random.default_rng(0).integers(256, size=shape).astype("int32")
        batch = sharding.place_batch(tokens_BxL1.__getitem__, shape, made.mesh)
        arms.append([lowered.compile(), current, batch, []])
    for _ in range(rounds + 1):
        for arm in arms:
            start = time.perf_counter()
            arm[1], _ = jax.block_until_ready(arm[0](arm[1], arm[2]))
            arm[3].append(time.perf_counter() - start)
    # The first round warms up.
    return [min(seconds[1:]) for *_, seconds in arms]


def print_table(header, rows):
    print("\n| " + " | ".join(header) + " |\n|---|---|" + "---:|" * (len(header) - 2))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def rows_of_programs():
    for sizes in MESHES:
        for split in (False, True)[: 1 + (sizes[0] > 1)]:
            sent, held, whole = account(sizes, split, True)
            plain, held_plain, whole_plain = account(sizes, split, False)
            numbers = [sum(n for n, _ in each.values()) for each in (sent, plain)]
            moved = [sum(b for _, b in each.values()) for each in (sent, plain)]
            yield [
                "x".join(map(str, sizes)),
                "yes" if split else "no",
                *(sent.get(kind, (0, 0))[0] for kind in collectives.KINDS),
                numbers[0] - numbers[1],
                f"{moved[0] / 1e6:.2f}",
                moved[0] - moved[1],
                f"{held / 1e6:.2f}",
                f"{1 - held_plain / held:.0%}",
                f"{1 - whole_plain / whole:.1%}",
            ]


def rows_of_seconds(rounds):
    for sizes in TIMED:
        for split in (False, True)[: 1 + (sizes[0] > 1)]:
            tracked, plain = seconds_per_step(sizes, split, rounds)
            yield [
                "x".join(map(str, sizes)),
                "yes" if split else "no",
                f"{1e3 * tracked:.0f} ms",
                f"{1e3 * plain:.0f} ms",
                f"{1 - plain / tracked:.1%}",
            ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    print(f"{machine.describe()}, simulated")
    split = ["mesh", "state split over data"]
    added = ["added by averages", "MB sent", "bytes added", "MB of state"]
    shares = ["averages' share of it", "of the whole step's memory"]
    print_table([*split, *collectives.KINDS, *added, *shares], rows_of_programs())
    times = ["step with 6 averages", "without", "averages' share"]
    print_table([*split, *times], rows_of_seconds(rounds))


if __name__ == "__main__":
    main()
