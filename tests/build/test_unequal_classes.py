"""Data whose classes are not equally frequent: weights in the loss, or a balanced order of the examples."""

import numpy as np
import pytest
from conftest import small_config
from PIL import Image

from vit_jax.build.experiment import experiment, step_alone
from vit_jax.data.loading.loader import Share
from vit_jax.errors import InputError

BALANCED = {"task__options__class_weights": "balanced"}


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Fifteen cats and three dogs, of which a fifth are held out: 12 and 2 to train on."""
    root = tmp_path_factory.mktemp("pets")
    for name, count in (("cat", 15), ("dog", 3)):
        (root / name).mkdir()
        for i in range(count):
            Image.new("L", (8, 8), i).save(root / name / f"{i}.png")
    return str(root)


def test_balanced_weights_come_from_the_training_examples(pets):
    config = small_config(data__folder=pets, **BALANCED)
    built = experiment(config)
    assert built.problem.task.class_weights == pytest.approx((14 / 24, 14 / 4))
    assert "class_weights" not in built.info["task"]["options"]  # a checkpoint has no use for them
    assert step_alone(config).problem.task.class_weights == "balanced"  # which reads no example


def test_balanced_weights_of_a_tfds_dataset():
    built = experiment(small_config(data__split="train[:40]", **BALANCED))
    counts = np.bincount(next(built.eval_loaders["test"].eval_batches(Share(360)))["label"])  # of other examples
    weights = np.array(built.problem.task.class_weights)
    assert len(weights) == len(counts) == 10 and (weights > 0).all()
    batches = built.train_loader.train_batches(Share(40), seed=0, start_step=0, total_steps=1)
    seen = np.bincount(next(batches)["label"], minlength=10)
    np.testing.assert_allclose(weights * seen * 10, 40, rtol=1e-6)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_balanced_order_of_a_folder(pets, in_memory):
    built = experiment(
        small_config(data__folder=pets, data__sampler="balanced", data__in_memory=in_memory, num_steps=1)
    )
    batch = next(built.train_loader.train_batches(Share(12), seed=0, start_step=0, total_steps=1))
    assert np.bincount(batch["label"]).tolist() == [6, 6]
    assert built.total_steps == 1 and len(built.train_loader) == 14


WITHOUT_LABELS = {
    "data__fields": ("image",),
    "task__name": "masked_autoencoder",
    "task__options__label_smoothing": None,
    "task__options__decoder_dim": 16,
    "task__options__decoder_heads": 2,
}


@pytest.mark.parametrize(
    ("sampler", "changes", "message"),
    [
        ("balance", {}, "data.sampler is 'balance'; valid: shuffled, balanced"),
        ("balanced", WITHOUT_LABELS, "data.sampler is 'balanced', which needs one label .* the data have image "),
        (
            "balanced",
            {"data__name": "digit_pairs", "task__options__loss_type": "sigmoid"},
            r"which needs one label for each image, .*label \(labels\); valid: 'shuffled'$",
        ),
    ],
)
def test_an_order_that_cannot_be_had_is_refused(sampler, changes, message):
    with pytest.raises(InputError, match=message):
        experiment(small_config(data__sampler=sampler, **changes))
