"""What compiled programs send: programs with known collectives, and written texts."""

import functools

import jax
import jax.numpy as jnp
import pytest

from anytime_jax.training import collectives
from anytime_jax.training.collectives import Collective

P = jax.P


def program(*lines, before=""):
    """The text of a program of 8 devices with an entry of these lines."""
    body = "\n".join(f"  {line}" for line in lines)
    return (
        "HloModule jit_step, is_scheduled=true, num_partitions=8\n\n"
        f"{before}\n\nENTRY %main.1_spmd (x: f32[4]) -> f32[4] {{\n{body}\n}}\n"
    )


GROUPS = {
    "replica_groups={{0,1,2,3},{4,5,6,7}}": 4,
    "replica_groups={}": 8,
    "replica_groups=[4,2]<=[8]": 2,
    "replica_groups=[2,4]<=[2,2,2]T(2,1,0)": 4,
    "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}": 4,
    "replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2], "
    "device_ids=([2,2,2]T(0,2,1)) {'axis_0','axis_2'}": 4,
    "replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}": 4,
}


@pytest.mark.parametrize("groups", GROUPS)
def test_each_way_to_write_groups(groups):
    text = program(
        f"%all-reduce.3 = f32[4,16]{{1,0}} all-reduce(%x), channel_id=2, {groups}, "
        "use_global_device_ids=true, to_apply=%add"
    )
    expected = Collective("all-reduce", bytes=256, group=GROUPS[groups], times=1)
    assert collectives.collectives(text) == [expected]


@pytest.mark.parametrize(
    ("types", "size"),
    [
        ("f32[]", 4),
        ("pred[3,5]{1,0}", 15),
        ("bf16[4]{0:T(8,128)(2,1)S(1)}", 8),
        ("f8e4m3fn[7]{0}", 7),
        ("s4[6]{0}", 3),
        (
            "(f32[2]{0}, u8[3]{0}, s64[1]{0}, f32[], f32[], /*index=5*/f32[1,1]{1,0})",
            31,
        ),
    ],
)
def test_bytes_of_results(types, size):
    line = f"%a = {types} all-to-all(%x), replica_groups=[4,2]<=[8]"
    [found] = collectives.collectives(program(line))
    assert found == Collective("all-to-all", bytes=size, group=2, times=1)


def test_of_an_asynchronous_collective_the_result_counts_and_once():
    text = program(
        "%g = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8]",
        "%h = f32[8]{0} all-gather-done(%g)",
        "%i = ((f32[1]{0}, f32[2]{0}), (f32[4]{0}, f32[8]{0})) "
        "all-gather-start(%x, %y), replica_groups=[2,4]<=[8]",
        "%p = (f32[3]{0}, f32[3]{0}, u32[], u32[]) collective-permute-start(%x), "
        "source_target_pairs={{0,1},{1,0}}",
        "%r = f32[5]{0} all-reduce-start(%x), replica_groups=[1,8]<=[8]",
        "%s = ((f32[8]), f32[4]) async-start(%x), calls=%wrapped",
        "%t = f32[4] async-done(%s), calls=%wrapped",
        before="%wrapped (x: f32[8]) -> f32[4] {\n"
        "  ROOT %o = f32[4]{0} reduce-scatter(%x), replica_groups=[4,2]<=[8]\n}",
    )
    assert collectives.collectives(text) == [
        Collective("all-gather", bytes=32, group=4, times=1),
        Collective("all-gather", bytes=48, group=4, times=1),
        Collective("collective-permute", bytes=12, group=2, times=1),
        Collective("all-reduce", bytes=20, group=8, times=1),
        Collective("reduce-scatter", bytes=16, group=2, times=1),
    ]


def test_of_a_conditional_the_branch_that_sends_most_counts():
    def computation(name, *lines):
        return f"%{name} (p: f32[4]) -> f32[4] {{\n" + "\n".join(lines) + "\n}\n"

    line = "  %{0} = f32[{1}]{{0}} all-reduce(%p), replica_groups=[1,8]<=[8]"
    branches = (
        computation("none", "  ROOT %p = f32[4]{0} parameter(0)")
        + computation("one", line.format("a", 9))
        + computation("two", line.format("b", 4), line.format("c", 4))
    )
    switch = "%c = f32[4]{0} conditional(%i, %x), "
    for way in (
        "branch_computations={%none, %one, %two}",
        "true_computation=%one, false_computation=%two",
    ):
        [found] = collectives.collectives(program(switch + way, before=branches))
        assert found.bytes == 36


