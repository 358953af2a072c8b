"""Spreading over devices: all ways train alike and go on from one another; the state lies where the rule says."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vit_jax.data.augment import flip, mix, shift
from vit_jax.errors import InputError
from vit_jax.info import new_info
from vit_jax.layers.roles import Cut, Role
from vit_jax.models import swin, vit
from vit_jax.ops.augment import make_prepare
from vit_jax.ops.batch_axes import keep_cut
from vit_jax.ops.trees import leaf_names
from vit_jax.parallel import sharding
from vit_jax.parallel import strategy as parallel
from vit_jax.parallel.mesh import Mesh
from vit_jax.parallel.pmap import Pmap
from vit_jax.tasks.classification import Classification
from vit_jax.training import optimizer as optimizers
from vit_jax.training.checkpoints.writing import Checkpoints
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init
from vit_jax.training.step import make_train_step
from vit_jax.types import Field, class_fields

RNG = np.random.default_rng(0)
BATCHES = [
    {
        "image": RNG.integers(0, 256, (16, 4, 4, 1), dtype=np.uint8),
        "label": RNG.integers(0, 3, 16).astype(np.int32),
        "index": np.arange(16 * step, 16 * (step + 1), dtype=np.uint32),
    }
    for step in range(20)
]
FIELDS = class_fields(["a", "b", "c"]) | {"image": Field("image", (4, 4, 1), "uint8")}
MIX = mix.create(mixup_alpha=0.8, cutmix_alpha=1.0)
PREPARE = make_prepare((0.5,), (0.5,), fields=FIELDS, augmentations=(flip.create(), shift.create(pixels=1), MIX))


def mesh(num_devices, **sizes):
    return Mesh(**{"data": 1} | sizes, min_size=0, devices=jax.local_devices()[:num_devices])


LAYOUTS = {
    "mesh 1": lambda: mesh(1),
    "pmap 1": lambda: Pmap(jax.local_devices()[:1]),
    "pmap 8": lambda: Pmap(jax.local_devices()[:8]),
    "data 8": lambda: mesh(8, data=8),
    "fsdp 8": lambda: mesh(8, fsdp=8),
    "fsdp 2": lambda: mesh(2, fsdp=2),
    "data 2 fsdp 2 tensor 2": lambda: mesh(8, data=2, fsdp=2, tensor=2),
}


class Training:
    """A tiny model with everything that is random switched on, ready to be trained by a strategy."""

    def __init__(self, strategy, *, num_heads=2, encoder=None, **options):
        self.strategy = strategy
        task = Classification(FIELDS)
        sizes = {"hidden_dim": 8, "depth": 1, "mlp_dim": 16, "num_heads": num_heads}
        encoder = encoder or vit.create("Ti/2", **sizes | options)
        # Without the keys' bias, whose gradient is zero but for rounding, which Adam would scale up to whole steps.
        optimizer = optimizers.create(
            "adamw", schedule=lambda step: 0.01, weight_decay=0.1, clip_norm=1.0, freeze=("key/bias",)
        )
        problem = Problem(task.wrap(encoder), task, PREPARE)
        example = {name: value[:1] for name, value in BATCHES[0].items()}
        self.make_state = functools.partial(make_init(problem, optimizer, moving_average=True), 0, example)
        self.step = strategy.compile_train_step(
            make_train_step(problem, optimizer, ema_decay=0.9, axis_name=strategy.axis_name)
        )

    def new_state(self):
        return self.strategy.place_state(self.strategy.new_state(self.make_state))

    def run(self, state, batches):
        for batch in batches:
            state, _ = self.step(state, self.strategy.place_batch(batch))
        return state


@functools.cache
def training(layout):
    """Once for all tests, since each compiles its step."""
    return Training(LAYOUTS[layout]())


@functools.cache
def trained(layout):
    """The whole state after all batches."""
    run = training(layout)
    return run.strategy.fetch(run.run(run.new_state(), BATCHES))


def assert_agree(state, other):
    assert state.step == other.step and state.skipped == other.skipped == 0
    chex.assert_trees_all_close(state.params, other.params, atol=1e-5, rtol=0)
    chex.assert_trees_all_close(state.ema_params, other.ema_params, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "mesh 1"])
def test_every_way_trains_alike(layout):
    assert_agree(trained(layout), trained("mesh 1"))


def test_dropout_under_mesh_does_not_depend_on_the_devices():
    states = []
    for strategy in (mesh(1), mesh(4, data=2, fsdp=2)):
        run = Training(strategy, dropout=0.5)
        states.append(strategy.fetch(run.run(run.new_state(), BATCHES[:5])))
    assert_agree(*states)


def test_a_loop_of_shifted_windows_trains_alike_in_parts():
    sizes = {"embed_dim": 8, "depths": (2,), "num_heads": (2,), "mlp_ratio": 2.0, "patch_size": 1}
    states = []
    for strategy, options in ((mesh(1), {}), (mesh(8, data=2, fsdp=2, tensor=2), {"scan": True, "remat": "full"})):
        run = Training(strategy, encoder=swin.create("T/2", **sizes, **options))
        states.append(strategy.fetch(run.run(run.new_state(), BATCHES[:5])))
    assert_agree(*states)


def test_a_scanned_stack_keeps_the_batch_cut():
    run = Training(mesh(4, data=2, fsdp=2), depth=2, scan=True)
    state, batch = run.new_state(), run.strategy.place_batch(BATCHES[0])
    text = run.step.lower(state, batch).as_text()
    # Tokens [16, 4 patches and the class token, 8], before the loop and in it.
    kept = re.findall(
        r'sharding_constraint .* <@mesh, \[\{"data", "fsdp"\}, \{\?\}, \{\?\}\]> : tensor<16x5x8xf32>', text
    )
    assert len(kept) >= 2
    one = Training(mesh(1), depth=2, scan=True)
    assert_agree(*(each.strategy.fetch(each.run(each.new_state(), BATCHES[:5])) for each in (run, one)))


def test_without_a_mesh_nothing_is_kept_cut():
    x = jnp.ones((3, 2))
    assert keep_cut(x) is x


def test_the_state_is_made_in_shards_and_stays_in_them():
    run = training("fsdp 8")
    state = run.strategy.new_state(run.make_state)
    before = jax.tree.map(lambda x: x.sharding, state)
    fc1 = state.params["encoder"]["block_0"]["mlp"]["fc1"]["kernel"]
    assert (fc1.shape, fc1.addressable_data(0).shape) == ((8, 16), (8, 2))
    after, _ = run.step(run.strategy.place_state(state), run.strategy.place_batch(BATCHES[0]))
    # Equal, so that the second step takes the program that the first one compiled.
    assert jax.tree.map(lambda x: x.sharding, after) == before


def test_what_belongs_to_a_parameter_is_cut_as_it_is():
    run = training("data 2 fsdp 2 tensor 2")
    state = run.strategy.abstract_state(run.make_state)
    specs = dict(zip(leaf_names(state), [x.sharding.spec for x in jax.tree.leaves(state)], strict=True))
    for path in leaf_names(state.params):
        belonging = [spec for name, spec in specs.items() if name.endswith(f"/{path}")]
        assert len(belonging) == (2 if path.endswith("key/bias") else 4)  # params, ema_params, and Adam's two
        assert len(set(belonging)) == 1, path
    assert specs["params/encoder/block_0/attention/query/kernel"] == PartitionSpec("fsdp", "tensor")
    assert specs["step"] == PartitionSpec()


SIZES = {"data": 1, "fsdp": 4, "tensor": 2}


HEADS, UNITS = "attention heads", "MLP hidden units"


@pytest.mark.parametrize(
    ("shape", "cut", "spec"),
    [
        ((64, 10), None, ("fsdp",)),
        ((64, 128), None, (None, "fsdp")),
        ((64, 64), None, ("fsdp",)),  # the first of equals
        ((63, 10), None, ()),  # nothing that 4 divides
        ((8, 8), None, ()),  # less than 100 elements
        ((6, 16, 96), Cut(-3, HEADS), ("tensor", None, "fsdp")),
        ((6, 16), Cut(-2, HEADS), ("tensor",)),
        ((96, 384), Cut(-1, UNITS), ("fsdp", "tensor")),
        ((384, 96), Cut(-2, UNITS), ("tensor", "fsdp")),
        ((12, 384, 96), Cut(-2, UNITS), (None, "tensor", "fsdp")),  # layers stacked
        ((), None, ()),
    ],
)
def test_the_rule(shape, cut, spec):
    assert sharding.partition("path", shape, SIZES, role=Role(cut=cut), min_size=100) == PartitionSpec(*spec)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mesh(8, data=2, fsdp=3), "data, fsdp and tensor are 2, 3, 1, but there are 8 devices; valid: sizes"),
        (lambda: mesh(8, data=-1, fsdp=3), "are -1, 3, 1, but there are 8 devices"),
        (lambda: mesh(8, data=-1, fsdp=-1), "parallel.data and parallel.fsdp are -1; valid: one of them"),
        (lambda: mesh(8, tensor=0), "parallel.tensor is 0; valid: 1 or more, or -1"),
        (lambda: parallel.create("pmap", fsdp=2), "'pmap' does not have; valid: -1, 1, 1, or parallel.strategy 'mesh'"),
        (lambda: parallel.create("ring"), "'ring'; valid: pmap, mesh"),
        (
            lambda: parallel.check_batch_size(6, mesh(8, data=2, fsdp=2, tensor=2)),
            "the 4 slices .* valid: 4, 8 and other",
        ),
        (
            lambda: Mesh(tensor=8, devices=V5E_4X4),
            "parallel.tensor is 8, which spans processes, .* valid: a size that divides the 4 devices of a process",
        ),
        (lambda: abstract(mesh(3, tensor=3)), "parallel.tensor is 3, which does not divide the 2 attention heads of"),
        (lambda: abstract(mesh(3, tensor=3), num_heads=1), "does not divide the 1 attention heads"),
        (lambda: abstract(mesh(8, tensor=8), num_heads=8), None),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    if message is None:
        make()
        return
    with pytest.raises(InputError, match=message):
        make()


def abstract(strategy, **options):
    run = Training(strategy, **options)
    return strategy.abstract_state(run.make_state)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One of a TPU."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


V5E_4X4 = [Chip(4 * y + x, y // 2 * 2 + x // 2, (x, y, 0)) for y in range(4) for x in range(4)]
"""Four hosts of 2x2 chips, as libtpu describes them."""


@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(4, 1, 4), (1, 4, 4), (2, 2, 4), (2, 4, 2), (8, 1, 2), (1, 8, 2)])
def test_no_group_of_tensor_spans_processes(data, fsdp, tensor):
    grid = Mesh(data, fsdp, tensor, devices=V5E_4X4).mesh.devices
    assert grid.shape == (data, fsdp, tensor)
    assert sorted(chip.id for chip in grid.flat) == list(range(16))
    for group in grid.reshape(-1, tensor):
        assert len({chip.process_index for chip in group}) == 1


def test_minus_one_is_the_devices_left():
    assert dict(mesh(8, data=-1, tensor=2).mesh.shape) == {"data": 4, "fsdp": 1, "tensor": 2}


INFO = new_info(model={}, task=None, fields=FIELDS, preprocessing={})


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("fsdp 8", "fsdp 2"),
        ("fsdp 2", "mesh 1"),
        ("data 2 fsdp 2 tensor 2", "pmap 1"),
        ("pmap 8", "fsdp 8"),
    ],
)
def test_a_checkpoint_goes_on_under_another_layout(tmp_path, writer, reader):
    old, new = training(writer), training(reader)
    state = old.run(old.new_state(), BATCHES[:10])
    expected = old.strategy.fetch(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(10, old.strategy.snapshot(state), INFO, None)
        old.run(state, BATCHES[10:12])  # given the state, while it is being saved
        checkpoints.wait()
        restored = checkpoints.restore(new.strategy.abstract_state(new.make_state), INFO, max_step=20)
    state = new.strategy.place_state(restored.state)
    chex.assert_trees_all_equal(new.strategy.fetch(state), expected)
    assert_agree(new.strategy.fetch(new.run(state, BATCHES[10:])), trained("mesh 1"))


@pytest.mark.parametrize("layout", ["mesh 1", "fsdp 2"])
def test_arrays_that_were_placed_are_not_written_to(layout):
    run = training(layout)
    state = run.strategy.fetch(run.new_state())
    state = state.replace(ema_params=state.params)  # as a warm start does: the same arrays twice
    before = jax.tree.map(np.copy, state)
    after = run.strategy.fetch(run.run(run.strategy.place_state(state), BATCHES[:2]))
    chex.assert_trees_all_equal(state, before)
    assert not np.array_equal(after.params["head"]["kernel"], after.ema_params["head"]["kernel"])


@pytest.mark.parametrize("layout", ["pmap 8", "data 2 fsdp 2 tensor 2"])
def test_variables_and_companions_are_placed_and_saved_like_the_rest(tmp_path, layout):
    run = training(layout)

    def make_state():
        state = run.make_state()
        variables = {"batch_stats": {"mean": jnp.arange(8.0)}}
        return state.replace(variables=variables, companions={"teacher": state.params})

    state = run.strategy.place_state(run.strategy.new_state(make_state))
    expected = run.strategy.fetch(state)
    np.testing.assert_array_equal(expected.variables["batch_stats"]["mean"], np.arange(8.0))
    chex.assert_trees_all_equal(expected.companions["teacher"], expected.params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, run.strategy.snapshot(state), INFO, None)
        checkpoints.wait()
        restored = checkpoints.restore(run.strategy.abstract_state(make_state), INFO, max_step=20)
    chex.assert_trees_all_equal(run.strategy.fetch(run.strategy.place_state(restored.state)), expected)


def test_an_evaluation_step_takes_any_tree():
    tree = {"params": {"w": np.arange(16.0, dtype=np.float32)}, "variables": {"mean": {"b": np.ones(3, np.float32)}}}
    batch = {"x": np.ones((8, 16), np.float32)}

    def step(given, batch):
        total = (batch["x"] @ given["params"]["w"]).sum() + given["variables"]["mean"]["b"].sum()
        return {"total": total}, {}

    sums, _ = mesh(8, fsdp=8).compile_eval_step(step)(mesh(8, fsdp=8).place_state(tree), batch)
    assert float(sums["total"]) == 8 * 120 + 3


def test_what_fsdp_cuts_nothing_of_is_said():
    params = {"kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32)}
    whole = Mesh(1, 8, 1, min_size=49)
    assert whole.layout == "data=1 x fsdp=8 x tensor=1" and Pmap().layout == ""
    (note,) = whole.notes(params)
    assert note.startswith("fsdp=8 cuts none of the parameters: each has fewer than parallel.fsdp_min_size=49 elements")
    assert Mesh(1, 8, 1, min_size=48).notes(params) == [] == Pmap().notes(params)
    assert Mesh(8, 1, 1, min_size=49).notes(params) == []
