"""From a config, or from what a checkpoint says of itself, to objects.

Models, tasks and evaluators are imported by name here alone.
"""

import dataclasses
import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

import vit_jax.evaluators
import vit_jax.models
import vit_jax.tasks
from vit_jax.build import data as build_data
from vit_jax.build.warm_start import WarmStart, keeps_head, open_teacher, open_trained, teacher_params, warm_start
from vit_jax.data.images import transforms
from vit_jax.data.loading import loader
from vit_jax.data.sources import folder
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError
from vit_jax.ops import augment
from vit_jax.pretrained.load import Opened
from vit_jax.training import optimizer, schedule
from vit_jax.training.evaluation import Evaluators
from vit_jax.training.step import make_init, make_train_step
from vit_jax.training.teacher import Teacher
from vit_jax.types import Batch, Prepare, Task, TaughtTask, encoder_of
from vit_jax.version import __version__

EXECUTION = ("attention", "remat", "scan")
"""Options of a model that say how it is computed, not what: the config's alone, and in no checkpoint, so that whoever
loads it, or starts from it, chooses anew."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What a config's train step is made of; no example is read for it.

    model: images to the task's outputs.
    task: loss and metrics.
    optimizer: with its schedule.
    prepare: augmentation and normalisation inside the steps.
    example: a batch of one blank example, for shapes.
    total_steps: the run's length.
    info: what a checkpoint keeps for inference: model, task, class names, preprocessing, version.
    teacher: the model that the task learns from; None if it needs none.
    """

    model: nn.Module
    task: Task
    optimizer: optimizer.Optimizer
    prepare: Prepare
    example: Batch
    total_steps: int
    info: dict[str, Any]
    teacher: Teacher | None


@dataclasses.dataclass(frozen=True)
class Experiment(Step):
    """Everything a config describes, ready to run.

    train_loader: the training examples.
    eval_loaders: name of the evaluation -> its examples.
    evaluators: what is found out about them beside the task's metrics.
    warm_start: the parameters that the run starts from; None if it starts from new ones.
    """

    train_loader: loader.Loader
    eval_loaders: dict[str, loader.Loader]
    evaluators: Evaluators
    warm_start: WarmStart | None


def init_and_train_step(config, step: Step, *, axis_name: str | None) -> tuple[Callable, Callable]:
    """`init(seed, batch) -> TrainState` and `train_step(state, batch) -> (state, metrics)`, not compiled.

    What train.py runs and `vit-jax plan` compiles.

    Args:
        config: the one that `step` was built from.
        step: its parts.
        axis_name: the device axis that the strategy reduces over; None where the compiler sees the whole batch.
    """
    parts = (step.model, step.task, step.optimizer)
    common = {"prepare": step.prepare, "teacher": step.teacher}
    return make_init(*parts, **common, ema=config.ema_decay > 0), make_train_step(
        *parts,
        **common,
        ema_decay=config.ema_decay,
        accumulate_steps=config.accumulate_steps,
        log_every_steps=config.log_every_steps,
        max_skipped_steps=config.max_skipped_steps,
        axis_name=axis_name,
    )


def experiment(config, *, saved_info: dict[str, Any] | None = None) -> Experiment:
    """Builds what a whole config describes.

    Args:
        config: a ConfigDict with the keys of configs/common.py.
        saved_info: what the run's own checkpoint says of itself if there is one; the source that the run once
            started from, and its teacher's, are then not needed any more.

    Raises:
        InputError: a name or value that is not valid.
    """
    _check_values(config)
    data = config.data
    images = build_data.image_folder(data)
    opened = _open_init(config) if config.init.source and saved_info is None else None
    base = opened.info if opened else saved_info if config.init.source else None
    preprocessing = build_data.preprocessing_of(data, base)
    source = build_data.open_source(data, images, data.split)
    keeps = opened is None or _keeps_head(config.init, opened, source)
    step = _step(config, source, preprocessing, base, keeps_head=keeps, saved_info=saved_info)
    return Experiment(
        **vars(step),
        train_loader=build_data.train_loader(data, source, preprocessing),
        eval_loaders=build_data.eval_loaders(config, images, preprocessing, source.class_names),
        evaluators=evaluators(
            config, step.task, preprocessing, source.class_names, multi_label=source.multi_label, images=images
        ),
        warm_start=_warm_start(config.init, opened, step.model, step.info) if opened else None,
    )


