"""plan --config=FILE[:VARIANT] --devices=N [--mesh=DATAxFSDPxTENSOR] [--memory=GB]
    [--hardware=NAME] [--no-compile] [--config.KEY=VALUE ...]

Says what a run would need on N devices, none of which has to be there: the memory of
each, the arithmetic of a step, what is sent, what every average costs, and which meshes
fit. --mesh is the config's by default; one size may be -1, for what is left. --hardware
is a100, h100 (the default), v4, v5e, v5p or v6e, for times and for the memory of a
device if --memory does not give it. The step is compiled for simulated devices, in
about a minute for the largest configs here; --no-compile leaves that out. It fits if
the larger total does, the counted one or the compiler's; other meshes are not compiled.
A GB is 10^9 bytes. The data of the config need not be there.
"""

import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import ml_collections
from absl import flags

from anytime_jax.commands import config_files
from anytime_jax.commands.errors import BadInput
from anytime_jax.training import budget as budget_lib
from anytime_jax.training import recipe as recipe_lib
from anytime_jax.training import sharding
from anytime_jax.training.hardware import HARDWARE

_MOST_MESHES = 10


class Arguments(NamedTuple):
    """What was given.

    Attributes:
      config: the locked config with its overrides, its mesh that of --mesh.
      devices: how many.
      memory: of a device, in bytes.
      hardware: its name.
      compiles: whether to compile the step.
    """

    config: ml_collections.ConfigDict
    devices: int
    memory: float
    hardware: str
    compiles: bool


def run(arguments: Sequence[str]) -> int:
    """Plans a run.

    Args:
      arguments: those after the verb.

    Returns:
      0.

    Raises:
      BadInput: the arguments or the config are not allowed.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    given = parse(arguments)
    devices = _devices(given.devices)
    try:
        budget = budget_lib.Budget(given.config, devices)
    except ValueError as error:
        raise BadInput(error) from error
    compiled = None
    if given.compiles:
        what = f"{len(devices)} simulated devices"
        print(f"anytime_jax: compiling the step for {what}", file=sys.stderr)
        compiled = budget.compile()
    print(to_text(budget, compiled, given))
    try:
        recipe_lib.check_evaluation(given.config, budget.recipe.mesh)
    except ValueError as error:
        print(f"\ntrain would refuse this: {error}")
    return 0


def parse(arguments: Sequence[str]) -> Arguments:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      `Arguments`.

    Raises:
      BadInput: a flag, a key or a value is not allowed.
    """

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_integer("devices", None, "", lower_bound=1, flag_values=values)
        flags.DEFINE_string("mesh", None, "", flag_values=values)
        flags.DEFINE_float("memory", None, "", flag_values=values)
        flags.DEFINE_enum("hardware", "h100", list(HARDWARE), "", flag_values=values)
        flags.DEFINE_bool("no-compile", False, "", flag_values=values)

    values = config_files.parse("plan", arguments, define)
    if not values.devices:
        raise BadInput("--devices=N is missing: how many devices to plan for")
    memory = HARDWARE[values.hardware].memory
    if values.memory is not None:
        memory = 1e9 * values.memory
        if not memory > 0:
            raise BadInput(f"--memory={values.memory} must be above 0, in GB")
    config = values.config
    if values.mesh is not None:
        sizes = re.fullmatch(r"(-?\d+)x(-?\d+)x(-?\d+)", values.mesh)
        if not sizes:
            raise BadInput(
                f"--mesh={values.mesh} must be DATAxFSDPxTENSOR, such as 32x8x1"
            )
        axes = dict(zip(sharding.AXES, map(int, sizes.groups()), strict=True))
        config.mesh.update(axes)
    return Arguments(
        config=config,
        devices=values.devices,
        memory=memory,
        hardware=values.hardware,
        compiles=not values["no-compile"].value,
    )


def to_text(
    budget: budget_lib.Budget, compiled: budget_lib.Compiled | None, given: Arguments
) -> str:
    """Returns the plan.

    Args:
      budget: of the run.
      compiled: what the compiler made of its step, if it was asked.
      given: the command line.
    """
    parts = [_step(budget, given), _memory(budget, compiled, given)]
    if compiled and compiled.sent:
        parts.append(_sent(compiled))
    if budget.memory().averages:
        parts.append(_averages(budget, given))
    parts.append(_meshes(budget, given))
    if compiled and compiled.total > budget.memory().total:
        parts[-1].append("totals of meshes are counted; the compiler's is larger")
    return "\n\n".join("\n".join(part) for part in parts)


def _devices(count: int) -> list[jax.Device]:
    """Simulated devices, or those that there are if JAX has started."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
        jax.config.update("jax_platforms", "cpu")
    except RuntimeError:
        pass
    there = jax.devices()
    if len(there) < count:
        raise BadInput(
            f"--devices={count} must be at most {len(there)}, because JAX has started "
            "in this process with as many"
        )
    return there[:count]


def _step(budget: budget_lib.Budget, given: Arguments) -> list[str]:
    recipe = budget.recipe
    sizes = " x ".join(f"{axis} {size}" for axis, size in recipe.mesh.shape.items())
    peak = HARDWARE[given.hardware].flops / 1e12
    tokens, count = recipe.tokens_per_step, recipe.mesh.size
    return [
        f"{count} devices, {sizes}",
        "",
        f"{'parameters':<16}{recipe.parameters['non_embedding']:,}, and "
        f"{recipe.parameters['embedding']:,} of the vocabulary",
        f"{'tokens a step':<16}{tokens:,}, {tokens / count:,.6g} on each device",
        f"{'FLOPs a step':<16}{budget.flops:.4g}, {budget.flops / count:.4g} on each "
        "device, in products of matrices",
        f"{'':<16}at least {_number(1e3 * _least(budget, given))} ms at the "
        f"{peak:,.0f} bfloat16 TFLOP/s of {given.hardware}",
    ]


def _least(budget: budget_lib.Budget, given: Arguments) -> float:
    """The seconds of a step at the hardware's peak."""
    return budget.flops / budget.recipe.mesh.size / HARDWARE[given.hardware].flops


