"""ViT-L/16 on ImageNet-1k from nothing, 300 epochs with AugReg's augmentation; `:strong2` for another of its names.

vit-jax plan --config=configs/imagenet_vit_l16.py --topology v5e:16x16
python train.py --config=configs/imagenet_vit_l16.py --workdir=runs/imagenet_l16 --config.data.num_workers=CORES

Expected result: not measured by this project, and the source states none for L/16; Steiner et al. 2021 (AugReg,
arXiv:2106.10270) compare the choices in figure 4. The values are those of big_vision's configs/vit_i1k.py with
variant=L/16, for which it takes medium2 without dropout.
Hardware and time: the source names none; 92,897 steps of 4,096 images. What it needs of a TPU, and the least time of a
step there, the first command says; docs/plan.md tells how to read it. Data: `imagenet2012`, see docs/datasets.md.

Differences from the source: matrix products and tokens are bfloat16 (there float32, which TPUs multiply in bfloat16
too); Adam's first moment is float32 (there bfloat16); resizing is antialiased (there not); position embeddings start
with a deviation of 0.02 (there 0.03125). The whole batch has to fit the devices, since gradients are not accumulated.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(augmentation: str = "medium2") -> ConfigDict:
    """The run with an augmentation of AugReg."""
    config = common.get_config()
    config.num_epochs = 300.0
    config.batch_size = 4096

    config.model.variant = "L/16"
    config.model.dtype = "bfloat16"
    config.model.prefix_posemb = False  # big_vision adds the class token after the position embedding
    config.model.representation_size = 1024

    config.data.name = "imagenet2012"
    config.data.split = "train[:99%]"
    config.data.resize = "shortest_edge"
    config.data.crop_fraction = 0.875  # 256 before the cut
    config.data.crop = "random"
    config.data.crop_min_area = 0.05
    config.data.flip = True
    common.set_augreg(config, augmentation)

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 10_000
    # 1e-4 in big_vision, where only the schedule's shape multiplies it, not the peak of 1e-3 as here.
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.evaluation.splits = ConfigDict({"minival": "train[99%:]", "val": "validation"})
    config.evaluation.every_steps = 2_500
    config.checkpoint.every_steps = 1_000
    return config.lock()