def train_source(config) -> sources.Source:
    """The examples to train on.

    Args:
        config: a ConfigDict with the keys of configs/common.py.

    Raises:
        InputError: they cannot be opened.
    """
    return build_data.open_source(config.data, build_data.image_folder(config.data), config.data.split)


def train_step(config, source: sources.Source) -> Step:
    """Builds what the train step is made of, without reading examples.

    Args:
        config: a ConfigDict with the keys of configs/common.py.
        source: what is trained on, or a stand-in for it (`sources.stand_in`).

    Raises:
        InputError: a name or value that is not valid.
    """
    _check_values(config)
    opened = _open_init(config) if config.init.source else None
    base = opened.info if opened else None
    keeps = opened is None or _keeps_head(config.init, opened, source)
    return _step(
        config, source, build_data.preprocessing_of(config.data, base), base, keeps_head=keeps, saved_info=None
    )


def _check_values(config) -> None:
    """Raises InputError for a number out of its range."""
    for key in (
        "batch_size",
        "max_skipped_steps",
        "log_every_steps",
        "evaluation.batch_size",
        "data.num_threads",
        "data.repeats",
    ):
        section, _, name = key.rpartition(".")
        value = (config[section] if section else config)[name]
        if value < 1:
            raise InputError(f"{key} is {value}; valid: 1 or more")
    for key, value in (
        ("data.num_workers", config.data.num_workers),
        ("checkpoint.every_steps", config.checkpoint.every_steps),
        ("evaluation.every_steps", config.evaluation.every_steps),
    ):
        if value < 0:
            raise InputError(f"{key} is {value}; valid: 0 or more")
    if not 0 <= config.seed < 2**63:
        raise InputError(f"seed is {config.seed}; valid: 0 or more, below 2**63")
    if not math.isfinite(config.num_epochs):
        raise InputError(f"num_epochs is {config.num_epochs}; valid: a finite number above 0")
    if not 0.0 <= config.ema_decay < 1.0:
        raise InputError(f"ema_decay is {config.ema_decay}; valid: at least 0 (none) and less than 1")


def _step(
    config,
    source: sources.Source,
    preprocessing: transforms.Preprocessing,
    base: dict[str, Any] | None,
    *,
    keeps_head: bool,
    saved_info: dict[str, Any] | None,
) -> Step:
    info = {
        "model": _model_info(config.model, base, keeps_head),
        "task": {"name": config.task.name, "options": _task_options(config.task, base)},
        "optimizer": config.optimizer.name,
        "class_names": list(source.class_names),
        "num_examples": len(source),
        "preprocessing": dataclasses.asdict(preprocessing),
        "version": __version__,
    }
    execution = {key: value for key, value in _options(config.model).items() if key in EXECUTION}
    model, task, _ = from_info(info, **execution)
    assert task is not None
    if source.multi_label and info["task"]["options"].get("loss_type") != "sigmoid":
        raise InputError(f"{source.name} has several labels an image; valid: a task.loss_type of 'sigmoid'")
    total_steps = _total_steps(config, len(source))
    teacher, teacher_info = _teacher(config, task, preprocessing, source.class_names, saved_info)
    if isinstance(task, TaughtTask):
        info |= {"task": task.inference(), "teacher": teacher_info}
    return Step(
        model=model,
        task=task,
        optimizer=_optimizer(config.optimizer, total_steps, encoder_of(model)),
        prepare=build_data.train_prepare(config.data, preprocessing, num_classes=len(source.class_names)),
        example=loader.blank_batch(preprocessing, source, 1),
        total_steps=total_steps,
        info=info,
        teacher=teacher,
    )


