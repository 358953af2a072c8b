"""Reads out of a compiled program's text how much it reads from and writes to a device's main memory.

`cost_analysis` counts operands and results of kernels in any memory, and loops once. Here arrays in a TPU's on-chip
memory, which the text marks with `S(1)`, are left out, and a loop counts as often as it runs.
"""

import re

from vit_jax.planning import hlo
from vit_jax.planning.hlo import Instruction

_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
_FREE |= {"opt-barrier", "iota"}
_ARRAY = re.compile(r"\b([a-z]\w*\[[0-9,]*\])(\{[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")


def memory_bytes(text: str) -> int:
    """Count the bytes that one device reads and writes in main memory when it runs a compiled program.

    Each kernel reads its operands and writes its result once. Where it only takes slices of an operand, as a loop does
    of the arrays that it goes through, the slices count. Padding does not count.

    Args:
        text: from `jax.stages.Compiled.as_text()`: HLO after optimisation and partitioning.
    """
    computations, entry = hlo.parse(text)

    def visit(name: str) -> int:
        body = computations.get(name, [])
        shapes = {each.name: each.result for each in body}
        total = 0
        for each in body:
            if each.opcode in _FREE or each.opcode.endswith(("-done", "-update")):
                continue
            if each.opcode in ("while", "call", "conditional", "async-start"):
                rounds = hlo.trip_count(each, computations) if each.opcode == "while" else 1
                total += (rounds or 1) * sum(visit(callee) for callee in hlo.callees(each))
            elif each.opcode in ("all-gather-start", "collective-permute-start"):
                total += _size(each.result)  # it also holds what is read
            elif each.opcode == "copy-start":  # its result holds what is written, what is read, and a number
                total += sum(_sizes(each.result)[:2])
            elif each.opcode == "slice-start":  # the whole array, the slice, and a number
                total += hlo.shape_bytes(_ARRAY.findall(each.result)[1][0]) + _sizes(each.result)[1]
            elif each.opcode == "custom-call" and not operands(each):
                continue  # it only reserves memory
            elif each.opcode == "fusion":
                callee = (hlo.callees(each) or [""])[0]
                total += _written(each, computations.get(callee, []))
                for number, operand in enumerate(operands(each)):
                    whole = _size(shapes.get(operand, ""))
                    total += min(whole, _read(computations, callee, number, whole))
            elif each.opcode == "dynamic-slice":
                total += _size(each.result) + hlo.shape_bytes(each.result)
            elif each.opcode == "dynamic-update-slice":
                total += 2 * _size(shapes.get(operands(each)[1], ""))
            else:
                total += _size(each.result) + sum(_size(shapes.get(name, "")) for name in operands(each))
        return total

    return visit(entry)


def operands(each: Instruction) -> list[str]:
    """List the names of an instruction's operands in order."""
    depth, start = 0, each.rest.index("(")
    for at in range(start, len(each.rest)):
        depth += {"(": 1, ")": -1}.get(each.rest[at], 0)
        if depth == 0:
            return _NAME.findall(each.rest[start:at])
    return []


def _sizes(shape: str) -> list[int]:
    """Bytes of each array of a shape, 0 for an array that is not in main memory."""
    return [0 if "S(" in layout else hlo.shape_bytes(array) for array, layout in _ARRAY.findall(shape)]


def _size(shape: str) -> int:
    return sum(_sizes(shape))


def _read(computations: dict[str, list[Instruction]], name: str, number: int, whole: int) -> int:
    """Bytes that a fused computation reads of operand `number`, which has `whole` bytes."""
    body = computations.get(name, [])
    parameters = [each.name for each in body if each.rest.startswith(f"parameter({number})")]
    if not parameters:
        return whole
    total, chained = 0, _is_chained(body)
    for each in body:
        if chained and (each.opcode == "tuple" or hlo.chain_of(each) or "AsyncCollective" in each.rest):
            continue  # it passes through
        takes = operands(each) if each.opcode not in ("parameter", "constant") else []
        if parameters[0] not in takes:
            continue
        if each.opcode == "dynamic-slice" and takes[0] == parameters[0]:
            total += hlo.shape_bytes(each.result)
        elif each.opcode == "dynamic-update-slice" and takes[0] == parameters[0]:
            continue  # written in place
        elif each.opcode == "fusion":
            total += _read(computations, (hlo.callees(each) or [""])[0], takes.index(parameters[0]), whole)
        else:
            return whole
    return total


def _written(each: Instruction, body: list[Instruction]) -> int:
    """Bytes that a fusion writes: its results, or the parts that it changes in place."""
    if not body:
        return _size(each.result)
    named, chained = {one.name: one for one in body}, _is_chained(body)
    roots = operands(body[-1]) if body[-1].opcode == "tuple" else [body[-1].name]
    total = 0
    for whole, name in zip(_sizes(each.result), roots, strict=False):
        root = named.get(name)
        if chained and root is not None and (root.opcode == "parameter" or hlo.chain_of(root)):
            continue
        while root is not None and root.opcode == "bitcast":
            root = named.get(operands(root)[0])
        update = named.get(operands(root)[1]) if root is not None and root.opcode == "dynamic-update-slice" else None
        total += whole if update is None else min(whole, hlo.shape_bytes(update.result))
    return total


def _is_chained(body: list[Instruction]) -> bool:
    """Return whether a collective runs beside a fused computation; its arrays then pass through the computation.

    The collective's operands count where it starts, and its results where it ends.
    """
    return any(hlo.chain_of(each) for each in body)
