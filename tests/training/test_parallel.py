"""Spreading over devices: all ways train alike, the state lies where the rule says, bad sizes are refused."""

import functools

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vit_jax.errors import InputError
from vit_jax.models import vit
from vit_jax.ops.augment import make_prepare
from vit_jax.ops.mixing import Mixing
from vit_jax.tasks.classification import Classification
from vit_jax.training import optimizer as optimizers
from vit_jax.training import parallel, sharding
from vit_jax.training.step import make_init, make_train_step

RNG = np.random.default_rng(0)
BATCHES = [
    {
        "image": RNG.integers(0, 256, (16, 4, 4, 1), dtype=np.uint8),
        "label": RNG.integers(0, 3, 16).astype(np.int32),
        "index": np.arange(16 * step, 16 * (step + 1), dtype=np.uint32),
    }
    for step in range(20)
]
PREPARE = make_prepare((0.5,), (0.5,), flip=True, shift_px=1, mixing=Mixing(3, mixup_alpha=0.8, cutmix_alpha=1.0))


def mesh(num_devices, **sizes):
    return parallel.Mesh(**{"data": 1} | sizes, min_size=0, devices=jax.local_devices()[:num_devices])


class Training:
    """A tiny model with everything that is random switched on, ready to be trained by a strategy."""

    def __init__(self, strategy, *, dropout=0.0):
        self.strategy = strategy
        task = Classification(3)
        encoder = vit.create("Ti/2", hidden_dim=8, depth=1, mlp_dim=16, num_heads=2, dropout=dropout)
        # Without the keys' bias, whose gradient is zero but for rounding, which Adam would scale up to whole steps.
        optimizer = optimizers.create(
            "adamw", schedule=lambda step: 0.01, weight_decay=0.1, clip_norm=1.0, freeze=("key/bias",)
        )
        parts = (task.wrap(encoder), task, optimizer)
        example = {name: value[:1] for name, value in BATCHES[0].items()}
        self.make_state = functools.partial(make_init(*parts, prepare=PREPARE, ema=True), 0, example)
        self.step = strategy.compile_train_step(
            make_train_step(*parts, prepare=PREPARE, ema_decay=0.9, axis_name=strategy.axis_name)
        )

    def new_state(self):
        return self.strategy.place_state(self.strategy.new_state(self.make_state))

    def run(self, state, batches):
        for batch in batches:
            state, _ = self.step(state, self.strategy.place_batch(batch))
        return state


def trained(strategy, **options):
    training = Training(strategy, **options)
    return strategy.fetch(training.run(training.new_state(), BATCHES))


@pytest.fixture(scope="module")
def one_device():
    return trained(mesh(1))


LAYOUTS = {
    "pmap 1": lambda: parallel.Pmap(jax.local_devices()[:1]),
    "pmap 8": lambda: parallel.Pmap(jax.local_devices()[:8]),
    "data 8": lambda: mesh(8, data=8),
    "fsdp 8": lambda: mesh(8, fsdp=8),
    "data 2 fsdp 2 tensor 2": lambda: mesh(8, data=2, fsdp=2, tensor=2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_trains_alike(one_device, layout):
    state = trained(LAYOUTS[layout]())
    assert state.skipped == one_device.skipped == 0
    chex.assert_trees_all_close(state.params, one_device.params, atol=1e-5, rtol=0)
    chex.assert_trees_all_close(state.ema_params, one_device.ema_params, atol=1e-5, rtol=0)
