"""Trains a linear classifier on a frozen encoder's pooled vector, on a folder of images or a TFDS dataset.

python train.py --config=configs/linear_probe.py --config.init.source=google/vit-base-patch16-224-in21k \
    --config.data.folder=PETS --workdir=runs/pets_probe
python train.py --config=configs/linear_probe.py:test --config.init.source=google/vit-base-patch16-224-in21k \
    --config.data.name=cifar10 --workdir=runs/cifar10_probe

Expected result: it depends on weights and data; none has been measured by this project. The values are those of
eval_linear.py of facebookresearch/dino (Caron et al. 2021, arXiv:2104.14294): SGD at 0.001 for 256 images, to be
scaled with the batch, 100 epochs. There, the features are those of several blocks or have the mean of the patches
beside the class token, so that its figures are not to be expected here; it advises to tune the learning rate to the
checkpoint.
Hardware and time: not measured; a step is a forward pass, with a gradient of the head alone.

`vit-jax evaluate --metrics probe` fits such a classifier without augmentation and without training:
docs/evaluation.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(test_split: str = "") -> ConfigDict:
    """Return the run; with a TFDS dataset, the split to test on. A folder is tested on all of its splits but train."""
    config = common.get_config()
    config.num_epochs = 100.0
    config.batch_size = 256

    # Taken from init.source.
    common.unset(config.model, "name", "variant")
    common.unset(config.data, "image_size", "channels", "resize", "crop_fraction", "crop_offset", "interpolation")
    common.unset(config.data, "width_first", "mean", "std")
    config.init.head = "new"

    common.unset(config.data, "name")  # data.folder or data.name has to be given
    config.data.augment.random_crop = {"min_area": 0.08}
    config.data.augment.flip = {}

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.freeze_encoder = True

    config.evaluation.splits = ConfigDict({"test": test_split} if test_split else {})
    config.evaluation.every_steps = 1_000
    config.checkpoint.every_steps = 1_000
    return config.lock()
