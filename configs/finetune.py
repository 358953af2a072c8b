"""Fine-tunes published weights, or your own, on a folder of images with one sub-folder a class.

python train.py --config=configs/finetune.py --config.init.source=google/vit-base-patch16-224 \
    --config.data.folder=PETS --workdir=runs/pets

`configs/finetune.py:light1` adds AugReg's augmentation of that name (none, light1, light2, medium1, medium2, strong1,
strong2).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(augmentation: str = "none") -> ConfigDict:
    """Model, preprocessing and image size are those of init.source unless they are given."""
    config = common.get_config()
    config.num_epochs = 10.0
    config.batch_size = 64
    config.log_every_steps = 10

    # Taken from init.source.
    common.unset(config.model, "name", "variant")
    common.unset(config.data, "image_size", "channels", "resize", "crop_fraction", "crop_offset", "interpolation")
    common.unset(config.data, "width_first", "mean", "std")

    common.unset(config.data, "name")  # data.folder it is
    config.data.augment.random_crop = {"min_area": 0.35}
    config.data.augment.flip = {}
    if augmentation != "none":
        common.set_augreg(config, augmentation)

    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.optimizer.layer_decay = 0.75

    config.evaluation.splits = ConfigDict()  # all of the folder's but train, or TFDS's validation or test
    config.evaluation.every_steps = 200
    config.checkpoint.every_steps = 200
    return config.lock()
