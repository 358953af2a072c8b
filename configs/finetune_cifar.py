"""Fine-tunes a ViT-B/16 of ImageNet-21k on CIFAR-10 (`:cifar100` for CIFAR-100) in 500 steps at 384 pixels.

python train.py --config=configs/finetune_cifar.py:cifar10 --workdir=runs/cifar10_384 --config.data.num_workers=CORES

Expected test accuracy: 98.6 % on CIFAR-10, 89.2 % on CIFAR-100; with `--config.num_steps=1000
--config.optimizer.warmup_steps=100` 98.9 % and 91.2 %; with 10,000 steps and 500 of warm-up 98.9 to 99.0 % and 92.3 to
92.6 %. Not measured by this project; the figures are those of vision_transformer's README, where 8 V100 GPUs take 17
minutes for 500 steps. The values are those of its vit_jax/configs/common.py, vit_jax/flags.py and
vit_jax/input_pipeline.py, which follow Dosovitskiy et al. 2020 (arXiv:2010.11929), appendix B.1.1. The learning rate
is the default of its flags.py; the figures do not name theirs, and its later vit_jax/configs/vit.py has 0.01 for B/16
on CIFAR-10.
Weights: `google/vit-base-patch16-224-in21k` of Hugging Face; without a network give a folder or Google's .npz as
`--config.init.source`. Data: see docs/datasets.md.

Differences from the source: the momentum is float32 (there bfloat16); the GELU is the one that the checkpoint's files
name. The whole batch has to fit the devices, since gradients are not accumulated.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(dataset: str = "cifar10") -> ConfigDict:
    """Return the run on a dataset, cifar10 or cifar100."""
    config = common.get_config()
    config.num_steps = 500
    config.batch_size = 512
    config.log_every_steps = 10

    config.init.source = "google/vit-base-patch16-224-in21k"
    config.init.head = "new"
    common.unset(config.model, "name", "variant")  # taken from init.source

    config.data.name = dataset
    config.data.split = "train[:98%]"
    config.data.image_size = (384, 384)
    config.data.augment.random_crop = {"min_area": 0.05}
    config.data.augment.flip = {}

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.03
    config.optimizer.warmup_steps = 50
    config.optimizer.clip_norm = 1.0

    config.evaluation.every_steps = 100
    config.checkpoint.every_steps = 100
    return config.lock()
