"""Every key that a config has, with its meaning and the value it starts from.

A config file calls `get_config()`, changes what its experiment needs, and returns it locked; any key can be given
on the command line, `--config.optimizer.learning_rate=1e-3`. At the end are published choices of augmentation by name.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """A classification run with a plain ViT on a TFDS dataset."""
    config = ConfigDict()
    # Every random choice (initial values, order, augmentation, dropout) follows from it; 0 or more.
    config.seed = 0
    # Length of the run in passes over the training split; num_steps counts if it is given.
    config.num_epochs = 1.0
    config.num_steps = placeholder(int)
    # Examples a step, over all devices of all processes, which (with mesh: data x fsdp) must divide it.
    config.batch_size = 128
    # In how many parts, one after the other, each device takes its share of the batch, for less memory; it must divide
    # the share. Gradients and metrics are those of the whole batch.
    config.accumulate_steps = 1
    # After how many steps in a row whose loss, gradients or new parameters are not finite the run stops.
    config.max_skipped_steps = 10
    # Decay of the parameters' exponential moving average, which starts at the initial values and is what is evaluated
    # and loaded. 0 is none.
    config.ema_decay = 0.0
    # Steps between lines of metrics.jsonl; the figures are means over them.
    config.log_every_steps = 50
    config.init = _init()
    config.model = _model()
    config.task = _task()
    config.data = _data()
    config.evaluation = _evaluation()
    config.optimizer = _optimizer()
    config.checkpoint = _checkpoint()
    # A trace for TensorBoard or Perfetto, in <workdir>/profile: after which step it starts, and its length in
    # steps, 0 for none.
    config.profile = ConfigDict({"start_step": 10, "num_steps": 0})
    config.parallel = ConfigDict()
    # pmap: every device holds the whole state and a slice of the batch. mesh: the state can be cut as well.
    config.parallel.strategy = "pmap"
    # Of mesh, devices along each axis, -1 being the devices left: data cuts the batch; fsdp cuts it too, and every
    # large parameter with what belongs to it; tensor cuts attention heads and MLP hidden units.
    config.parallel.data = -1
    config.parallel.fsdp = 1
    config.parallel.tensor = 1
    # Parameters of fewer elements are not cut over fsdp.
    config.parallel.fsdp_min_size = 2**14
    return config


def unset(section: ConfigDict, *keys: str) -> None:
    """Sets keys to None in a way that the command line can still set them."""
    for key in keys:
        kind = type(section[key])
        del section[key]
        section[key] = placeholder(kind)


def _init() -> ConfigDict:
    """What a run starts from. With a source, whatever `model`, and the image's form in `data`, leave at None is its."""
    init = ConfigDict()
    # A trained model: a work directory, a checkpoint's folder or .npz, or a Hugging Face id. None is new random values.
    init.source = placeholder(str)
    # Of a work directory: last, best, or a step. Of a Hugging Face id: branch, tag or commit.
    init.step = "last"
    init.revision = placeholder(str)
    # Of an .npz that does not tell.
    init.num_heads = placeholder(int)
    # auto (kept if the classes have the same names, else new), keep (as many classes are enough), new.
    init.head = "auto"
    # Tensors of the source that may be unused, and parameters that it may lack; "encoder.pooler", "*/bias".
    init.allow = ()
    return init


def _model() -> ConfigDict:
    """The encoder. None leaves a value to init.source."""
    model = ConfigDict()
    # A file of vit_jax/models (docs/models.md), and a row of its VARIANTS; for vit any patch works, "Ti/4", "B/16x8".
    model.name = "vit"
    model.variant = "B/16"
    # Options of the family, where they are not those of the variant: `vit-jax options vit` lists them with their
    # meaning; --config.model.options.NAME=VALUE sets one.
    model.options = ConfigDict()
    return model


def _task() -> ConfigDict:
    """The head, the loss and the metrics."""
    task = ConfigDict()
    # A file of vit_jax/tasks.
    task.name = "classification"
    # Options of the task: `vit-jax options classification`; --config.task.options.NAME=VALUE.
    task.options = ConfigDict()
    return task


