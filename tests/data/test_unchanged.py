"""Pixels and random numbers of earlier versions, of which runs are to resume exactly: real digits, every augmentation.

The numbers were computed before masks and boxes were known (Pillow 13.0.0, JAX 0.10). A fingerprint is a sum of all
values with weights that differ.
"""

import jax
import numpy as np
import pytest

from vit_jax.build import plugins
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading.loader import Share
from vit_jax.data.loading.memory import InMemory
from vit_jax.data.loading.pipeline import Pipeline, bound
from vit_jax.data.loading.streaming import Streaming
from vit_jax.data.sources import tfds as sources
from vit_jax.ops.augment import make_prepare

GREY = Preprocessing((8, 8), 1, mean=(0.5,), std=(0.5,))
COLOUR = Preprocessing(
    *((12, 10), 3, "shortest_edge", 0.9), interpolation="bicubic", mean=(0.2, 0.4, 0.6), std=(0.3, 0.3, 0.3)
)
POLICIES = {
    "plain": {},
    "randaugment timm": {"randaugment": {}},
    "randaugment paper": {"randaugment": {"variant": "paper"}},
    "randaugment google": {"randaugment": {"variant": "google", "magnitude": 15.0, "num_ops": 3}},
    "randaugment timm_increasing": {"randaugment": {"variant": "timm_increasing", "magnitude_std": 0.5}},
    "autoaugment cifar": {"autoaugment": {"learned_on": "cifar"}},
    "autoaugment imagenet": {"autoaugment": {"learned_on": "imagenet"}},
    "trivialaugment": {"trivialaugment": {}},
    "three_augment, color_jitter": {
        "color_jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
        "three_augment": {},
    },
    "color_jitter": {"color_jitter": {"brightness": 0.3, "contrast": 0.2, "saturation": 0.1, "hue": 0.1}},
}
# Without and with a random crop.
HOST = {
    "plain": (548724.794618763, 536890.323944379),
    "randaugment timm": (624191.9642034181, 570675.8219849905),
    "randaugment paper": (585003.8397930108, 583764.1405651786),
    "randaugment google": (758886.6501874132, 740848.3374488775),
    "randaugment timm_increasing": (581502.3035848242, 549072.7051669805),
    "autoaugment cifar": (562690.0486765892, 530018.3806567919),
    "autoaugment imagenet": (549352.4850454857, 519020.8421356026),
    "trivialaugment": (547596.426497739, 544186.0132265058),
    "three_augment, color_jitter": (439148.4267839574, 433552.54564477404),
    "color_jitter": (516584.49813730514, 521839.5518474064),
}
STEP = {
    "none": {},
    "shift": {"shift": {"pixels": 2}},
    "flip": {"flip": {}},
    "erase": {"erase": {"probability": 0.5}},
    "mixup": {"mix": {"mixup_alpha": 0.8}},
    "cutmix": {"mix": {"cutmix_alpha": 1.0}},
    "all": {
        "shift": {"pixels": 1},
        "flip": {},
        "erase": {"probability": 0.25},
        "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 0.9, "switch_probability": 0.4},
    },
}
# Images and labels.
DEVICE = {
    "none": (-404.19097495294983, 56.20766429350987),
    "shift": (-492.2205908424988, 56.20766429350987),
    "flip": (-393.5166609682616, 56.20766429350987),
    "erase": (-378.9963776478994, 56.20766429350987),
    "mixup": (-405.85745277772156, 17.928170147425366),
    "cutmix": (-406.34130012266974, 18.08102464696421),
    "all": (-438.2447985681904, 17.928170414315147),
}


def fingerprint(array) -> float:
    flat = np.asarray(array, np.float64).reshape(-1)
    return float(flat @ (np.arange(flat.size) * 0.6180339887498949 % 1.0))


def created(options):
    return [plugins.create("augmentation", name, options=each) for name, each in options.items()]


@pytest.fixture(scope="module")
def source():
    return sources.open_source("digits", "test[:50]")


def batch_of(loader):
    return next(loader.train_batches(Share(32), seed=5, start_step=3, total_steps=4))


@pytest.mark.parametrize("name", HOST)
def test_what_the_host_makes_of_an_image(source, name):
    policies = bound(created(POLICIES[name]), COLOUR)
    [crop] = created({"random_crop": {"min_area": 0.3}})
    memory = InMemory(Pipeline(source, COLOUR, policies=policies), repeats=2)
    streaming = Streaming(Pipeline(source, COLOUR, policies=policies, placing=crop))
    found = [fingerprint(batch_of(loader)["image"]) for loader in (memory, streaming)]
    np.testing.assert_allclose(found, HOST[name], rtol=1e-9)


def test_order_and_labels(source):
    batch = batch_of(InMemory(Pipeline(source, GREY)))
    found = [fingerprint(batch["label"]), fingerprint(batch["index"])]
    np.testing.assert_allclose(found, [56.20766429350987, 1739.7484351339012], rtol=1e-9)


def test_an_evaluations_images(source):
    batch = next(Streaming(Pipeline(source, COLOUR)).eval_batches(Share(32)))
    assert fingerprint(batch["image"]) == pytest.approx(564925.4788193915, rel=1e-9)


@pytest.mark.parametrize("name", DEVICE)
def test_what_the_step_makes_of_a_batch(source, name):
    pipeline = Pipeline(source, GREY)
    prepare = jax.jit(make_prepare((0.5,), (0.5,), fields=pipeline.fields, augmentations=created(STEP[name])))
    batch = prepare(jax.random.key(11), batch_of(InMemory(pipeline)))
    found = [fingerprint(batch["image"]), fingerprint(batch["label"])]
    np.testing.assert_allclose(found, DEVICE[name], rtol=1e-5)
