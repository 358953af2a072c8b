"""Policies: which operations they draw, how strongly, and that an image's generator decides all of it."""

import collections
import pickle

import numpy as np
import pytest
from PIL import Image

from vit_jax.build import plugins
from vit_jax.data.augment.autoaugment import AUTOAUGMENT, AutoAugment
from vit_jax.data.augment.color_jitter import ColorJitter
from vit_jax.data.augment.operations import OPS
from vit_jax.data.augment.randaugment import VARIANTS, RandAugment
from vit_jax.data.augment.three_augment import ThreeAugment
from vit_jax.data.augment.trivialaugment import TrivialAugment
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading import order
from vit_jax.data.loading.pipeline import Pipeline, bound
from vit_jax.data.sources.examples import stand_in
from vit_jax.errors import InputError
from vit_jax.types import Field

JITTER = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
GREY = 128
AS_THEY_ARE = dict(OPS)


def created(name, **options):
    return plugins.create("augmentation", name, options=options)


def pipeline_of(*augmentations, channels=3, mean=0.5):
    """What takes placed images of 9 x 8 pixels through the augmentations."""
    preprocessing = Preprocessing((9, 8), channels, mean=(mean,) * channels, std=(1.0,) * channels)
    fields = {"image": Field("image", (None, None, None), "uint8")}
    return Pipeline(stand_in("images", fields, 0), preprocessing, policies=bound(augmentations, preprocessing))


def changed(augmentation, image, rng):
    """The image after the policy of an augmentation."""
    return augmentation.policy(GREY)(image, rng, [])


def images(channels):
    return np.random.default_rng(0).integers(0, 256, (40, 9, 8, channels), np.uint8)


