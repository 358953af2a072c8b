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

from configs import imagenet_vit_b16_augreg


def get_config(augmentation: str = "medium2") -> ConfigDict:
    """Return the run with an augmentation of AugReg: that of B/16 but for the model."""
    config = imagenet_vit_b16_augreg.get_config(augmentation).unlock()
    config.model.variant = "L/16"
    config.model.options.dtype = "bfloat16"
    config.model.options.representation_size = 1024
    return config.lock()
