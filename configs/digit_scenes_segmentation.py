"""Segments scenes of handwritten digits, 48x48 pixels: a class for each pixel, background or one of ten digits.

python train.py --config=configs/digit_scenes_segmentation.py --workdir=runs/segmentation
vit-jax predict --model runs/segmentation --out pictures scene.png

Expected result: a mean_iou of 0.649, a mean_dice of 0.782 and a pixel accuracy of 0.956 on the 300 test scenes (seed
0); calling everything background gives a pixel accuracy of 0.87.
Hardware and time: 4 minutes 16 seconds of training and half a minute of compilation and evaluation on two CPU cores
that other programs used as well.

The dataset is made from scikit-learn's digits, 1,200 scenes to train on and 300 of other digits to test on. Prediction
writes each scene in the colours of its classes, and a PNG whose values are the classes' numbers.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Return the run."""
    config = common.get_config()
    config.num_epochs = 40.0
    config.batch_size = 32

    config.model.variant = "Ti/4"
    config.model.options = {
        "hidden_dim": 96,
        "depth": 4,
        "mlp_dim": 192,
        "num_heads": 4,
        "posemb": "sincos2d",
        "pooling": "gap",
    }
    config.task.name = "segmentation"
    config.task.options.dice_weight = 1.0  # most pixels are background

    config.data.name = "digit_scenes"
    config.data.fields = ("image", "mask")
    config.data.image_size = (48, 48)
    config.data.channels = 1
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.data.augment.shift = {"pixels": 4}
    config.data.in_memory = True

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0

    config.evaluation.batch_size = 100
    config.evaluation.metrics.mean_iou = {}
    config.evaluation.every_steps = 250
    config.checkpoint.every_steps = 250
    return config.lock()