def from_info(info: dict[str, Any], **execution: Any) -> tuple[nn.Module, Task | None, transforms.Preprocessing]:
    """Rebuilds model, task and preprocessing from what a checkpoint says of itself.

    Without a task (a foreign checkpoint that has no head) the model is the bare encoder.

    Args:
        info: what the checkpoint says.
        **execution: further options of the encoder, EXECUTION.

    Raises:
        InputError: an unknown name or option.
    """
    options = info["model"]["options"] | execution
    encoder = create_encoder(info["model"]["name"], info["model"]["variant"], **options)
    preprocessing = transforms.Preprocessing(**info["preprocessing"])
    if info["task"] is None:
        return encoder, None, preprocessing
    options = {"num_classes": len(info["class_names"])} | info["task"]["options"]
    task = create_task(info["task"]["name"], **options)
    return task.wrap(encoder), task, preprocessing


def create_encoder(name: str, variant: str, **options) -> nn.Module:
    """Makes the encoder of a family by name, `("vit", "B/16")`.

    Raises:
        InputError: an unknown family, variant or option.
    """
    create = _module(vit_jax.models, "model", name).create
    if not isinstance(variant, str):
        raise InputError(f"model.variant is {variant!r}; valid: text, the name of a row of {name}'s VARIANTS")
    return create(variant, **options)


def create_model(name: str, variant: str, *, num_classes: int | None = None, **options) -> nn.Module:
    """Makes a model by name.

    Args:
        name: a file of `vit_jax/models`, `vit`.
        variant: a row of its VARIANTS, `B/16`.
        num_classes: adds a classification head with so many logits; None gives the bare encoder.
        **options: fields of the family's module, such as `pooling="gap"`.

    Returns:
        A Linen module: `(images [B, H, W, C] float, *, train)` to logits `[B, num_classes]`, or to `Features`.

    Raises:
        InputError: an unknown family, variant or option.
    """
    encoder = create_encoder(name, variant, **options)
    return encoder if num_classes is None else create_task("classification", num_classes=num_classes).wrap(encoder)


def list_models() -> list[tuple[str, str]]:
    """All (name, variant) pairs that `create_model` knows by name."""
    names = [name for name in _names(vit_jax.models) if hasattr(_module(vit_jax.models, "model", name), "VARIANTS")]
    return [(name, variant) for name in names for variant in _module(vit_jax.models, "model", name).VARIANTS]


def create_task(name: str, **options) -> Task:
    """Makes a task by name, a file of `vit_jax/tasks`.

    Raises:
        InputError: an unknown task or option.
    """
    create = _module(vit_jax.tasks, "task", name).create
    valid = inspect.signature(create).parameters
    for option in options:
        if option not in valid:
            raise InputError(f"task {name!r} has no option {option!r}; valid: {', '.join(valid)}")
    return create(**options)


def eval_loaders(
    config, preprocessing: transforms.Preprocessing, class_names: Sequence[str]
) -> dict[str, loader.Loader]:
    """The datasets that `config.evaluation.splits` names: name -> loader.

    Args:
        config: a ConfigDict with the keys of configs/common.py.
        preprocessing: the model's.
        class_names: the model's, in its order.

    Raises:
        InputError: a split the dataset lacks, or classes that are not the model's.
    """
    return build_data.eval_loaders(config, build_data.image_folder(config.data), preprocessing, class_names)


