"""ViT-S/16 on ImageNet-1k from nothing: "Better plain ViT baselines", 90 epochs (`:300` for 300, `:30` for 30).

python train.py --config=configs/imagenet_vit_s16.py:90 --workdir=runs/imagenet_s16 --config.data.num_workers=CORES

Expected top-1 accuracy (val/accuracy): 76.5 % after 90 epochs, 80 % after 300. Not measured by this project; the
figures are those of Beyer et al. 2022 (arXiv:2205.01580), and of the header of big_vision's configs/vit_s16_i1k.py,
whose values these are. Hardware and time there: a TPU v3-8, 6 to 7 hours for 90 epochs, less than a day for 300.
Steps: 111,477 for 90 epochs, 371,588 for 300, 37,159 for 30. Data: `imagenet2012`, see docs/datasets.md.

Differences from the source: Adam's first moment is float32 (there bfloat16); resizing is antialiased (there not);
crops of 3:4 to 4:3 (there 3:4 to 1.33:1).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(epochs: str = "90") -> ConfigDict:
    """Return the run of so many epochs."""
    config = common.get_config()
    config.num_epochs = float(epochs)
    config.batch_size = 1024

    config.model.variant = "S/16"
    config.model.options.posemb = "sincos2d"
    config.model.options.pooling = "gap"
    config.model.options.representation_size = 384

    config.data.name = "imagenet2012"
    config.data.split = "train[:99%]"
    config.data.resize = "shortest_edge"
    config.data.crop_fraction = 0.875  # 256 before the cut
    config.data.augment.random_crop = {"min_area": 0.05}
    config.data.augment.flip = {}
    common.set_augreg(config, "light2")

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 10_000
    # 1e-4 in big_vision, where only the schedule's shape multiplies it, not the peak of 1e-3 as here.
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.evaluation.splits = ConfigDict({"minival": "train[99%:]", "val": "validation"})
    config.evaluation.every_steps = 2_500
    config.checkpoint.every_steps = 1_000
    return config.lock()
