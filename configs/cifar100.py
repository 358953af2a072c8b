"""A small ViT from scratch on CIFAR-100, with the values of configs/cifar10.py.

vit-jax data prepare cifar100 --from cifar-100-python.tar.gz
python train.py --config=configs/cifar100.py --workdir=runs/cifar100
python train.py --config=configs/cifar100.py:gpu --workdir=runs/cifar100_gpu

Expected result: not measured by this project, for either device; the values were chosen for CIFAR-10.
Hardware and time: as configs/cifar10.py, since the images are as many and of the same size.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(device: str = "cpu") -> ConfigDict:
    """Return the run for a device, `cpu` or `gpu`."""
    config = common.get_config()
    common.set_small_images(config, device)
    config.data.name = "cifar100"
    config.data.mean = (0.5071, 0.4865, 0.4409)
    config.data.std = (0.2673, 0.2564, 0.2762)
    return config.lock()
