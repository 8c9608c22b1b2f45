"""What a run needs before it is paid for: memory, arithmetic and what is sent.

All of it comes from shapes: nothing is allocated, and no accelerator is needed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from anytime_jax import averaging, models
from anytime_jax.training import collectives, compiling, sharding, state, step
from anytime_jax.training import recipe as recipe_lib

Tree = Any

# Rows and tokens of the batch that is traced. Both are primes that are no size of a
# model, so that they can be told from its sizes in every shape.
_ROWS, _LENGTH = 100_003, 10_007


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters: the raw weights.
      optimizer: its state without the averages, and the step.
      averages: of each by name.
      gradient: that of one part of a batch, or the sum of several.
      activations: what JAX keeps of the forward for the backward pass, before the
        compiler fuses anything; an array that a layer's width or heads are split over
        is split over `mesh.tensor`.
      on_host: whether the averages are in the memory of the host.
    """

    parameters: int
    optimizer: int
    averages: Mapping[str, int]
    gradient: int
    activations: int
    on_host: bool

    @property
    def total(self) -> int:
        """All that is in the memory of the device at the end of a forward pass."""
        averages = 0 if self.on_host else sum(self.averages.values())
        others = self.parameters, self.optimizer, self.gradient, self.activations
        return averages + sum(others)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiler makes of the train step.

    Attributes:
      arguments: bytes of state and batch on one device.
      temporaries: bytes of everything else there that is alive at once.
      sent: `(number of collectives, bytes that a device sends)` by kind.
    """

    arguments: int
    temporaries: int
    sent: Mapping[str, tuple[int, int]]


class Budget:
    """The needs of a run on some devices, whichever way they are arranged.

    Args:
      config: as `configs/tiny.py` documents it; its data need not be there.
      devices: the devices, which may be simulated.

    Attributes:
      config: the config.
      recipe: what was assembled of it; its mesh is that of the config.
      flops: of the matrix products in one train step, on all devices together.

    Raises:
      ValueError: as for `recipe.assemble`.
    """

    def __init__(self, config: ml_collections.ConfigDict, devices: list[jax.Device]):
        """Assembles the run and traces its model."""
        self.config = config
        self.recipe = recipe_lib.assemble(config, devices)
        self._devices = devices
        model, optimizer = self.recipe.model, self.recipe.optimizer
        self._shapes = jax.eval_shape(lambda: state.init(model, optimizer, 0))
        self._kept = _kept_of(config.model.to_dict(), model)
        self.flops = matmul_flops(model, config.batch_size, config.sequence_length)

    def memory(
        self, mesh: jax.sharding.Mesh | None = None, shard_state: bool | None = None
    ) -> Memory:
        """Returns what one device holds.

        Args:
          mesh: how the devices are arranged; as the config has it by default.
          shard_state: as in the config, which is the default.

        Raises:
          ValueError: the mesh does not divide the batch or the weights.
        """
        mesh = self.recipe.mesh if mesh is None else mesh
        shard_state = self.config.shard_state if shard_state is None else shard_state
        part = self.config.batch_size // self.config.accumulation
        sharding.check_batch("batch_size / accumulation", part, mesh)
        split = dict(shard_state=shard_state)
        params = self._shapes.params
        layout = sharding.shardings(mesh, self._shapes, **split)
        gradient = sharding.gradient_shardings(mesh, params, **split)
        rows = part // (mesh.shape["data"] * mesh.shape["fsdp"])
        measure = functools.partial(
            _kept_bytes,
            params=params,
            layout=layout.params,
            rows=rows,
            length=self.config.sequence_length,
        )
        return Memory(
            **state_bytes(self._shapes, layout),
            gradient=bytes_per_device(params, gradient),
            activations=sum(sign * measure(kept) for sign, kept in self._kept),
            on_host=self.config.tracking.memory_kind != "device",
        )

    def meshes(self) -> Iterator[jax.sharding.Mesh]:
        """Returns every mesh that divides batch and weights, those that send least first.

        What is only split by rows sends one gradient a step, `fsdp` the weights twice
        more, and `tensor` every layer's activations.
        """
        count = len(self._devices)
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        for tensor in divisors:
            for fsdp in divisors:
                if count % (tensor * fsdp):
                    continue
                sizes = dict(fsdp=fsdp, tensor=tensor)
                mesh = sharding.make_mesh(**sizes, devices=self._devices)
                try:
                    self.memory(mesh)
                except ValueError:
                    continue
                yield mesh

    def moved_bytes(self) -> dict[str, float]:
        """Returns the bytes that each average reads and writes on a device, a step.

        At every tick the new weights are read, and the average (and its compensation)
        is read and written; with `tracking.every` there are fewer ticks than steps.
        """
        found = self.memory()
        every = self.config.tracking.every
        weights = bytes_per_device(
            self._shapes.params,
            sharding.gradient_shardings(
                self.recipe.mesh, self._shapes.params, shard_state=self.config.shard_state
            ),
        )
        return {n: (weights + 2 * size) / every for n, size in found.averages.items()}

    def compile(self) -> Compiled:
        """Returns what the compiler of the devices makes of the train step."""
        train_step, _, like = compiling.compile_steps(self.config, self.recipe)
        batch = compiling.batch_like(self.config, self.recipe)
        compiled = train_step.lower(like, batch).compile()
        found = compiled.memory_analysis()
        fresh = found.output_size_in_bytes - found.alias_size_in_bytes
        return Compiled(
            arguments=found.argument_size_in_bytes,
            temporaries=found.temp_size_in_bytes + fresh,
            sent=collectives.sent(collectives.collectives(compiled.as_text())),
        )
