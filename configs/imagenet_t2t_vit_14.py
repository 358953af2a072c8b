"""T2T-ViT-14 on ImageNet-1k from nothing, 310 epochs; `:t-14`, `:19` or another variant as well.

python train.py --config=configs/imagenet_t2t_vit_14.py:14 --workdir=runs/imagenet_t2t --config.data.num_workers=CORES

Expected top-1 accuracy (val/accuracy) of the moving average: 14 81.5 %, 19 81.9 %, 24 82.3 %, t-14 81.7 %, t-19 82.4 %,
t-24 82.6 %, 7 71.7 %, 10 75.2 %, 12 76.5 %. Not measured by this project; the figures are those of the authors' README
(yitu-opensource/T2T-ViT; Yuan et al. 2021, arXiv:2101.11986), and the values those of its commands and main.py.
Hardware there: 8 GPUs of 64 images each, the time is not said. Steps: 775,707. Data: `imagenet2012`, see
docs/datasets.md.

Differences from the source: the learning rate falls until the end (there until epoch 300, and stays for 10 more) and
starts from 0 (there 1e-6); training crops are always resized bicubically (there bilinearly or bicubically, at random);
linear layers start Xavier-uniform (there normal with a deviation of 0.02); float32 (there mixed with half precision).
"""

from ml_collections import ConfigDict

from configs import common

# variant -> (learning rate, weight decay) of the README; the lite ones' rate is for the same batch of 512.
RATES = {"7": (1e-3, 0.03), "10": (1e-3, 0.03), "12": (1e-3, 0.03), "14": (5e-4, 0.05), "t-14": (5e-4, 0.05)}
LARGER = (5e-4, 0.065)


def get_config(variant: str = "14") -> ConfigDict:
    """Return the run of a variant."""
    config = common.get_config()
    config.num_epochs = 310.0
    config.batch_size = 512
    config.ema_decay = 0.99996

    config.model.name = "t2t"
    config.model.variant = variant
    config.model.options.token_dropout = 0.0 if variant.startswith("t-") else 0.1
    config.model.options.drop_path = 0.1

    config.data.name = "imagenet2012"
    config.data.split = "train"
    config.data.resize = "shortest_edge"
    config.data.crop_fraction = 0.9
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    common.set_deit(config)
    config.data.repeats = 1

    config.optimizer.learning_rate, config.optimizer.weight_decay = RATES.get(variant, LARGER)
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.warmup_steps = 25_023  # 10 epochs

    config.evaluation.splits = ConfigDict({"val": "validation"})
    config.evaluation.every_steps = 12_511
    config.checkpoint.every_steps = 1_000
    return config.lock()
