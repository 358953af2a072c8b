"""Every key of a run, with its meaning and its default.

A config file calls `get_config()`, changes what its experiment needs, and returns it locked. Any key can be changed on
the command line, `--config.optimizer.learning_rate=1e-3`. Options of a model, a task, an augmentation or an evaluator
are no keys of the run: `vit-jax options` lists them. At the end are published choices of augmentation by name.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Return the defaults: image classification with a plain ViT on a TFDS dataset."""
    config = ConfigDict()
    # Seed of every random choice (initial values, order, augmentation, dropout); 0 or more.
    config.seed = 0
    # Length of the run in epochs; num_steps takes precedence if it is set.
    config.num_epochs = 1.0
    config.num_steps = placeholder(int)
    # Global batch size; the devices of all processes (under mesh: data x fsdp) must divide it.
    config.batch_size = 128
    # Micro-batches per step (gradient accumulation); must divide the per-device batch size.
    config.accumulate_steps = 1
    # Steps in a row with a loss, gradient or update that is not finite, after which the run stops.
    config.max_skipped_steps = 10
    # Decay of the exponential moving average of the parameters, in [0, 1). The average is what is evaluated and loaded;
    # 0 keeps none.
    config.ema_decay = 0.0
    # Steps between lines of metrics.jsonl; figures are means over them.
    config.log_every_steps = 50
    config.init = _init()
    config.model = _model()
    config.task = _task()
    config.data = _data()
    config.evaluation = _evaluation()
    config.optimizer = _optimizer()
    config.checkpoint = _checkpoint()
    # Trace for TensorBoard or Perfetto in <workdir>/profile: the step after which it starts, and its length in steps; 0
    # is no trace.
    config.profile = ConfigDict({"start_step": 10, "num_steps": 0})
    config.parallel = ConfigDict()
    # pmap: every device holds the whole state and a slice of the batch. mesh: the state can be sharded as well.
    config.parallel.strategy = "pmap"
    # Of mesh, devices along each axis; -1 is all that are left. data shards the batch; fsdp shards the batch and every
    # large parameter with its optimizer state; tensor shards attention heads and MLP hidden units.
    config.parallel.data = -1
    config.parallel.fsdp = 1
    config.parallel.tensor = 1
    # Parameters with fewer elements are not sharded over fsdp.
    config.parallel.fsdp_min_size = 2**14
    return config


def unset(section: ConfigDict, *keys: str) -> None:
    """Set keys to None so that the command line can still set them."""
    for key in keys:
        kind = type(section[key])
        del section[key]
        section[key] = placeholder(kind)


def _init() -> ConfigDict:
    """Return what a run starts from. With a source, keys of `model` and `data` that are None are inherited from it."""
    init = ConfigDict()
    # A trained model: a work directory, a checkpoint's folder or .npz, or a Hugging Face id. None starts from random
    # values.
    init.source = placeholder(str)
    # Of a work directory: last, best, or a step. Of a Hugging Face id: branch, tag or commit.
    init.step = "last"
    init.revision = placeholder(str)
    # Attention heads of an .npz that does not tell their number.
    init.num_heads = placeholder(int)
    # auto (keep the head if the task and the names of the classes are the same, else make a new one), keep (the number
    # of classes is enough), new.
    init.head = "auto"
    # Tensors of the source that may stay unused, and parameters that it may lack, such as "encoder.pooler", "*/bias".
    init.allow = ()
    return init


def _model() -> ConfigDict:
    """Return the encoder. None leaves a value to init.source."""
    model = ConfigDict()
    # A file of vit_jax/models (docs/models.md), and a row of its VARIANTS; for vit any patch works, "Ti/4", "B/16x8".
    model.name = "vit"
    model.variant = "B/16"
    # Options of the family, where they are not those of the variant: `vit-jax options vit` lists them with their
    # meaning; --config.model.options.NAME=VALUE sets one.
    model.options = ConfigDict()
    return model


def _task() -> ConfigDict:
    """Return the head, the loss and the metrics."""
    task = ConfigDict()
    # A file of vit_jax/tasks.
    task.name = "classification"
    # Options of the task: `vit-jax options classification`; --config.task.options.NAME=VALUE.
    task.options = ConfigDict()
    return task


