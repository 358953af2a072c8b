"""Pre-trains a small ViT as a masked autoencoder on 1,437 handwritten digits of 8x8 pixels, without their labels.

python train.py --config=configs/digits_mae.py --workdir=runs/digits_mae
vit-jax predict --model runs/digits_mae --out pictures digit.png

Expected result: a test loss of 0.28, and of the encoder's features, which never saw a label, a knn_accuracy of 0.82
(360 test digits, seed 0).
Hardware and time: one and a half minutes on two CPU cores that other programs used as well, compilation included.

The pictures show a digit, its visible patches and the reconstruction. Labels serve the evaluation alone: `knn` and
`probe` judge the encoder's features. Training a classifier may start from the encoder:

python train.py --config=configs/finetune.py --config.init.source=runs/digits_mae --config.data.name=digits \
    --workdir=runs/digits_mae_finetuned

The method is that of He et al. 2021 (arXiv:2111.06377); the sizes are chosen for a CPU.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Return the run."""
    config = common.get_config()
    config.num_epochs = 60.0
    config.batch_size = 64

    config.model.variant = "Ti/2"
    config.model.options = {
        "hidden_dim": 64,
        "depth": 3,
        "mlp_dim": 128,
        "num_heads": 4,
        "posemb": "sincos2d",
        "pooling": "gap",
    }
    config.task.name = "masked_autoencoder"
    config.task.options = {
        "mask_ratio": 0.5,
        "normalise_pixels": False,
        "decoder_dim": 32,
        "decoder_depth": 2,
        "decoder_heads": 4,
        "decoder_mlp_dim": 64,
    }

    config.data.image_size = (8, 8)
    config.data.channels = 1
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.data.augment.shift = {"pixels": 1}
    config.data.in_memory = True

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 1.0

    config.evaluation.metrics = {"knn": {}, "probe": {"shots": (10, 0)}}
    config.evaluation.every_steps = 1_000
    config.checkpoint.every_steps = 1_000
    return config.lock()
