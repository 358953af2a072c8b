"""Reads out of a compiled program's text what devices exchange.

A compiled program is a list of computations, each a list of instructions; `while` and `fusion` instructions name the
computations that they run. https://openxla.org/xla/operation_semantics describes the instructions.
"""

import collections
import dataclasses
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")
_BITS = {"pred": 8, "token": 0, "s4": 4, "u4": 4, "s2": 2, "u2": 2}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s([a-z][a-z0-9\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
_CALLS = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction, as each device sees it.

    kind: one of KINDS.
    bytes: of the largest array on a device: that of an all-reduce, the result of an all-gather, the operand of a
        reduce-scatter.
    group_size: number of devices that take part together.
    times: how often a step runs it.
    times_known: False where it is in a loop whose length cannot be read and which counts as one round.
    """

    kind: str
    bytes: int
    group_size: int
    times: int = 1
    times_known: bool = True

    @property
    def sent_bytes(self) -> float:
        """Bytes that each device sends, all `times` together, in the schemes that send least, those of a ring.

        Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
        section 3: 2 (n - 1) / n of the array for an all-reduce, which is a reduce-scatter and an all-gather.
        """
        others = self.group_size - 1
        if self.kind in ("collective-permute", "collective-broadcast"):
            share = 1.0 if others else 0.0
        else:
            share = (2.0 if self.kind == "all-reduce" else 1.0) * others / self.group_size
        return self.times * share * self.bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `%name = result opcode(operands), attributes`.

    name: without the `%`.
    result: shape of the result, as text.
    opcode: the operation.
    rest: the line from the opcode on.
    """

    name: str
    result: str
    opcode: str
    rest: str


def collectives(text: str, num_devices: int) -> list[Collective]:
    """List the collectives of a compiled program between two or more devices, with how often loops run them.

    Args:
        text: from `jax.stages.Compiled.as_text()`: HLO after optimisation and partitioning.
        num_devices: number of devices that the program runs on.
    """
    computations, entry = parse(text)
    found, chains = [], set()

    def visit(name: str, times: int, known: bool) -> None:
        for each in computations.get(name, ()):
            kind = _kind(each)
            if kind:
                chain = chain_of(each)
                if chain in chains:
                    continue
                if chain:
                    chains.add(chain)
                found.append(
                    Collective(kind, _bytes(each, kind, num_devices), _group_size(each, num_devices), times, known)
                )
                continue  # the computation that an all-reduce names is its sum
            if each.opcode in ("async-update", "async-done"):
                continue  # they name what async-start runs
            rounds = trip_count(each, computations) if each.opcode == "while" else 1
            named = (each.name, *callees(each))
            scatters = each.opcode == "fusion" and any("reduce-scatter" in name for name in named)
            before = len(found)
            for callee in callees(each):
                visit(callee, times * (rounds or 1), known and rounds is not None)
            if scatters:  # XLA for TPUs writes a reduce-scatter as a fusion of an all-reduce and a slice
                found[before:] = [
                    dataclasses.replace(each, kind="reduce-scatter") if each.kind == "all-reduce" else each
                    for each in found[before:]
                ]

    visit(entry, 1, True)
    return [each for each in found if each.group_size > 1]


def chain_of(each: Instruction) -> tuple[str, ...] | None:
    """Identify a collective that runs while other instructions run; None for any other instruction.

    The compiler for TPUs writes such a collective into the fusion that starts it, into each fusion that runs beside it,
    and into the fusion that ends it, always with the same numbers.
    """
    chain = re.search(r'chain_id="(\d+)"', each.rest)
    return (chain[1], *re.findall(r"channel_id=(\d+)", each.rest)) if chain else None


def summary(found: list[Collective]) -> dict[str, dict[str, float]]:
    """Sum up a step's collectives: kind -> `count`, `bytes` and `sent_bytes`, in the order of KINDS."""
    table: dict[str, dict[str, float]] = collections.defaultdict(lambda: {"count": 0, "bytes": 0, "sent_bytes": 0.0})
    for kind in KINDS:
        for each in found:
            if each.kind == kind:
                table[kind]["count"] += each.times
                table[kind]["bytes"] += each.times * each.bytes
                table[kind]["sent_bytes"] += each.sent_bytes
    return dict(table)


def shape_bytes(shape: str) -> int:
    """Count the bytes of a shape's text, `f32[8,128]{1,0:T(8,128)}` or a tuple of them, without padding.

    Example:
        >>> shape_bytes("(f32[8,128]{1,0:T(8,128)}, bf16[2])")
        4100
    """
    return sum(_one_shape_bytes(dtype, sizes) for dtype, sizes in _SHAPE.findall(re.sub(r"\{[^{}]*\}", "", shape)))


def _one_shape_bytes(dtype: str, sizes: str) -> int:
    digits = re.search(r"\d+", dtype)
    bits = _BITS[dtype] if dtype in _BITS else int(digits[0]) if digits else 0
    return math.ceil(math.prod(int(size) for size in sizes.split(",") if size) * bits / 8)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Split a program into computations: name -> instructions, and the name of the computation that is run."""
    computations: dict[str, list[Instruction]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            opcode = _OPCODE.search(" " + found[2])
            if opcode:
                at = opcode.start()
                current.append(Instruction(found[1], found[2][:at], opcode[1], found[2][at:]))
    return computations, entry


def callees(each: Instruction) -> list[str]:
    """List the computations that an instruction runs; for a loop its body."""
    found = _CALLS.findall(each.rest)
    for branches in _BRANCHES.findall(each.rest):
        found += [branch.strip().lstrip("%") for branch in branches.split(",")]
    return found


def _kind(each: Instruction) -> str | None:
    opcode = each.opcode.removesuffix("-start").removeprefix("ragged-")
    return opcode if opcode in KINDS else None


def _bytes(each: Instruction, kind: str, num_devices: int) -> int:
    size = shape_bytes(each.result)
    group_size = _group_size(each, num_devices)
    if kind == "reduce-scatter":
        return size * group_size
    if each.opcode == "all-gather-start":  # its result also holds the operand, a share of the array
        return round(size * group_size / (group_size + 1))
    if each.opcode == "collective-permute-start":  # the operand, the result, and perhaps two numbers
        sizes = [_one_shape_bytes(*shape) for shape in _SHAPE.findall(re.sub(r"\{[^{}]*\}", "", each.result))]
        return max(sizes)
    return size


def _group_size(each: Instruction, num_devices: int) -> int:
    if "source_target_pairs=" in each.rest:
        return num_devices
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", each.rest):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", each.rest):
        return int(found[2])
    if found := re.search(r"replica_groups=@?\w*\[([^\]]*)\][^{,]*\{([^}]*)\}", each.rest):
        # Axes of a mesh by name, mesh['a'=4,'b'=2] {'a','b':(1)2}: after a colon is the part of an axis that counts.
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return num_devices


def trip_count(loop: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
    """Find the number of rounds of a loop: XLA's own, or else the limit in its condition; None if it has neither."""
    if found := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest):
        return int(found[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    body = computations.get(condition[1], []) if condition else []
    limits = [re.match(r"constant\((\d+)\)", each.rest) for each in body if each.opcode == "constant"]
    compares = [each for each in body if each.opcode == "compare" and "direction=LT" in each.rest]
    # JAX's loops of a known length count from 0 by 1.
    return int(limits[0][1]) if len(limits) == len(compares) == 1 and limits[0] else None