def _data() -> ConfigDict:
    """The dataset, and what becomes of an image on its way to the model."""
    data = ConfigDict()
    # `digits`, or a TFDS dataset prepared as array_record; the split to train on, "train[:90%]".
    data.name = "digits"
    data.split = "train"
    # TFDS's folder; by default $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    data.data_dir = placeholder(str)
    # A folder of images instead of a TFDS dataset: folder/<class>/**/image, split into train and test, or
    # folder/{train,val,test}/<class>/**/image.
    data.folder = placeholder(str)
    # Of a folder without train, val and test: share of each class's images for test, in [0, 1), and which ones;
    # config.seed has no part in it, so that runs of several seeds share a test set.
    data.eval_fraction = 0.2
    data.split_seed = 0
    # Of a folder: leave out images that cannot be decoded, with a warning, or else stop before training.
    data.skip_corrupt = False
    # Height times width of an image, above which it is refused before it is decoded.
    data.max_image_pixels = 178_956_970
    # From here to std: None is init.source's.
    # Height and width in pixels that the model takes; 1 (grey) or 3 (RGB) channels.
    data.image_size = (224, 224)
    data.channels = 3
    # exact (whatever the proportions) or shortest_edge (keeping them); then the middle is cut out.
    data.resize = "exact"
    # Share of each side that shortest_edge keeps, in (0, 1]; or height and width before the cut, for either way.
    data.crop_fraction = 1.0
    data.resize_to = placeholder(tuple)
    # Where the cut's margins are uneven, half a pixel goes: floor (Hugging Face) or nearest (torchvision, timm).
    data.crop_offset = "floor"
    # bilinear, bicubic, nearest, box, hamming or lanczos.
    data.interpolation = "bilinear"
    # Of each channel, for pixels in [0, 1].
    data.mean = (0.5, 0.5, 0.5)
    data.std = (0.5, 0.5, 0.5)
    # Training only, as are all the keys up to max_boxes.
    # Decode a JPEG that is to be shrunk to half of its size or less at 1/2, 1/4 or 1/8; quicker, with slightly other
    # pixels. Average over all pixels when shrinking, or else, twice as quick, interpolate between the nearest ones as
    # TensorFlow does (needs vit-jax[fast]). Both without in_memory.
    data.reduced_decoding = True
    data.antialias = True
    # Augmentations, each with its options, {"flip": {}, "mix": {"mixup_alpha": 0.2}}: `vit-jax options` lists them.
    # --config.data.augment.NAME.OPTION=VALUE sets an option and turns the augmentation on; .NAME=true or false turns it
    # on or off.
    data.augment = ConfigDict()
    # How often in a row each image comes, augmented in another way each time.
    data.repeats = 1
    # Boxes of an example with the most of them; further rows of the array are padding. 0 is the most that the training
    # split has.
    data.max_boxes = 100
    # Decode the whole split once and keep it as uint8, or else decode while reading.
    data.in_memory = False
    # Without in_memory: processes that decode (0: threads of this one), and threads in each.
    data.num_workers = 0
    data.num_threads = 8
    return data


def _evaluation() -> ConfigDict:
    """What is evaluated, and when."""
    evaluation = ConfigDict()
    # Name of the evaluation, which its metrics start with -> split. Empty: with data.folder every split but the one to
    # train on, of a TFDS dataset validation or, where there is none, test.
    evaluation.splits = ConfigDict({"test": "test"})
    # Steps between evaluations; 0 is only at the end.
    evaluation.every_steps = 0
    # Any number: it is rounded up to a multiple of the devices, and padding is not counted.
    evaluation.batch_size = 512
    # Evaluators (files of vit_jax/evaluators) beside the task's own metrics, each with its options,
    # {"confusion": {}, "knn": {"k": 10}}: `vit-jax options` lists them; set like data.augment.
    evaluation.metrics = ConfigDict()
    # What knn and probe learn from: a split (None is that to train on), and so many of its examples at random, always
    # the same ones; 0 is all. Each evaluation runs the model on all of them.
    evaluation.reference_split = placeholder(str)
    evaluation.reference_examples = 0
    return evaluation


def _optimizer() -> ConfigDict:
    """How gradients change parameters."""
    optimizer = ConfigDict()
    # adamw, adam, sgd, muon (for the kernels of the blocks; adamw for all else).
    optimizer.name = "adamw"
    # The highest rate, after the warm-up; constant, cosine, linear, rsqrt; the rate it ends with (cosine, linear).
    optimizer.learning_rate = 1e-3
    optimizer.schedule = "cosine"
    optimizer.end_learning_rate = 0.0
    # Steps of linear rise from 0, of linear fall to 0 at the end, and the time constant of rsqrt.
    optimizer.warmup_steps = 0
    optimizer.cooldown_steps = 0
    optimizer.rsqrt_timescale_steps = 10_000
    # The warm-up as a share of the run, in [0, 1); counts if warmup_steps is 0.
    optimizer.warmup_fraction = 0.0
    # Multiplied by the rate (adamw, muon) or added to the gradient (sgd); kernels only.
    optimizer.weight_decay = 0.0
    # Adam's, also of what muon leaves to it.
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    # SGD's.
    optimizer.momentum = 0.9
    optimizer.nesterov = False
    # What Adam's mean of the gradients, or the momentum of SGD or Muon, is kept in: float32, or bfloat16 for half its
    # memory.
    optimizer.moment_dtype = "float32"
    # Greatest global norm of the gradients; 0 is no clipping.
    optimizer.clip_norm = 0.0
    # Regular expressions for paths of parameters that stay as they are, ("encoder/patch_embed", "block_[0-5]/").
    optimizer.freeze = ()
    # Train the head alone; keep the first blocks, and all before them, as they are.
    optimizer.freeze_encoder = False
    optimizer.freeze_blocks = 0
    # Each layer's learning rate is this times that of the layer above it, in (0, 1]; 1 is the same rate for all.
    optimizer.layer_decay = 1.0
    return optimizer