def _data() -> ConfigDict:
    """Return the dataset, and the way of an image to the model."""
    data = ConfigDict()
    # digits, digit_scenes, ... or a TFDS dataset prepared as array_record; the training split, "train[:90%]".
    data.name = "digits"
    data.split = "train"
    # TFDS's folder; the default is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    data.data_dir = placeholder(str)
    # A folder of images instead of a TFDS dataset (docs/folder.md): <class>/**/image, split into train and test, or
    # {train,val,test}/<class>/**/image; with masks, images/** and masks/**.
    data.folder = placeholder(str)
    # Of a folder: a CSV file of the images' labels, from here or from the folder; the images may lie anywhere in it.
    data.labels = placeholder(str)
    # Of data.labels: the column of the images' paths, with or without endings (None: file_name, path, image ..., or the
    # first); the column of their classes (empty: label, class ..., or the one that is left), or columns of 0 and 1 that
    # are called as the classes; the column of the splits, if there is one of this name (None: none).
    data.image_column = placeholder(str)
    data.label_columns = ()
    data.split_column = "split"
    # Of data.labels, for any number of classes an image, with task.options.loss_type="sigmoid": what separates them in
    # a cell, "|" or " "; or whether an image has those of all its rows. Columns of 0 and 1 need neither.
    data.label_separator = placeholder(str)
    data.several_labels = False
    # Of a folder without train, val and test: share of the images held out as test, in [0, 1), and the seed that
    # chooses them; runs with different values of config.seed share a test set.
    data.eval_fraction = 0.2
    data.split_seed = 0
    # Fields of the examples to use, ("image", "mask"); empty is all but arrays and further labels. With ("image",) a
    # folder may have any layout.
    data.fields = ()
    # Of a folder: leave out images that cannot be decoded, with a warning; otherwise they stop the run before step 1.
    data.skip_corrupt = False
    # Largest image in pixels, height times width; larger ones are refused before they are decoded.
    data.max_image_pixels = 178_956_970
    # From here to std: None inherits the value from init.source.
    # Height and width of the model's input in pixels; 1 (grey) or 3 (RGB) channels.
    data.image_size = (224, 224)
    data.channels = 3
    # exact (resize to image_size, changing the aspect ratio) or shortest_edge (keep the ratio; the longer side rounded
    # down, or with shortest_edge_nearest to the nearest pixel); then a centre crop.
    data.resize = "exact"
    # Share of each side that the crop keeps after shortest_edge, in (0, 1]; or height and width before the crop.
    data.crop_fraction = 1.0
    data.resize_to = placeholder(tuple)
    # Rounding of a crop whose margins are uneven: floor (Hugging Face) or nearest (torchvision, timm).
    data.crop_offset = "floor"
    # bilinear, bicubic, nearest, box, hamming or lanczos.
    data.interpolation = "bilinear"
    # Resize to the new width before the new height (transformers), or in the order that is less work (Pillow, timm).
    data.width_first = False
    # Mean and standard deviation of each channel, for pixels in [0, 1].
    data.mean = (0.5, 0.5, 0.5)
    data.std = (0.5, 0.5, 0.5)
    # From here to max_boxes: training only.
    # Decode a JPEG at 1/2, 1/4 or 1/8 of its size where it is shrunk that much: quicker, pixels differ slightly.
    # antialias averages over all pixels when shrinking; without it neighbours are interpolated, as in TensorFlow, which
    # takes half the time (needs vit-jax[fast]). Neither applies with in_memory.
    data.reduced_decoding = True
    data.antialias = True
    # Augmentations, each with its options, {"flip": {}, "mix": {"mixup_alpha": 0.2}}: `vit-jax options` lists them.
    # --config.data.augment.NAME.OPTION=VALUE sets an option and turns the augmentation on; .NAME=true or false turns it
    # on or off.
    data.augment = ConfigDict()
    # shuffled: every example once an epoch. balanced: every class equally often; an epoch is still as many examples as
    # there are, those of rare classes more than once.
    data.sampler = "shuffled"
    # Repeated augmentation: copies of each image in a row, each augmented in its own way.
    data.repeats = 1
    # Boxes per image: arrays of boxes are padded to this number; an image with more boxes is an error.
    data.max_boxes = 100
    # Decode the whole split once and keep it in memory as uint8, instead of decoding while training.
    data.in_memory = False
    # Without in_memory: worker processes that decode (0: threads of this process), and the number of threads.
    data.num_workers = 0
    data.num_threads = 8
    return data


