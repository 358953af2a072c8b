"""Swin-T on ImageNet-1k from nothing, 300 epochs, as its authors train it; `:S` or `:B` for the larger ones.

python train.py --config=configs/imagenet_swin_t.py:T --workdir=runs/imagenet_swin_t --config.data.num_workers=CORES

Expected top-1 accuracy (val/accuracy): 81.3 % for T, 83.0 % for S, 83.5 % for B. Not measured by this project; the
figures are those of Liu et al. 2021 (arXiv:2103.14030), table 1a (the authors' MODELHUB.md has 81.2 % and 83.2 % for
the weights of T and S that it links). The values are those of the paper's appendix A2.1 and of the authors' config.py;
get_started.md there trains on 8 GPUs with 128 images each.
Steps: 375,342. Data: `imagenet2012`, see docs/datasets.md.

Differences from the source: the learning rate rises from 0 (there from 5e-7).
"""

from ml_collections import ConfigDict

from configs import common

DROP_PATH = {"T": 0.2, "S": 0.3, "B": 0.5}


def get_config(size: str = "T") -> ConfigDict:
    """Return the authors' run.

    Args:
        size: T, S or B.
    """
    if size not in DROP_PATH:
        raise ValueError(f"imagenet_swin_t has no variant {size!r}; valid: {', '.join(DROP_PATH)}")
    config = common.get_config()
    config.num_epochs = 300.0
    config.batch_size = 1024

    config.model.name = "swin"
    config.model.variant = f"{size}/7"
    config.model.options.drop_path = DROP_PATH[size]

    config.data.name = "imagenet2012"
    config.data.image_size = (224, 224)
    config.data.resize = "shortest_edge"
    config.data.crop_fraction = 0.875  # 256 before the cut
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    common.set_deit(config)
    config.data.repeats = 1  # the paper found repeated augmentation to give nothing

    config.optimizer.learning_rate = 1e-3
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.warmup_fraction = 20 / 300
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0

    config.evaluation.splits = ConfigDict({"val": "validation"})
    config.evaluation.every_steps = 2_500
    config.checkpoint.every_steps = 1_000
    return config.lock()