def evaluators(
    config,
    task: Task,
    preprocessing: transforms.Preprocessing,
    class_names: Sequence[str],
    *,
    multi_label: bool,
    images: folder.ImageFolder | None = None,
) -> Evaluators:
    """What `config.evaluation.metrics` names, and the reference dataset if one of them learns from it.

    Args:
        config: a ConfigDict with the keys of configs/common.py; those of evaluators may be missing.
        task: the model's.
        preprocessing: the model's.
        class_names: the model's, in its order.
        multi_label: whether the data's examples can have several labels.
        images: the config's folder of images if it is open already.

    Raises:
        InputError: an unknown name or option, or an evaluator that cannot judge the task.
    """
    data, section = config.data, config.evaluation
    names = section.get("metrics", ())  # a key, like the others here, that older work directories do not have
    if isinstance(names, str):
        raise InputError(f"evaluation.metrics is {names!r}; valid: a tuple of names, ({names!r},)")
    each = []
    for name in dict.fromkeys(names):
        create = _module(vit_jax.evaluators, "metric", name).create
        each.append(create(tuple(class_names), **_options(section.get(name, ConfigDict()))))
        each[-1].check(task, multi_label=multi_label)
    if not any(evaluator.uses_reference for evaluator in each):
        return Evaluators(each)
    images = images or build_data.image_folder(data)
    source = build_data.same_classes(
        build_data.open_source(data, images, section.get("reference_split") or data.split), class_names
    )
    size = section.get("reference_examples", 0)
    if size < 0:
        raise InputError(f"evaluation.reference_examples is {size}; valid: a number of examples, or 0 for all")
    return Evaluators(each, build_data.make_loader(data, source.sample(size) if size else source, preprocessing))


def eval_prepare(preprocessing: transforms.Preprocessing) -> Prepare:
    """What an evaluation step does with a batch: normalisation alone."""
    return augment.make_prepare(preprocessing.mean, preprocessing.std)


def _open_init(config) -> Opened:
    init, data = config.init, config.data
    return open_trained(
        init.source,
        step=int(init.step) if init.step.isdigit() else init.step,
        revision=init.revision,
        num_heads=init.num_heads,
        image_size=data.image_size,
        channels=data.channels,
    )


def _warm_start(init, opened: Opened, model: nn.Module, info: dict[str, Any]) -> WarmStart:
    preprocessing = info["preprocessing"]
    images = jax.ShapeDtypeStruct((1, *preprocessing["image_size"], preprocessing["channels"]), jnp.float32)
    variables: Any = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    template = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    return warm_start(opened, template, info["class_names"], head=init.head, allow=init.allow)


def _keeps_head(init, opened: Opened, source: sources.Source) -> bool:
    return keeps_head(init.head, opened.info["class_names"], source.class_names)


def _model_info(section, base: dict[str, Any] | None, keeps_head: bool) -> dict[str, Any]:
    """Family, variant and options: the config's, and where it leaves them open those of the model to start from."""
    given = {"name": section.name, "variant": section.variant}
    own = {key: value for key, value in _options(section).items() if key not in EXECUTION}
    if base is None:
        for key, value in given.items():
            if value is None:
                raise InputError(f"model.{key} is not set; valid: one of `list_models`, or a run with init.source")
        return given | {"options": own}
    for key, value in given.items():
        if value not in (None, base["model"][key]):
            raise InputError(
                f"model.{key} is {value!r}, but init.source is {base['model'][key]!r}; valid: that, or None to take it"
            )
    # How a model was regularised in its training is no part of it, and a pre-logits layer is part of the head.
    left = {"dropout", "attention_dropout", "drop_path"} | (set() if keeps_head else {"representation_size"})
    options = {key: value for key, value in base["model"]["options"].items() if key not in left}
    return {key: base["model"][key] for key in given} | {"options": options | own}


def _task_options(section, base: dict[str, Any] | None) -> dict[str, Any]:
    before = base["task"]["options"] if base and base["task"] else {}
    own = {key: value for key, value in _options(section).items() if not key.startswith("teacher")}
    return {key: before[key] for key in ("distillation_head",) if key in before} | own


