"""What a compiled program sends between devices, read from its text."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator

# What one device sends for each byte of the result, among g devices in a ring.
_SENT = {
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-gather": lambda g: (g - 1) / g,
    "reduce-scatter": lambda g: g - 1,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1,
}
KINDS = tuple(_SENT)

_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
    r"\b(body|condition|calls|to_apply|true_computation|false_computation)"
    r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction that sends data between devices.

    Attributes:
      kind: one of `KINDS`.
      bytes: of its result on one device, all its arrays together.
      group: the number of devices that exchange data with each other; 2 for a permute.
      times: how often one run of the program runs it.
    """

    kind: str
    bytes: int
    group: int
    times: int


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a compiled program.

    Those in a loop count as often as the loop runs. Of the branches of a conditional
    that which sends the most counts. Those among a single device send nothing and are
    left out.

    Args:
      text: of the optimized program, `jax.jit(f).lower(...).compile().as_text()`.

    Returns:
      `Collective`s in the order of the program, those of a loop where it is.

    Raises:
      ValueError: a loop runs nobody knows how often, or a group of devices is written
        in an unknown way.

    Example:
      >>> collectives('''HloModule example, num_partitions=4
      ... ENTRY %main (x: f32[8]) -> f32[8] {
      ...   ROOT %sum = f32[8]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}
      ... }''')
      [Collective(kind='all-reduce', bytes=32, group=2, times=1)]
    """
    entry, computations = _computations(text)
    everyone = math.prod(
        int(number)
        for number in re.findall(
            r"\b(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0]
        )
    )

    @functools.cache
    def inside(name: str) -> list[Collective]:
        found = []
        for line in computations[name]:
            found += _own(line, everyone)
            found += _called(line, inside)
        return found

    return inside(entry)


def sent(found: Iterable[Collective]) -> dict[str, tuple[int, int]]:
    """Returns how much one device sends in one run of a program, by kind.

    A ring of g devices is assumed: for a result of b bytes each of them sends
    `2 b (g - 1) / g` in an all-reduce, `b (g - 1) / g` in an all-gather or all-to-all,
    `b (g - 1)` in a reduce-scatter, and b in a permute.

    Args:
      found: from `collectives`.

    Returns:
      `(number of collectives, bytes)` by kind, in the order of `KINDS`; only kinds that
      there are.

    Example:
      >>> sent([Collective("all-reduce", bytes=32, group=4, times=3)])
      {'all-reduce': (3, 144)}
    """
    found = list(found)
    totals = {}
    for kind in KINDS:
        ours = [one for one in found if one.kind == kind]
        if ours:
            number = sum(one.times for one in ours)
            totals[kind] = number, round(sum(map(_bytes_sent, ours)))
    return totals


def _bytes_sent(one: Collective) -> float:
    return _SENT[one.kind](one.group) * one.bytes * one.times


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
    """The name of the entry, and the lines of every computation by name."""
    entry, computations, lines = "", {}, []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    if not entry:
        raise ValueError(f"text={text[:40]!r} is not that of a compiled program")
    return entry, computations


def _own(line: str, everyone: int) -> Iterator[Collective]:
    """What an instruction itself sends."""
    match = _COLLECTIVE.search(line)
    if not match:
        return
    types, kind, starts = match.groups()
    if starts and kind in ("all-gather", "collective-permute"):
        types = _elements(types)[1]  # after the operands
    group = _group(line, everyone)
    if group > 1:
        yield Collective(kind, _bytes(types), group, 1)


def _called(line: str, inside: Callable[[str], list[Collective]]) -> list[Collective]:
    """What the computations send that an instruction runs."""
    # A reduction applies arithmetic; what an asynchronous instruction calls is in its
    # start, and the others repeat its name.
    if " = " not in line or re.search(r" async-(update|done)\(", line):
        return []
    called = dict(_CALLED.findall(line))
    if " call(" not in line:
        called.pop("to_apply", None)
    branches = [called.pop(f"{way}_computation", None) for way in ("true", "false")]
    if several := _BRANCHES.search(line):
        branches = [name.strip(" %") for name in several[1].split(",")]
    found = max(
        (inside(name) for name in branches if name),
        key=lambda branch: sum(map(_bytes_sent, branch)),
        default=[],
    )
    for role, name in called.items():
        inner = inside(name)
        if inner and role in ("body", "condition"):
            trips = _trips(line) + (role == "condition")
            inner = [dataclasses.replace(x, times=x.times * trips) for x in inner]
        found = found + inner
    return found


def _trips(line: str) -> int:
    if known := _TRIPS.search(line):
        return int(known[1])
    raise ValueError(
        f"the loop {line.split(' = ')[0].strip()} sends data, and the program does not "
        "say how often it runs"
    )


def _group(line: str, everyone: int) -> int:
    """The size of the groups, which XLA writes in one of several ways."""
    # mesh['axis_0'=2,'axis_1'=4], device_ids=([8]) {'axis_1'}; half of an axis of 4 is
    # 'axis_1':(1)2.
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(tiled[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if "replica_groups={}" in line:
        return everyone
    if "source_target_pairs=" in line:
        return 2
    raise ValueError(f"the groups of devices are not known in {line.strip()[:200]!r}")


def _bytes(types: str) -> int:
    total = 0
    for _, bits, shape in _ARRAY.findall(types):
        size = math.prod(int(n) for n in shape.split(",") if n)
        total += -(-size * int(bits or 8) // 8)
    return total


def _elements(types: str) -> list[str]:
    """The members of a tuple's type, which may be tuples themselves."""
    members, depth = [""], 0
    for character in types[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            members.append("")
        else:
            members[-1] += character
    return members