ALL = [
    [],
    [created("autoaugment", learned_on="cifar")],
    [created("autoaugment", learned_on="imagenet")],
    [created("trivialaugment")],
    [created("three_augment")],
    *[[created("randaugment", variant=variant, magnitude_std=0.5)] for variant in VARIANTS],
    [created("randaugment", variant="google", magnitude=20.0)],
    [created("color_jitter", **JITTER)],
    [created("three_augment"), created("color_jitter", **JITTER)],
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentations", ALL, ids=str)
def test_policies_keep_shape_and_dtype_and_depend_on_seed_and_position_alone(augmentations, channels):
    pipeline = pipeline_of(*augmentations, channels=channels, mean=0.4)
    before = images(channels)

    def augmented(seed, positions):
        return {p: pipeline.augmented({"image": before[p]}, order.generator(seed, p))["image"] for p in positions}

    forwards, backwards = augmented(3, range(40)), augmented(3, range(39, -1, -1))
    for position, image in forwards.items():
        assert (image.shape, image.dtype) == ((9, 8, channels), np.uint8)
        np.testing.assert_array_equal(image, backwards[position])
    np.testing.assert_array_equal(before, images(channels))
    other = augmented(4, range(40))
    assert any((forwards[p] != other[p]).any() for p in range(40)) == bool(augmentations)


@pytest.mark.parametrize("augmentations", ALL, ids=str)
def test_policies_travel_to_worker_processes(augmentations):
    pipeline, image = pipeline_of(*augmentations), images(3)[0]
    sent = pickle.loads(pickle.dumps(pipeline))
    here, there = (each.augmented({"image": image}, order.generator(0, 0))["image"] for each in (pipeline, sent))
    np.testing.assert_array_equal(here, there)


def test_without_policies_the_example_comes_back():
    example = {"image": images(3)[0]}
    assert pipeline_of().augmented(example, order.generator(0, 0)) is example


def test_the_colours_of_an_image_change_last():
    one = bound([created("color_jitter", **JITTER), created("three_augment")], Preprocessing((8, 8)))
    other = bound([created("three_augment"), created("color_jitter", **JITTER)], Preprocessing((8, 8)))
    image = Image.fromarray(images(3)[0])

    def through(policies):
        rng, result = order.generator(0, 0), image
        for policy in policies:
            result = policy(result, rng, [])
        return np.asarray(result)

    np.testing.assert_array_equal(through(one), through(other))


@pytest.fixture
def applied(monkeypatch):
    """What is asked of each operation: (name, family, strength)."""
    calls = []

    def recorder(name):
        return lambda image, *, family, strength, brush: calls.append((name, family, strength)) or image

    for name in list(OPS):
        monkeypatch.setitem(OPS, name, recorder(name))
    return calls


def draw(policy, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        changed(policy, Image.new("L", (2, 2)), rng)


PAPER = {
    *("Identity", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize", "Contrast", "Brightness"),
    *("Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY"),
}
EXPECTED = {
    "paper": (PAPER, 2.0),
    "google": (PAPER - {"Identity"} | {"Invert", "SolarizeAdd", "Cutout"}, 2.0),
    "timm": (PAPER - {"Identity"} | {"Invert", "SolarizeAdd"}, 1.0),
    "timm_increasing": (PAPER - {"Identity"} | {"Invert", "SolarizeAdd"}, 1.0),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_randaugment_draws_each_operation_equally_often(applied, variant):
    names, ops_per_image = EXPECTED[variant]
    draw(RandAugment(variant=variant, num_ops=2, magnitude=9), 2000)
    counts = collections.Counter(name for name, _, _ in applied)
    assert counts.keys() == names
    assert len(applied) / 2000 == pytest.approx(ops_per_image, abs=0.08)
    expected = len(applied) / len(names)
    np.testing.assert_allclose(list(counts.values()), expected, atol=5 * expected**0.5)
    assert {strength for _, _, strength in applied} == {0.9}
    for name, family, _ in applied:
        assert getattr(AS_THEY_ARE[name], family) is not None


def test_randaugments_noise_stays_within_0_and_10(applied):
    draw(RandAugment(magnitude=9, magnitude_std=0.5), 2000)
    strengths = np.array([strength for _, _, strength in applied])
    assert strengths.max() == 1.0 and strengths.min() > 0.7
    # Of a normal distribution cut at two standard deviations: 2.3% lie at the cut, half below the mean.
    assert (strengths == 1.0).mean() == pytest.approx(0.023, abs=0.012)
    assert (strengths < 0.9).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("policy", AUTOAUGMENT)
def test_autoaugment_applies_one_of_25_pairs_with_its_probabilities(applied, policy):
    assert len(AUTOAUGMENT[policy]) == 25
    draw(AutoAugment(policy), 5000)
    counts = collections.Counter((name, round(9 * strength)) for name, _, strength in applied)
    expected = collections.Counter()
    for pair in AUTOAUGMENT[policy]:
        for name, probability, magnitude in pair:
            assert AS_THEY_ARE[name].autoaugment is not None
            expected[name, magnitude] += probability * 200
    for key, count in expected.items():
        assert counts[key] == pytest.approx(count, abs=5 * count**0.5 + 1), key
    assert sum(counts.values()) == sum(counts[key] for key in expected)


@pytest.mark.parametrize(
    ("policy", "place", "pair"),
    [
        ("cifar", 0, (("Invert", 0.1, 0), ("Contrast", 0.2, 6))),
        ("cifar", 24, (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0))),
        ("imagenet", 0, (("Posterize", 0.4, 8), ("Rotate", 0.6, 9))),
        ("imagenet", 24, (("Equalize", 0.8, 0), ("Equalize", 0.6, 0))),
    ],
)
def test_autoaugments_first_and_last_pairs(policy, place, pair):
    assert AUTOAUGMENT[policy][place] == pair


def test_trivialaugment_draws_one_of_14_operations_and_one_of_31_strengths(applied):
    draw(TrivialAugment(), 3000)
    assert len(applied) == 3000
    names = {name.removesuffix("Px") for name, _, _ in applied}
    assert names == PAPER and "TranslateX" not in {name for name, _, _ in applied}
    assert len({strength for _, _, strength in applied}) == 31
    assert all(AS_THEY_ARE[name].trivial is not None for name, _, _ in applied)


def test_three_augment_gives_each_of_its_three_equally_often():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    solarized = np.where(pixels < 128, pixels, 255 - pixels)
    grey = (pixels @ [0.299, 0.587, 0.114])[:, :, None]
    counts = collections.Counter()
    for position in range(900):
        image = np.asarray(changed(ThreeAugment(), Image.fromarray(pixels), order.generator(0, position)), float)
        if (image == solarized).all():
            counts["solarized"] += 1
        elif np.abs(image - grey).max() <= 1:
            counts["grey"] += 1
        else:
            counts["blurred"] += 1
            assert image.std() < pixels.std() and image.mean() == pytest.approx(pixels.mean(), abs=4)
    np.testing.assert_allclose(list(counts.values()), 300, atol=70)
    assert len(counts) == 3


def test_color_jitter_changes_brightness_by_at_most_its_amount():
    shades = []
    for position in range(300):
        image = changed(ColorJitter(brightness=0.3), Image.new("L", (1, 1), 100), order.generator(0, position))
        shades.append(np.asarray(image).item())
    assert 69 <= min(shades) <= 72 and 127 <= max(shades) <= 130
    assert np.mean(shades) == pytest.approx(100, abs=4)


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation", "hue"])
def test_each_part_of_color_jitter_changes_the_image(field):
    image = Image.fromarray(images(3)[0])
    other = changed(ColorJitter(**{field: 0.4}), image, order.generator(0, 1))
    assert (np.asarray(other) != np.asarray(image)).any()


def test_color_jitter_comes_in_random_order():
    # Twice as bright and then a third of the contrast is another image than the other way round.
    image = Image.fromarray(images(3)[0])

    class Fixed:
        def __init__(self, places):
            self.places = places

        def permutation(self, count):
            return self.places

        def uniform(self, low, high):
            return high

    one, other = (
        np.asarray(changed(ColorJitter(brightness=1.0, contrast=0.5), image, Fixed(places)))
        for places in ([0, 1, 2, 3], [3, 2, 1, 0])
    )
    assert (one != other).any()


@pytest.mark.parametrize(("mean", "fill"), [((0.2, 0.4, 0.6), (51, 102, 153)), ((0.2,), 51)])
def test_empty_areas_are_filled_with_the_mean(monkeypatch, mean, fill):
    fills = []
    monkeypatch.setattr(TrivialAugment, "policy", lambda self, fill: fills.append(fill))
    bound([TrivialAugment()], Preprocessing((8, 8), len(mean), mean=mean, std=(1.0,) * len(mean)))
    assert fills == [fill]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("randaug", {}, "unknown augmentation 'randaug' .did you mean 'randaugment'.."),
        (
            "autoaugment",
            {"learned_on": "svhn"},
            "autoaugment.learned_on is 'svhn'; valid: cifar, imagenet",
        ),
        ("randaugment", {"variant": "tim"}, "data.augment.randaugment.variant is 'tim'; valid: paper, google, timm"),
        ("randaugment", {"num_ops": 0}, "data.augment.randaugment.num_ops is 0; valid: 1 or more"),
        ("randaugment", {"magnitude": 11.0}, "data.augment.randaugment.magnitude is 11.0; valid: 0 to 10"),
        ("randaugment", {"magnitude": -1.0, "variant": "google"}, "valid: 0 to 30"),
        ("randaugment", {"magnitude": float("nan")}, "magnitude is nan"),
        ("randaugment", {"magnitude_std": -0.5}, "data.augment.randaugment.magnitude_std is -0.5"),
        ("color_jitter", {"hue": 0.6}, "data.augment.color_jitter.hue is 0.6; valid: 0 to 0.5"),
        ("color_jitter", {"brightness": -0.3}, "data.augment.color_jitter.brightness is -0.3; valid: 0 or more"),
        ("color_jitter", {"contrast": float("nan")}, "data.augment.color_jitter.contrast is nan"),
        ("random_crop", {"min_area": 0.0}, "data.augment.random_crop.min_area is 0.0; valid: more than 0, at most 1"),
        ("random_crop", {"max_aspect": 0.5}, "data.augment.random_crop.max_aspect is 0.5; valid: 1 or more"),
        ("shift", {"pixels": -1}, "data.augment.shift.pixels is -1; valid: 0 or more"),
        ("flip", {"probability": 1.5}, "data.augment.flip.probability is 1.5; valid: 0 to 1"),
        ("erase", {"probability": -0.1}, "data.augment.erase.probability is -0.1; valid: 0 to 1"),
    ],
)
def test_bad_values_are_named(name, options, message):
    with pytest.raises(InputError, match=message):
        created(name, **options)
