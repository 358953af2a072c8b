"""Fine-tunes a ViT-B/16 of ImageNet-21k on ImageNet-1k at 384 pixels, as the ViT paper's code does.

python train.py --config=configs/finetune_imagenet_384.py --workdir=runs/imagenet_384 --config.data.num_workers=CORES

Expected top-1 accuracy (val/accuracy): 84.6 %, twice (84.61 and 84.62). Not measured by this project; the figures are
those of vision_transformer's README, where 8 V100 GPUs take 18 hours. The values are those of its
vit_jax/configs/common.py and vit_jax/input_pipeline.py, which follow Dosovitskiy et al. 2020 (arXiv:2010.11929),
appendix B.1.1.
Weights: `google/vit-base-patch16-224-in21k` of Hugging Face; without a network give a folder or Google's .npz as
`--config.init.source`. (AugReg's published B/16 has been fine-tuned with 20,000 steps too, at a learning rate of
0.01.)
Data: `imagenet2012`, see docs/datasets.md.

Differences from the source: the momentum is float32 (there bfloat16); resizing is antialiased (there not); the GELU is
the one that the checkpoint's files name. The whole batch has to fit the devices, since gradients are not accumulated.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """20,000 steps, about 8 epochs."""
    config = common.get_config()
    config.num_steps = 20_000
    config.batch_size = 512

    config.init.source = "google/vit-base-patch16-224-in21k"
    config.init.head = "new"
    common.unset(config.model, "name", "variant")  # taken from init.source

    config.data.name = "imagenet2012"
    config.data.split = "train[:99%]"
    config.data.image_size = (384, 384)
    config.data.augment.random_crop = {"min_area": 0.05}
    config.data.augment.flip = {}

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.03
    config.optimizer.warmup_steps = 500
    config.optimizer.clip_norm = 1.0

    config.evaluation.splits = ConfigDict({"minival": "train[99%:]", "val": "validation"})
    config.evaluation.every_steps = 2_000
    config.checkpoint.every_steps = 1_000
    return config.lock()
