"""What a run needs before it is paid for: memory, arithmetic and what is sent.

All of it comes from shapes: nothing is allocated, and no accelerator is needed.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from anytime_jax import averaging, models
from anytime_jax.training import collectives, compiling, keys, sharding, state, step
from anytime_jax.training import recipe as recipe_lib

Tree = Any

# Rows and tokens of the batch that is traced. Both are primes that are no size of a
# model, so that they can be told from its sizes in every shape.
_ROWS, _LENGTH = 10_007, 5_003


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters: the raw weights.
      optimizer: its state without the averages, and the step.
      averages: of each by name.
      gradient: split as the weights are, and once more if parts are added up.
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
    def state(self) -> int:
        """What is there between two steps."""
        averages = 0 if self.on_host else sum(self.averages.values())
        return self.parameters + self.optimizer + averages

    @property
    def temporaries(self) -> int:
        """What is there besides at the end of the backward pass, at most."""
        return self.gradient + self.activations

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.temporaries


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiler makes of the train step.

    Attributes:
      state: bytes of it, and of the batch, on one device.
      temporaries: bytes of everything else there that is alive at once.
      sent: `(number of collectives, bytes that a device sends)` by kind.
    """

    state: int
    temporaries: int
    sent: Mapping[str, tuple[int, int]]

    @property
    def total(self) -> int:
        """Bytes on one device."""
        return self.state + self.temporaries


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
        self.config = config = keys.checked(config)
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
        layout = sharding.shardings(mesh, self._shapes, shard_state=shard_state)
        rows = part // (mesh.shape["data"] * mesh.shape["fsdp"])
        length = self.config.sequence_length
        gradient = bytes_per_device(self._shapes.params, layout.params)
        return Memory(
            **state_bytes(self._shapes, layout),
            gradient=gradient * (1 if self.config.accumulation == 1 else 2),
            activations=sum(
                sign
                * _kept_bytes(kept, self._shapes.params, layout.params, rows, length)
                for sign, kept in self._kept
            ),
            on_host=self.config.tracking.memory_kind != "device",
        )

    def meshes(self) -> Iterator[jax.sharding.Mesh]:
        """Returns every mesh that divides batch and weights, which send least first.

        A mesh that splits only rows sends one gradient a step, `fsdp` the weights twice
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
        layout = sharding.gradient_shardings(
            self.recipe.mesh, self._shapes.params, shard_state=self.config.shard_state
        )
        weights = bytes_per_device(self._shapes.params, layout)
        every = self.config.tracking.every
        return {
            name: (weights + 2 * size) / every
            for name, size in self.memory().averages.items()
        }

    def compile(self) -> Compiled:
        """Returns what the compiler of the devices makes of the train step."""
        train_step, _, like = compiling.compile_steps(self.config, self.recipe)
        batch = compiling.batch_like(self.config, self.recipe)
        compiled = train_step.lower(like, batch).compile()
        found = compiled.memory_analysis()
        fresh = found.output_size_in_bytes - found.alias_size_in_bytes
        return Compiled(
            state=found.argument_size_in_bytes,
            temporaries=found.temp_size_in_bytes + fresh,
            sent=collectives.sent(collectives.collectives(compiled.as_text())),
        )


def state_bytes(shapes: state.TrainState, layout: state.TrainState) -> dict[str, Any]:
    """Returns the bytes of a state on one device.

    Args:
      shapes: its arrays or their shapes.
      layout: its shardings.

    Returns:
      `parameters`, `optimizer` and, by name, `averages`, as `Memory` has them.
    """
    optimizer, averages = averaging.detach(shapes.optimizer)
    optimizer_layout, averages_layout = averaging.detach(layout.optimizer)
    return dict(
        parameters=bytes_per_device(shapes.params, layout.params),
        optimizer=bytes_per_device(
            (shapes.step, optimizer), (layout.step, optimizer_layout)
        ),
        averages={
            name: bytes_per_device(average, averages_layout[name])
            for name, average in averages.items()
        },
    )


def bytes_per_device(tree: Tree, layout: Tree) -> int:
    """Returns the bytes of arrays, or of their shapes, on one device.

    Example:
      >>> mesh = sharding.make_mesh(devices=jax.devices()[:1])
      >>> table = jax.ShapeDtypeStruct((4, 8), jnp.bfloat16)
      >>> bytes_per_device(table, jax.NamedSharding(mesh, jax.P("data")))
      64
    """

    def size(leaf, place):
        return math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(size, tree, layout)))


def matmul_flops(model: models.Model, rows: int, length: int) -> int:
    """Returns the floating-point operations of the matrix products in one train step.

    Counted in the traced gradient, 2 m n k for a product of m x k and k x n, layers
    that are computed again included. XLA's own count takes the body of a loop over
    layers once.

    Args:
      model: the model.
      rows: sequences of a batch.
      length: their tokens.

    Raises:
      ValueError: there are products in a loop that runs nobody knows how often.

    Example:
      >>> model = models.decoder(vocab_size=256, width=32, layers=2, heads=2)
      >>> matmul_flops(model, rows=1, length=64)
      15728640
    """
    gradient = jax.grad(lambda params, tokens: step.loss(model, params, tokens))
    tokens = jax.ShapeDtypeStruct((rows, length + 1), jnp.int32)
    return _flops(jax.make_jaxpr(gradient)(_params(model), tokens).jaxpr)


def _flops(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = math.prod(left[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        found = [_flops(one) for one in _jaxprs(equation.params)]
        if name == "while" and any(found):
            raise ValueError("a loop of unknown length multiplies matrices")
        times = equation.params["length"] if name == "scan" else 1
        total += times * (max(found) if name == "cond" else sum(found))
    return total


def _jaxprs(params: Mapping[str, Any]) -> Iterator:
    """The jaxprs among what an equation is given."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one