def _teacher(
    config, task: Task, ours: transforms.Preprocessing, class_names: Sequence[str], saved_info: dict[str, Any] | None
) -> tuple[Teacher | None, dict[str, Any] | None]:
    """The model that the task learns from, and what a checkpoint says of it; None if the task needs none.

    Raises:
        InputError: one that is missing, not needed, cannot be used, or is another than the run began with.
    """
    section = config.task
    if not isinstance(task, TaughtTask):
        if section.teacher is not None:
            raise InputError(f"task.teacher is {section.teacher!r}, but task.name is {section.name!r}, which has none")
        return None, None
    if section.teacher is None:
        raise InputError(
            f"task.teacher is not set; valid for {section.name}: a work directory, a folder, an .npz or a hub id"
        )
    saved, opened = (saved_info or {}).get("teacher"), None
    if saved is None:
        step = int(section.teacher_step) if section.teacher_step.isdigit() else section.teacher_step
        opened = open_teacher(
            section.teacher,
            class_names,
            step=step,
            revision=section.teacher_revision,
            classes=section.teacher_classes,
        )
        saved = {key: opened.info[key] for key in ("model", "task", "class_names", "preprocessing")}
        saved |= {"source": section.teacher, "about": opened.source}
    elif saved["source"] != section.teacher:
        raise InputError(
            f"task.teacher is {section.teacher!r}, but the run began with {saved['source']!r}, which its checkpoint "
            "holds; valid: that, or another --workdir"
        )
    model, _, theirs = from_info(saved, dtype=config.model.dtype)
    if theirs.channels != ours.channels:
        raise InputError(
            f"task.teacher {saved['about']} takes images of {theirs.channels} channels; valid with data.channels "
            f"{ours.channels}: a teacher of {ours.channels}"
        )
    teacher = Teacher(model, theirs, ours, None, saved["about"])
    if opened is not None:
        template = flax.traverse_util.flatten_dict(teacher.shapes(), sep="/")
        params = teacher_params(opened, template, class_names, classes=section.teacher_classes)
        teacher = dataclasses.replace(teacher, params=params)
    return teacher, saved


def _optimizer(options, total_steps: int, encoder: Any) -> optimizer.Optimizer:
    if not 0.0 <= options.warmup_fraction < 1.0:
        raise InputError(f"optimizer.warmup_fraction is {options.warmup_fraction}; valid: at least 0 and less than 1")
    learning_rate = schedule.learning_rate(
        options.schedule,
        peak=options.learning_rate,
        total_steps=total_steps,
        warmup_steps=options.warmup_steps or round(options.warmup_fraction * total_steps),
        cooldown_steps=options.cooldown_steps,
        end=options.end_learning_rate,
        timescale_steps=options.rsqrt_timescale_steps,
    )
    names = ("weight_decay", "b1", "b2", "eps", "momentum", "nesterov", "moment_dtype")
    names += ("clip_norm", "freeze_blocks", "layer_decay")
    return optimizer.create(
        options.name,
        schedule=learning_rate,
        freeze=(*options.freeze, *(("^encoder/",) if options.freeze_encoder else ())),
        layers=layers_of(encoder),
        **{name: options[name] for name in names},
    )


def layers_of(encoder: Any) -> optimizer.Layers | None:
    """The order of a model's parameters, its head after the encoder; None for an encoder that tells no layers apart."""
    if not hasattr(encoder, "layer_number"):
        return None

    def number(path: str) -> int:
        inside = path.startswith("encoder/")
        return encoder.layer_number(path.removeprefix("encoder/")) if inside else encoder.depth + 1

    return optimizer.Layers(encoder.depth, number)


def _total_steps(config, num_examples: int) -> int:
    steps = config.num_steps
    if steps is None:
        steps = round(config.num_epochs * num_examples / config.batch_size)
    if steps < 1:
        raise InputError(
            f"num_steps {config.num_steps} (or num_epochs {config.num_epochs} of {num_examples} examples) "
            f"gives {steps} steps; valid: 1 or more"
        )
    return steps


def _options(section) -> dict[str, Any]:
    """A section's keys besides name and variant, those that are None left to the variant's own value."""
    return {k: v for k, v in section.to_dict().items() if k not in ("name", "variant") and v is not None}


def _names(package) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(package.__path__)]


def _module(package, kind: str, name: str):
    names = _names(package)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"unknown {kind} {name!r}{hint}; valid: {', '.join(names)}")
    return importlib.import_module(f"{package.__name__}.{name}")