def _memory(
    budget: budget_lib.Budget, compiled: budget_lib.Compiled | None, given: Arguments
) -> list[str]:
    found = budget.memory()
    averages = sum(found.averages.values())
    rows = [
        ("  parameters", found.parameters, None),
        ("  optimizer", found.optimizer, None),
        ("  averages", averages, None),
        ("state", found.state, "state"),
        ("  gradient", found.gradient, None),
        ("  activations", found.activations, None),
        ("temporaries", found.temporaries, "temporaries"),
        ("total", found.total, "total"),
    ]
    scale, unit = _unit(max(found.total, averages))
    platform = budget.recipe.mesh.devices.flat[0].platform.upper()
    compiler = f"{platform + ' compiler':>16}" if compiled else ""
    lines = [f"{unit + ' on each device':<22}{'counted':>10}{compiler}"]
    for name, size, attribute in rows:
        line = f"{name:<22}{size / scale:10.3f}"
        if name == "  averages" and found.on_host:
            line += "  on the host, and not in the sums"
        if compiled and attribute:
            line += f"{getattr(compiled, attribute) / scale:16.3f}"
        lines.append(line)
    needed = max(found.total, compiled.total if compiled else 0)
    fits = "fits in" if needed <= given.memory else "does not fit in"
    lines[-1] += f"  {fits} {_gigabytes(given.memory)}"
    lines.append(
        "activations: what is kept for the backward pass, before a compiler fuses it"
    )
    if compiled:
        lines.append(
            f"{platform} compiler: that of an accelerator needs other temporaries, and "
            "may send otherwise"
        )
    return lines


def _sent(compiled: budget_lib.Compiled) -> list[str]:
    scale, unit = _unit(max(size for _, size in compiled.sent.values()))
    lines = [f"{unit + ' sent by each':<22}{'a step':>10}{'collectives':>16}"]
    for kind, (number, size) in compiled.sent.items():
        lines.append(f"  {kind:<20}{size / scale:10.3f}{number:16,}")
    return lines


def _averages(budget: budget_lib.Budget, given: Arguments) -> list[str]:
    found, moved = budget.memory(), budget.moved_bytes()
    bandwidth = HARDWARE[given.hardware].bandwidth
    scale, unit = _unit(max(moved.values()))
    lines = [
        f"{unit + ' on each device':<22}{'held':>10}{'moved a step':>16}"
        + ("" if found.on_host else f"{'ms':>10}{'of the least step':>20}")
    ]
    for name, size in found.averages.items():
        line = f"  {name:<20}{size / scale:10.3f}{moved[name] / scale:16.3f}"
        if not found.on_host:
            seconds = moved[name] / bandwidth
            share = seconds / _least(budget, given)
            line += f"{_number(1e3 * seconds):>10}{share:20.1%}"
        lines.append(line)
    if not found.on_host:
        rate = f"{bandwidth / 1e9:,.0f} GB/s of the memory of {given.hardware}"
        lines.append(f"ms: at the {rate}")
    return lines


def _meshes(budget: budget_lib.Budget, given: Arguments) -> list[str]:
    """The meshes that fit, or of those that do not the smallest."""
    rows = [
        (mesh.shape, budget.memory(mesh), budget.memory(mesh, shard_state=True))
        for mesh in budget.meshes()
    ]
    listed = [row for row in rows if row[1].total <= given.memory]
    title = f"meshes that fit in {_gigabytes(given.memory)}"
    if not listed:
        title = f"no mesh fits in {_gigabytes(given.memory)}; the smallest"
        listed = sorted(rows, key=lambda row: row[1].total)
    shown = listed[:_MOST_MESHES]
    scale, unit = _unit(max(found.total for _, found, _ in shown))
    columns = ["parameters", "optimizer", "averages", "activations", "total"]
    columns += [] if given.config.shard_state else ["shard_state"]
    lines = [
        f"{title}, {unit} on each device",
        f"{'data':>6}{'fsdp':>6}{'tensor':>8}"
        + "".join(f"{column:>13}" for column in columns),
    ]
    for shape, found, sharded in shown:
        sizes = [found.parameters, found.optimizer, sum(found.averages.values())]
        sizes += [found.activations, found.total, sharded.total][: len(columns) - 3]
        lines.append(
            f"{shape['data']:6}{shape['fsdp']:6}{shape['tensor']:8}"
            + "".join(f"{size / scale:13.3f}" for size in sizes)
            + "  this one" * (shape == budget.recipe.mesh.shape)
        )
    left = len(listed) - len(shown)
    lines += [f"and {left} more, which send more"] * bool(left)
    if not given.config.shard_state:
        with_it = sum(row[2].total <= given.memory for row in rows)
        more = with_it - sum(row[1].total <= given.memory for row in rows)
        lines.append(
            "shard_state: the total with --config.shard_state=true"
            + f", with which {more} more fit" * bool(more)
        )
    return lines


def _number(value: float) -> str:
    """Three digits, in full from a hundredth on."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.4g} GB"


def _unit(largest: float) -> tuple[float, str]:
    """The unit in which the largest of some sizes is a number of few digits."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB")):
        if largest >= scale:
            return scale, unit
    return 1e3, "kB"
