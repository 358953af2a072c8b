"""Prints the plan as a table."""

import math
from typing import Any

from vit_jax.planning.plan import unit

_MEMORY = {
    "parameters": "parameters",
    "optimizer_state": "optimizer state",
    "moving_average": "moving average",
    "variables": "other variables of the model",
    "companions": "companions (teachers)",
    "inputs": "inputs",
    "other_state": "counters, keys",
    "padding": "padding of these",
    "temporary": "activations and other temporary memory",
    "program": "program",
    "total": "total",
    "peak": "most that is held at once",
}


def table(result: dict[str, Any]) -> str:
    """Lay out what `vit-jax plan` found, which `--json` prints as it is."""
    blocks = [_head(result), _memory(result), _largest(result)]
    if result["work"] is not None:
        blocks += [_work(result), _bounds(result)]
    blocks += [f"note: {note}" for note in result["notes"]]
    return "\n".join(blocks)


def _head(result: dict[str, Any]) -> str:
    height, width, channels = result["image_size"]
    strategy = result["strategy"]
    axes = [f", {axis} {strategy[axis]}" for axis in ("data", "fsdp", "tensor") if strategy["strategy"] == "mesh"]
    topology = f" ({result['topology']})" if result["topology"] else ""
    accumulated = f" in {result['accumulate_steps']} micro-batches" if result["accumulate_steps"] > 1 else ""
    published = result["published_memory_bytes"]
    memory = f", {published / 2**30:.0f} GiB" if published else ""
    if result["available_memory_bytes"]:
        memory += f", of which programs have {_size(result['available_memory_bytes'])}"
    classes = f", {result['num_classes']:,} classes" if result["num_classes"] else ""
    dtype = f", {result['dtype']}" if result["dtype"] else ""
    return (
        f"{result['model']}{dtype}, {height} x {width} x {channels}{classes}\n"
        f"{result['devices']} x {result['device_kind']}{topology}{memory}\n"
        f"strategy {strategy['strategy']}{''.join(axes)}; batch size {result['batch_size']:,}, "
        f"{result['batch_size_per_slice']:,} per slice{accumulated}"
    )


def _memory(result: dict[str, Any]) -> str:
    total = result["memory"]["total"]
    rows = [(label, result["memory"][key]) for key, label in _MEMORY.items()]
    lines = [f"  {label:<40}{_size(size, total):>14}" for label, size in rows if size]
    room = result["room_bytes"]
    verdict = ", which does not tell how much it has: whether this fits is unknown" if result["fits"] is None else ""
    if room is not None and result["fits"]:
        verdict = f", fits: {_size(max(room, 0))} left"
    elif room is not None:
        verdict = f", does not fit: {_size(-room)} missing"
    return "\n".join([f"\nmemory of each device{verdict}", *lines])


def _largest(result: dict[str, Any]) -> str:
    tried = ", ".join(f"{one['batch_size']:,} {'fits' if one['fits'] else 'does not'}" for one in result["tried"])
    largest = result["largest_batch_size"]
    if largest is None:
        return "\nlargest batch that fits: not known, since the devices do not tell their memory"
    if len(result["tried"]) == 1 and largest:
        return f"\nlargest batch that fits: not searched for; {largest:,} fits"
    return f"\nlargest batch that fits: {f'{largest:,}' if largest else 'none found'} (tried: {tried})"


def _work(result: dict[str, Any]) -> str:
    work = result["work"]
    lines = [f"\nwork of each device in a step of {work['batch_size']:,} images"]
    if work["formula_flops"]:
        lines.append(f"  {'FLOPs by formula':<40}{unit(work['formula_flops'], 'FLOP'):>14}")
    lines.append(f"  {'FLOPs as XLA counts':<40}{unit(work['xla_flops'], 'FLOP'):>14}")
    lines.append(f"  {'read and written in main memory':<40}{unit(work['memory_bytes'], 'B'):>14}")
    lines.append(f"  {'the same as XLA counts, with on-chip':<40}{unit(work['xla_bytes'], 'B'):>14}")
    for kind, each in work["collectives"].items():
        label = f"{kind}, {each['count']:,.0f} of {unit(each['bytes'], 'B')}"
        lines.append(f"  {label:<40}{unit(each['sent_bytes'], 'B'):>14} sent")
    return "\n".join(lines)


def _bounds(result: dict[str, Any]) -> str:
    work = result["work"]
    lines = [f"\nleast time of a step; rates: {result['rates']['origin']}"]
    for bound in work["bounds"]:
        time = "unknown" if bound["seconds"] is None else unit(bound["seconds"], "s")
        lines.append(f"  {bound['name']:<12}{time:>12}  {bound['because']}")
    if work["images_per_second"]:
        lines.append(
            f"  bound by {work['bound_by']} if all three overlap: {unit(work['step_seconds'], 's')} a step, "
            f"at most {work['images_per_second']:,.0f} images/s"
        )
    return "\n".join(lines)


def _size(size: float, total: float = math.inf) -> str:
    """Write bytes in GiB, in MiB where the total is less than one GiB, or in KiB where that shows nothing."""
    factor, name = (2**30, "GiB") if total >= 2**30 else (2**20, "MiB")
    return f"{size / factor:,.3f} {name}" if size >= 0.001 * factor else f"{size / 2**10:,.1f} KiB"