def _params(model: models.Model) -> Tree:
    return jax.eval_shape(model.init, jax.random.key(0))


def _kept_of(
    spec: Mapping[str, Any], model: models.Model
) -> list[tuple[int, list[jax.ShapeDtypeStruct]]]:
    """What is kept for the backward pass: lists to be added (1) or taken away (-1)."""
    found = [(1, _kept(model))]
    if spec.get("remat"):
        # Besides every layer's input, all that is in the one that is computed again.
        for sign, layers in ((1, 2), (-1, 1)):
            other = models.build({**spec, "layers": layers, "remat": False})
            found.append((sign, _kept(other)))
    return found


def _kept(model: models.Model) -> list[jax.ShapeDtypeStruct]:
    """What the forward pass of `_ROWS` rows keeps besides the weights."""

    def kept(params, tokens):
        _, backward = jax.vjp(lambda params: step.loss(model, params, tokens), params)
        return jax.tree.leaves(backward)

    tokens = jax.ShapeDtypeStruct((_ROWS, _LENGTH + 1), jnp.int32)
    jaxpr = jax.make_jaxpr(kept)(_params(model), tokens).jaxpr
    given = {id(variable) for variable in jaxpr.invars}
    found = {id(variable): variable.aval for variable in jaxpr.outvars}
    return [found[one] for one in found if one not in given]


def _kept_bytes(
    kept: list[jax.ShapeDtypeStruct], params: Tree, layout: Tree, rows: int, length: int
) -> int:
    """The bytes on a device that has so many rows."""
    weights = zip(jax.tree.leaves(params), jax.tree.leaves(layout), strict=True)
    held, split, parts = {}, set(), 1
    for leaf, place in weights:
        # Weights in another dtype are split as they are.
        held[leaf.shape] = math.prod(place.shard_shape(leaf.shape))
        split |= {
            n
            for n, axis in zip(leaf.shape, place.spec, strict=True)
            if axis == "tensor"
        }
        parts = place.mesh.shape["tensor"]

    def number(shape):
        after = [index for index, size in enumerate(shape) if size % _ROWS == 0]
        if not after:
            return held.get(shape, _put(math.prod(shape), _LENGTH, length))
        size = _put(_put(math.prod(shape), _ROWS, rows), _LENGTH, length)
        return size // parts if split & set(shape[after[0] + 1 :]) else size

    return sum(leaf.dtype.itemsize * number(leaf.shape) for leaf in kept)


def _put(number: int, marker: int, value: int) -> int:
    """The number with every factor `marker` replaced."""
    power = 0
    while number % marker == 0:
        number, power = number // marker, power + 1
    return number * value**power