def test_what_one_device_does_alone_is_not_sent():
    line = "%a = f32[4]{0} all-reduce(%x), replica_groups={{0},{1},{2},{3}}"
    assert collectives.collectives(program(line)) == []


LOOP = (
    "%body (p: f32[4]) -> f32[4] {\n"
    "  ROOT %a = f32[4]{0} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%add\n"
    "}\n"
    "%until (p: f32[4]) -> pred[] {\n  ROOT %l = pred[] constant(false)\n}\n"
)
WHILE = "%w = f32[4]{0} while(%x), condition=%until, body=%body"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (program(WHILE, before=LOOP), "the loop %w sends data, and .* how often"),
        (
            program("%a = f32[4]{0} all-reduce(%x), replica_groups=@new"),
            "groups of devices are not known in '%a = f32",
        ),
        ("HloModule jit_step\n", "text='HloModule jit_step.*' is not that of a"),
    ],
)
def test_what_cannot_be_counted_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        collectives.collectives(text)


def test_loops_in_loops_multiply():
    trips = ', backend_config={"known_trip_count":{"n":"%d"}}'
    inner = WHILE.replace("%w", "ROOT %v") + trips % 3
    outer = f"%outer (p: f32[4]) -> f32[4] {{\n  {inner}\n}}\n"
    whole = WHILE.replace("body=%body", "body=%outer") + trips % 5
    [found] = collectives.collectives(program(whole, before=LOOP + outer))
    assert found.times == 15


def test_bytes_sent_by_a_device_of_a_ring():
    found = [
        Collective("all-reduce", bytes=80, group=8, times=2),
        Collective("all-reduce", bytes=10, group=2, times=1),
        Collective("all-gather", bytes=80, group=4, times=1),
        Collective("reduce-scatter", bytes=80, group=4, times=1),
        Collective("all-to-all", bytes=80, group=8, times=1),
        Collective("collective-permute", bytes=80, group=2, times=7),
    ]
    assert collectives.sent(reversed(found)) == {
        "all-reduce": (3, 2 * 140 + 10),
        "all-gather": (1, 60),
        "reduce-scatter": (1, 240),
        "all-to-all": (1, 70),
        "collective-permute": (7, 560),
    }
    assert collectives.sent([]) == {}


def test_a_compiled_program_whose_collectives_are_known():
    mesh = jax.make_mesh((4, 2), ("a", "b"), (jax.sharding.AxisType.Auto,) * 2)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P(), out_specs=P())
    def three_reductions(x):
        def add(total, _):
            return jax.lax.pmean(jnp.sin(total), "b"), None

        return jax.lax.scan(add, x, length=3)[0]

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=False
    )
    def others(x_16):
        gathered_64 = jax.lax.all_gather(x_16, "a", tiled=True)
        scattered_16 = jax.lax.psum_scatter(jnp.sin(gathered_64), "a", tiled=True)
        swapped_16 = jax.lax.all_to_all(scattered_16, "b", 0, 0, tiled=True)
        turned = [(index, (index + 1) % 4) for index in range(4)]
        return jax.lax.ppermute(jnp.cos(swapped_16), "a", turned)

    def step(x_64, y_64):
        return others(x_64), three_reductions(y_64)

    text = jax.jit(step).lower(jnp.ones(64), jnp.ones(64)).compile().as_text()
    found = sorted(collectives.collectives(text), key=lambda one: one.kind)
    assert found == [
        Collective("all-gather", bytes=256, group=4, times=1),
        Collective("all-reduce", bytes=256, group=2, times=3),
        Collective("all-to-all", bytes=64, group=2, times=1),
        Collective("collective-permute", bytes=64, group=2, times=1),
        Collective("reduce-scatter", bytes=64, group=4, times=1),
    ]
