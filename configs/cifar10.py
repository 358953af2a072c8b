"""A small ViT from scratch on CIFAR-10.

vit-jax data prepare cifar10 --from cifar-10-python.tar.gz
python train.py --config=configs/cifar10.py --workdir=runs/cifar10
python train.py --config=configs/cifar10.py:gpu --workdir=runs/cifar10_gpu
"""

from ml_collections import ConfigDict

from configs import common


def get_config(device: str = "cpu") -> ConfigDict:
    """The run for a device, `cpu` or `gpu`."""
    config = common.get_config()
    common.set_small_images(config, device)
    config.data.name = "cifar10"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    return config.lock()