def _checkpoint() -> ConfigDict:
    """What is saved in <workdir>/checkpoints."""
    checkpoint = ConfigDict()
    # Steps between saves; 0 is only at the end (and when the run is stopped).
    checkpoint.every_steps = 0
    # How many of the newest stay; with two there is one to fall back on.
    checkpoint.keep_last = 2
    # The best by this metric stays as well, "test/accuracy" (max or min of it), and each evaluation is saved. Empty is
    # none.
    checkpoint.best_metric = ""
    checkpoint.best_mode = "max"
    return checkpoint


AUGREG = {
    "none": (None, 0.0),
    "light1": (0.0, 0.0),
    "light2": (10.0, 0.2),
    "medium1": (15.0, 0.2),
    "medium2": (15.0, 0.5),
    "strong1": (20.0, 0.5),
    "strong2": (20.0, 0.8),
}
"""Magnitude of RandAugment (None is no RandAugment) and alpha of mixup.

Steiner et al. 2021 (AugReg, arXiv:2106.10270), section 3, as in big_vision's configs/vit_i1k.py: two operations of
google's RandAugment, and mixup.
"""


def set_augreg(config: ConfigDict, name: str) -> None:
    """Sets RandAugment and mixup to a row of AUGREG; crop, flip, dropout and weight decay are choices of their own."""
    if name not in AUGREG:
        raise ValueError(f"no augmentation {name!r}; valid: {', '.join(AUGREG)}")
    magnitude, mixup_alpha = AUGREG[name]
    if magnitude is not None:
        config.data.augment.randaugment = {"variant": "google", "num_ops": 2, "magnitude": magnitude}
    if mixup_alpha:
        config.data.augment.mix = {"mixup_alpha": mixup_alpha}


def set_deit(config: ConfigDict) -> None:
    """Sets the data's augmentation, and label smoothing, to those of DeiT.

    Touvron et al. 2020 (arXiv:2012.12877), table 9, with deit/main.py's defaults for what it leaves open. Stochastic
    depth, optimizer and schedule are choices of their own.
    """
    config.task.options.label_smoothing = 0.1
    config.data.update({"interpolation": "bicubic", "repeats": 3})
    config.data.augment = {
        "random_crop": {"min_area": 0.08},
        "flip": {},
        "randaugment": {"variant": "timm_increasing", "num_ops": 2, "magnitude": 9.0, "magnitude_std": 0.5},
        "erase": {"probability": 0.25},
        "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
    }


def set_small_images(config: ConfigDict, device: str) -> None:
    """Sets what training a ViT on 50,000 images of 32 x 32 pixels from scratch needs, sized for a device.

    Args:
        config: to change.
        device: `cpu`, half an hour on two cores; or `gpu`, one GPU of a data centre.
    """
    config.model.options = {"posemb": "sincos2d", "pooling": "gap"}
    config.data.update({"image_size": (32, 32), "in_memory": True})
    config.data.augment.flip = {}
    config.optimizer.update({"name": "muon", "warmup_fraction": 0.1, "weight_decay": 0.05, "clip_norm": 1.0})
    if device == "cpu":
        config.update({"batch_size": 128, "num_epochs": 8.0})
        config.model.variant = "Ti/4"
        config.model.options.update({"hidden_dim": 128, "depth": 4, "mlp_dim": 256, "num_heads": 4})
        config.data.augment.shift = {"pixels": 2}
        config.optimizer.learning_rate = 6e-3
    elif device == "gpu":
        config.update({"batch_size": 512, "num_epochs": 200.0, "ema_decay": 0.9998})
        config.model.variant = "S/4"
        config.model.options.update({"dtype": "bfloat16", "drop_path": 0.1})
        config.task.options.label_smoothing = 0.1
        config.data.augment.update(
            {
                "shift": {"pixels": 4},
                "trivialaugment": {},
                "erase": {"probability": 0.1},
                "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 0.5},
            }
        )
        config.optimizer.learning_rate = 2e-3
    else:
        raise ValueError(f"no variant {device!r}; valid: cpu, gpu")
    config.evaluation.every_steps = 390
    config.checkpoint.every_steps = 390
