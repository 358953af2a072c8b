"""A very small DeiT on 144 of the digits, with a teacher (`:soft`, `:hard`) and without (`:none`).

python train.py --config=configs/digits_distillation.py --workdir=runs/student --config.task.options.teacher=runs/digits

runs/digits is what configs/digits.py trains. docs/distillation.md has what came out.
"""

from ml_collections import ConfigDict

from configs import common

KINDS = ("soft", "hard", "none")


def get_config(kind: str = "soft") -> ConfigDict:
    """Return the student, taught as `kind` says.

    Args:
        kind: `soft`, `hard`, or `none` for no teacher and all else the same.
    """
    if kind not in KINDS:
        raise ValueError(f"digits_distillation has no kind {kind!r}; valid: {', '.join(KINDS)}")
    config = common.get_config()
    config.num_steps = 600
    config.batch_size = 48

    config.model.name = "deit"
    config.model.variant = "Ti/4"
    config.model.options.hidden_dim = 32
    config.model.options.depth = 2
    config.model.options.mlp_dim = 64
    config.model.options.num_heads = 2

    config.task.options.distillation_head = True
    if kind != "none":
        config.task.name = "distillation"
        config.task.options.kind = kind
        config.task.options.temperature = 3.0  # of soft alone
        config.task.options.teacher_weight = 0.9 if kind == "soft" else 0.5

    config.data.split = "train[:10%]"  # 144 images; the teacher knows them all
    config.data.image_size = (8, 8)
    config.data.channels = 1
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.data.augment.shift = {"pixels": 1}
    config.data.in_memory = True

    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    return config.lock()
