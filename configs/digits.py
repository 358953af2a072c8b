"""A small ViT on 1,437 real handwritten digits of 8x8 pixels.

python train.py --config=configs/digits.py --workdir=runs/digits

The values were chosen on folds of the training split.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Return the default run."""
    config = common.get_config()
    config.num_epochs = 150.0
    config.batch_size = 64
    config.ema_decay = 0.99

    config.model.variant = "Ti/4"
    config.model.options.hidden_dim = 64
    config.model.options.depth = 4
    config.model.options.mlp_dim = 128
    config.model.options.num_heads = 4
    config.model.options.posemb = "sincos2d"
    config.model.options.pooling = "gap"
    config.model.options.drop_path = 0.1
    config.task.options.label_smoothing = 0.1

    config.data.image_size = (8, 8)
    config.data.channels = 1
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.data.augment.shift = {"pixels": 1}
    config.data.in_memory = True

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.evaluation.every_steps = 500
    config.checkpoint.every_steps = 500
    return config.lock()
