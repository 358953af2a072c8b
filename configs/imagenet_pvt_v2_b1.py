"""PVT v2-B1 on ImageNet-1k from nothing, 300 epochs, as its authors train it.

python train.py --config=configs/imagenet_pvt_v2_b1.py --workdir=runs/imagenet_b1 --config.data.num_workers=CORES

Expected top-1 accuracy (val/accuracy): 78.7 %. Not measured by this project; the figure is that of Wang et al. 2021
(PVT v2, arXiv:2106.13797), table 2, and of the README of the authors' classification/. The values are those of the
paper's section 4.1, and of classification/main.py and configs/pvt_v2/pvt_v2_b1.py for what it leaves open; there 8
GPUs take 128 images each.
Steps: 375,342. Data: `imagenet2012`, see docs/datasets.md. Other sizes: `--config.model.variant=B2`; the authors raise
stochastic depth to 0.3 for B3 to B5, and clip gradients to a norm of 1 there.

Differences from the source: the learning rate changes with every step (there with every epoch); the class token and
position embeddings of version 1 have no weight decay (there the embeddings have).
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Return the authors' run."""
    config = common.get_config()
    config.num_epochs = 300.0
    config.batch_size = 1024

    config.model.name = "pvt"
    config.model.variant = "B1"
    config.model.options.drop_path = 0.1

    config.data.name = "imagenet2012"
    config.data.image_size = (224, 224)
    config.data.resize = "shortest_edge"
    config.data.crop_fraction = 0.875  # 256 before the cut
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    common.set_deit(config)

    config.optimizer.learning_rate = 1e-3  # 5e-4 for each 512 images
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.warmup_fraction = 5 / 300
    config.optimizer.weight_decay = 0.05

    config.evaluation.splits = ConfigDict({"val": "validation"})
    config.evaluation.every_steps = 2_500
    config.checkpoint.every_steps = 1_000
    return config.lock()
