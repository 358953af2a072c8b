"""A TFDS dataset of several labels an image, from training to mixing."""

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import small_config
from tfds_files import png, write_dataset

import train
from vit_jax.build import experiment as build
from vit_jax.data.loading.loader import Share
from vit_jax.errors import InputError

CLASSES = tfds.features.ClassLabel(names=["cat", "dog", "fish"])


def test_several_labels_train_with_the_sigmoid_loss(tmp_path):
    image = tfds.features.Image(shape=(None, None, 3))
    features = tfds.features.FeaturesDict({"image": image, "labels": tfds.features.Sequence(CLASSES)})
    examples = [{"image": png(), "labels": [i % 3, (i + 1) % 3]} for i in range(48)]
    write_dataset(tmp_path / "small" / "1.0.0", features, examples)
    config = small_config(data__name="small", data__data_dir=str(tmp_path), num_steps=4, data__channels=3)
    config.data.mean = config.data.std = (0.5, 0.5, 0.5)
    config.evaluation.splits = {"train": "train"}
    config.checkpoint.best_metric = "train/accuracy"
    with pytest.raises(InputError, match=r"has several classes an image; valid: a task.options.loss_type of 'sigmoid'"):
        train.train(config, tmp_path / "run")
    with config.unlocked():
        config.task.options.loss_type = "sigmoid"
    assert train.train(config, tmp_path / "run") == 0


def test_several_labels_are_mixed_as_images_are(tmp_path):
    image = tfds.features.Image(shape=(None, None, 3))
    features = tfds.features.FeaturesDict({"image": image, "labels": tfds.features.Sequence(CLASSES)})
    examples = [{"image": png(40 * i), "labels": [i % 3, (i + 1) % 3][: i % 3]} for i in range(6)]
    write_dataset(tmp_path / "small" / "1.0.0", features, examples)
    config = small_config(data__name="small", data__data_dir=str(tmp_path), num_steps=1, data__channels=3)
    config.data.mean = config.data.std = (0.5, 0.5, 0.5)
    with config.unlocked():
        config.data.augment = {"mix": {"mixup_alpha": 1.0}}
    config.evaluation.splits = {"train": "train"}
    with config.unlocked():
        config.task.options.loss_type = "sigmoid"
    run = build.experiment(config)
    batch = next(run.train_loader.train_batches(Share(6), seed=0, start_step=0, total_steps=1))
    mixed = run.problem.prepare(jax.random.key(0), batch)
    pixels = batch["image"] / 127.5 - 1.0
    difference = (pixels - pixels[::-1]).ravel()
    share = difference @ (np.asarray(mixed["image"]) - pixels[::-1]).ravel() / (difference @ difference)
    assert 0.01 < share < 0.99
    labels = batch["label"]
    assert labels.sum(axis=1).tolist() != [1.0] * 6
    np.testing.assert_allclose(mixed["label"], share * labels + (1 - share) * labels[::-1], atol=1e-5)
    loss = run.problem.task.loss(np.zeros((6, 3), np.float32), mixed)
    np.testing.assert_allclose(loss, 3 * np.log(2), rtol=1e-6)  # of logits 0, whatever the labels
