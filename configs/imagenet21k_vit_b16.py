"""ViT-B/16 on ImageNet-21k from nothing, 300 epochs: a model to fine-tune.

vit-jax data prepare imagenet21k --from FOLDER --eval-fraction 0.0036
python train.py --config=configs/imagenet21k_vit_b16.py --workdir=runs/imagenet21k_b16 --config.data.num_workers=CORES

Expected result: not measured by this project, and the source, big_vision's configs/vit_i21k.py, states none; Steiner
et al. 2021 (AugReg, arXiv:2106.10270) show what such models reach after fine-tuning.
Hardware and time: the source names none; about 1,036,000 steps of 4,096 images (14.15 million to train on).
Data: TFDS has no ImageNet-21k, so FOLDER is one of class folders, see docs/datasets.md. About 51,000 of its images are
kept for the split `test`, a share of each class (in the source the first 51,200 of all). The head has a logit for each
folder; the source's has 21,843.

Differences from the source: Adam's first moment is float32 (there bfloat16); resizing is antialiased (there not);
position embeddings start with a deviation of 0.02 (there 0.036). The whole batch has to fit the devices, since
gradients are not accumulated.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(augmentation: str = "light2") -> ConfigDict:
    """Return the run with an augmentation of AugReg."""
    config = common.get_config()
    config.num_epochs = 300.0
    config.batch_size = 4096

    config.model.variant = "B/16"
    config.model.options.pooling = "gap"
    config.task.options.loss_type = "sigmoid"
    config.task.options.head_bias = -10.0

    config.data.name = "imagenet21k"
    config.data.resize = "shortest_edge"
    config.data.crop_fraction = 0.875  # 256 before the cut
    config.data.augment.random_crop = {"min_area": 0.05}
    config.data.augment.flip = {}
    common.set_augreg(config, augmentation)

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 10_000
    # 1e-4 in big_vision, where only the schedule's shape multiplies it, not the peak of 1e-3 as here.
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.evaluation.every_steps = 10_000
    config.checkpoint.every_steps = 1_000
    return config.lock()
