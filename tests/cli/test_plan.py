"""vit-jax plan: what it says follows from shapes and rates by hand, and bad input is one line."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from vit_jax.cli import plan_text
from vit_jax.cli.main import main
from vit_jax.data.sources import tfds as sources
from vit_jax.parallel.pmap import Pmap, PmapAhead
from vit_jax.planning import hardware, plan, search, topology

SMALL = ["hidden_dim=16", "depth=1", "mlp_dim=16", "num_heads=2"]
DIGITS = [f"--config={ROOT}/configs/digits.py", *(f"--config.model.options.{change}" for change in SMALL)]


def run(capsys, *arguments):
    assert main(["plan", *DIGITS, *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_pmap_on_this_machine(capsys):
    result, err = run(capsys, "--max-compilations=2", "--config.batch_size=48")
    assert "compiling for batch size 48" in err and "fits" in err
    assert (result["devices"], result["batch_size"], result["batch_size_per_slice"]) == (8, 48, 6)
    # Stem 16 x 16 and 16; three LayerNorms of 32; attention 4 x (256 + 16); MLP 2 x 272; head 16 x 10 + 10.
    params = 272 + 96 + 1088 + 544 + 170
    memory = result["memory"]
    assert memory["parameters"] == memory["moving_average"] == 4 * params
    assert memory["optimizer_state"] >= 2 * 4 * params
    assert memory["inputs"] == 6 * (64 + 4 + 4)
    parts = [value for key, value in memory.items() if key not in ("total", "peak")]
    assert memory["peak"] is None or memory["parameters"] < memory["peak"] <= memory["total"]
    assert memory["total"] == sum(parts) and memory["temporary"] > 0
    assert result["fits"] and result["room_bytes"] == result["available_memory_bytes"] - memory["total"]
    work = result["work"]
    # Four patches: stem 4 x 16 x 16, attention and MLP 4 x 16 x 96 + 2 x 16 x 16; head 160; a multiply-add is two,
    # training three times, six images a device.
    assert work["formula_flops"] == 3 * 2 * (1024 + 6144 + 512 + 160) * 6
    assert 0.8 < work["xla_flops"] / work["formula_flops"] < 5
    reduce = work["collectives"]["all-reduce"]
    assert list(work["collectives"]) == ["all-reduce"] and 4 * params <= reduce["bytes"] < 4 * params + 100
    assert reduce["sent_bytes"] == pytest.approx(reduce["bytes"] * 2 * 7 / 8)
    arithmetic, memory_bound, network = work["bounds"]
    flops = max(work["xla_flops"], work["formula_flops"])
    assert arithmetic["seconds"] == pytest.approx(flops / result["rates"]["flops"])
    assert memory_bound["seconds"] is None is network["seconds"] and "not published" in network["because"]
    assert result["largest_batch_size"] == 96 and [one["batch_size"] for one in result["tried"]] == [48, 96]


def test_whether_it_fits_is_unknown_where_the_device_does_not_tell_its_memory(capsys, monkeypatch):
    monkeypatch.setattr(plan, "available_memory", lambda device: None)
    result, err = run(capsys, "--config.batch_size=48")
    assert result["fits"] is None is result["room_bytes"] is result["largest_batch_size"]
    assert [one["fits"] for one in result["tried"]] == [None] and "whether it fits is unknown" in err
    lines = plan_text.table(result).splitlines()
    assert "memory of each device, which does not tell how much it has: whether this fits is unknown" in lines
    assert "largest batch that fits: not known, since the devices do not tell their memory" in lines


def test_a_collective_among_a_part_of_the_chips_is_noted(capsys, monkeypatch):
    rates = hardware.Rates(1e12, 1e9, 1e9, "made up")
    monkeypatch.setattr(hardware, "rates_of", lambda devices: rates)
    mesh = ["strategy=mesh", "fsdp=2", "fsdp_min_size=0"]
    options = ("--max-compilations=1", "--config.batch_size=48")
    result, _ = run(capsys, *options, *(f"--config.parallel.{key}" for key in mesh))
    assert any("among a part of the devices (here 2 of 8) may run along one side" in note for note in result["notes"])
    result, _ = run(capsys, *options)  # all eight together
    assert not any("torus" in note for note in result["notes"])


def test_mesh_cuts_the_state_and_gathers_it(capsys):
    whole, _ = run(capsys, "--max-compilations=1", "--config.batch_size=48")
    mesh = ["strategy=mesh", "fsdp=-1", "data=1", "fsdp_min_size=0"]
    result, _ = run(
        capsys, "--max-compilations=1", "--config.batch_size=48", *(f"--config.parallel.{key}" for key in mesh)
    )
    for name in ("parameters", "optimizer_state", "moving_average"):
        # The biases of the head and the counters are not cut.
        assert 1 / 8 <= result["memory"][name] / whole["memory"][name] < 0.17
    assert result["memory"]["inputs"] == whole["memory"]["inputs"]
    assert result["work"]["collectives"]["all-gather"]["bytes"] > 0
    assert result["strategy"]["fsdp"] == 8


def test_the_table(capsys):
    assert main(["plan", *DIGITS, "--max-compilations=1", "--config.accumulate_steps=2", "--num-classes=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vit Ti/4, float32, 8 x 8 x 1, 7 classes"
    assert lines[2] == "strategy pmap; batch size 64, 8 per slice in 2 micro-batches"
    assert any(line.startswith("memory of each device, fits: ") for line in lines)
    assert "largest batch that fits: not searched for; 64 fits" in lines
    assert any(line.startswith("note: XLA counts what is in a loop") for line in lines)
    assert any(line.startswith("note: the dataset was not read") for line in lines)


def test_pmap_for_absent_devices_is_the_same_program():
    def step(state, batch):
        total = jax.lax.psum((state["w"] * batch["x"].sum(axis=0), batch["x"].mean()), "batch")
        return {"w": state["w"] - total[0]}, {"mean": total[1]}

    def make_state():
        return {"w": jnp.zeros(5000)}

    example = {"x": np.zeros((1, 5000), np.float32)}

    def compiled(strategy):
        state, batch = strategy.abstract_arguments(
            strategy.abstract_state(make_state),
            jax.tree.map(lambda x: jax.ShapeDtypeStruct((16, *x.shape[1:]), x.dtype), example),
        )
        assert plan.device_bytes(state, strategy) == 20_000 and plan.device_bytes(batch, strategy) == 2 * 20_000
        return strategy.compile_train_step(step).lower(state, batch).compile()

    real, ahead = (compiled(strategy) for strategy in (Pmap(), PmapAhead(jax.devices())))
    for name in ("argument_size_in_bytes", "temp_size_in_bytes", "alias_size_in_bytes"):
        assert getattr(real.memory_analysis(), name) == pytest.approx(getattr(ahead.memory_analysis(), name), abs=64)
    assert real.cost_analysis()["flops"] == ahead.cost_analysis()["flops"]


def test_classes_of_a_dataset_that_is_not_here(tmp_path, capsys):
    assert len(sources.known_fields("imagenet2012")["label"].names) == 1000
    assert sources.known_fields("no_such_dataset") is None
    assert "1,000 classes" in planned(capsys, "--config.data.name=imagenet2012", f"--config.data.data_dir={tmp_path}")
    assert "21,843 classes" in planned(capsys, "--config.data.name=imagenet21k", "--num-classes=21843")


def planned(capsys, *arguments):
    assert main(["plan", *DIGITS, "--max-compilations=1", *arguments]) == 0
    return capsys.readouterr().out


def test_bounds_by_hand():
    rates = hardware.Rates(flops=2e12, memory=4e9, network=1e9, origin="")
    found = plan.bounds(flops=1e12, memory_bytes=1e9, sent_bytes=3e9, rates=rates)
    assert [(bound.name, bound.seconds) for bound in found] == [("arithmetic", 0.5), ("memory", 0.25), ("network", 3.0)]
    assert found[0].because == "1 TFLOP at 2 TFLOP/s"
    unknown = plan.bounds(flops=1.0, memory_bytes=1.0, sent_bytes=0.0, rates=hardware.Rates(None, None, None, ""))
    assert [bound.seconds for bound in unknown] == [None, None, 0.0]


def test_rates_are_the_tables():
    class Device:
        platform, device_kind = "tpu", "TPU v5 lite"

    rates = hardware.rates_of([Device()] * 4)
    assert (rates.flops, rates.memory, rates.network) == (197e12, 819e9, 200e9) and "v5e" in rates.origin
    for kind in topology.kinds():
        chip = hardware.CHIPS[kind]
        assert chip.hbm_bytes and chip.hbm_bandwidth and chip.interconnect_bandwidth and "https://" in chip.source
    assert topology.kinds() == ["v4", "v5e", "v5p", "v6e"]


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 31.50G "
            "of 15.75G hbm. Exceeded hbm capacity by 15.75G.",
            (31.5 * 2**30, 15.75 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (1.5T) "
            "exceeds available HBM (512.00M).",
            (1.5 * 2**40, 2**29),
        ),
        ("INTERNAL: Used 31.50G of 15.75G hbm.", None),
    ],
)
def test_what_the_compiler_says_of_memory(message, found):
    assert plan.needed_memory(message) == found


@pytest.mark.parametrize("first", [1, 3, 64, 1000, 5000])
@pytest.mark.parametrize(("base", "each", "there"), [(100, 3, 400), (0, 1, 4096), (50, 10, 59), (50, 10, 60)])
def test_the_search(first, base, each, there):
    def fits(n):
        assert n >= 1 and n not in tried
        return base + each * n <= there, there - base - each * n

    tried = {}
    tried[first] = fits(first)
    most = (there - base) // each
    found = search.largest(tried, fits, limit=12)
    assert found <= most <= found + max(1, found // 16) and len(tried) <= 12


def test_the_search_stops_at_its_limit():
    tried = {64: (False, -10)}
    assert search.largest(tried, lambda n: (False, -n), limit=3) == 0 and len(tried) == 3
    assert search.largest({8: (True, 1)}, lambda n: 1 / 0, limit=1) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/no.py"], "config configs/no.py does not exist"),
        ([*DIGITS, "--config.batch_siz=3"], "the config has no key 'batch_siz'; nearest: 'batch_size'"),
        ([*DIGITS, "--config.batch_size=9"], "batch_size 9 is not a multiple of the 8 devices"),
        ([*DIGITS, "--config.accumulate_steps=3"], "accumulate_steps is 3"),
        ([*DIGITS, "--num-classes=0"], "--num-classes is 0; valid: 1 or more"),
        ([*DIGITS, "--config.data.name=imagenet21k"], "a plan without it: --num-classes=N"),
        ([*DIGITS, "--config.data.folder=nowhere"], "a plan without it: --num-classes=N"),
        ([*DIGITS, "--topology=v7:2x2"], "--topology is 'v7:2x2'; valid: one of v4, v5e, v5p, v6e"),
        ([*DIGITS, "--topology=v5e"], "--topology is 'v5e'; valid: one of"),
        ([*DIGITS, "--topology=v5p:4x4"], "--topology is 'v5p:4x4'; valid: one of"),
        ([*DIGITS, "--nonsense=3"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(["plan", *arguments])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.count("\n") == 1 and message in err


def test_without_libtpu_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main(["plan", *DIGITS, "--topology=v5e:2x2"])
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1 and "pip install 'vit-jax[tpu]'" in err


needs_libtpu = pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "devices", "gib"),
    [("v4:2x2x1", 4, 30.75), ("v5e:2x2", 4, 15.75), ("v5p:2x2x1", 4, 95.74), ("v6e:2x2", 4, 31.25)],
)
def test_a_device_is_a_chip(name, devices, gib):
    found = topology.tpu_devices(name)
    assert len(found) == devices and hardware.chip_of(found[0].device_kind)[0] == name.partition(":")[0]
    assert plan.available_memory(found[0]) / 2**30 == pytest.approx(gib, abs=1.0)


@needs_libtpu
def test_an_impossible_shape_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", *DIGITS, "--topology=v5e:3x3"])
    assert end.value.code == 2 and "--topology is 'v5e:3x3', of which libtpu says" in capsys.readouterr().err


@needs_libtpu
@pytest.mark.parametrize("strategy", ["pmap", "mesh"])
def test_a_topology(capsys, strategy):
    changes = ["--config.batch_size=64", f"--config.parallel.strategy={strategy}", "--max-compilations=1"]
    if strategy == "mesh":
        changes += ["--config.parallel.fsdp=4", "--config.parallel.fsdp_min_size=0"]
    result, _ = run(capsys, "--topology=v5e:2x2", *changes)
    assert result["fits"] and result["devices"] == 4 and result["published_memory_bytes"] == 2**34
    assert result["memory"]["parameters"] == (4 * 2170 if strategy == "pmap" else pytest.approx(2170, rel=0.2))
    assert all(bound["seconds"] > 0 for bound in result["work"]["bounds"])
    assert any("jax.shard_map" in note for note in result["notes"]) == (strategy == "pmap")


@needs_libtpu
def test_what_does_not_fit(capsys):
    result, err = run(
        capsys,
        "--topology=v5e:2x2",
        "--config.batch_size=1048576",
        "--config.num_steps=1000",
        "--max-compilations=2",
        "--config.data.image_size=(64, 64)",
    )
    assert not result["fits"] and result["room_bytes"] < 0 and result["memory"]["temporary"] is None
    # Half of it does not either, but is nearly half as much.
    first, second = result["tried"]
    assert (first["batch_size"], second["batch_size"]) == (524288, 1048576)
    assert second["total_bytes"] / first["total_bytes"] == pytest.approx(2, rel=0.05)
    assert result["largest_batch_size"] == 0 and result["work"] is None
    assert "does not fit" in err