def _evaluation() -> ConfigDict:
    """Return what is evaluated, and when."""
    evaluation = ConfigDict()
    # Name of an evaluation, the prefix of its metrics -> split. Empty: every split of data.folder but the training
    # split; of a TFDS dataset validation, or test if it has none.
    evaluation.splits = ConfigDict({"test": "test"})
    # Steps between evaluations; 0 evaluates only at the end.
    evaluation.every_steps = 0
    # Batch size of the evaluation; it is rounded up to a multiple of the devices, and padding does not count.
    evaluation.batch_size = 512
    # Evaluators (files of vit_jax/evaluators) beside the task's own metrics, each with its options,
    # {"confusion": {}, "knn": {"k": 10}}: `vit-jax options` lists them; set like data.augment.
    evaluation.metrics = ConfigDict()
    # Reference data of knn and probe: a split (None is the training split), and the number of its examples, drawn with
    # a fixed seed; 0 is all. Each evaluation runs the model on all of them.
    evaluation.reference_split = placeholder(str)
    evaluation.reference_examples = 0
    return evaluation


def _optimizer() -> ConfigDict:
    """Return how gradients change parameters."""
    optimizer = ConfigDict()
    # adamw, adam, sgd, muon (for the kernels of the blocks; adamw for all else).
    optimizer.name = "adamw"
    # Peak learning rate; schedule after the warm-up: constant, cosine, linear, rsqrt; final rate (cosine, linear).
    optimizer.learning_rate = 1e-3
    optimizer.schedule = "cosine"
    optimizer.end_learning_rate = 0.0
    # Steps of linear warm-up from 0, steps of linear cool-down to 0 at the end, and the time scale of rsqrt.
    optimizer.warmup_steps = 0
    optimizer.cooldown_steps = 0
    optimizer.rsqrt_timescale_steps = 10_000
    # Warm-up as a share of the run, in [0, 1); used if warmup_steps is 0.
    optimizer.warmup_fraction = 0.0
    # Decoupled and multiplied by the rate (adamw, muon) or added to the gradient (sgd); kernels only.
    optimizer.weight_decay = 0.0
    # Of Adam, also for the parameters that muon leaves to it.
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    # Of SGD.
    optimizer.momentum = 0.9
    optimizer.nesterov = False
    # Type of Adam's first moment, or of the momentum of SGD and Muon: float32, or bfloat16 for half the memory.
    optimizer.moment_dtype = "float32"
    # Largest global norm of the gradients; 0 does not clip.
    optimizer.clip_norm = 0.0
    # Regular expressions for paths of parameters that are frozen, ("encoder/patch_embed", "block_[0-5]/").
    optimizer.freeze = ()
    # Freeze the whole encoder and train the head alone; freeze the first blocks and all before them.
    optimizer.freeze_encoder = False
    optimizer.freeze_blocks = 0
    # Layer-wise decay of the learning rate: each layer's rate is this times that of the layer above, in (0, 1].
    optimizer.layer_decay = 1.0
    return optimizer


def _checkpoint() -> ConfigDict:
    """Return what is saved in <workdir>/checkpoints."""
    checkpoint = ConfigDict()
    # Steps between checkpoints; 0 saves only at the end, or when the run is stopped.
    checkpoint.every_steps = 0
    # Number of the newest checkpoints to keep; with two there is one to fall back on.
    checkpoint.keep_last = 2
    # Metric whose best checkpoint is kept too, "test/accuracy", and whether max or min is best; every evaluation is
    # then saved. Empty keeps none.
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
    """Set RandAugment and mixup to a row of AUGREG; crop, flip, dropout and weight decay are choices of their own."""
    if name not in AUGREG:
        raise ValueError(f"no augmentation {name!r}; valid: {', '.join(AUGREG)}")
    magnitude, mixup_alpha = AUGREG[name]
    if magnitude is not None:
        config.data.augment.randaugment = {"variant": "google", "num_ops": 2, "magnitude": magnitude}
    if mixup_alpha:
        config.data.augment.mix = {"mixup_alpha": mixup_alpha}


def set_deit(config: ConfigDict) -> None:
    """Set the data's augmentation, and label smoothing, to those of DeiT.

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
    """Set what training a ViT on 50,000 images of 32 x 32 pixels from scratch needs, sized for a device.

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
