"""From a config to everything that a run needs. Each section of the config goes to one place, once."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vit_jax.build import companions as companions_
from vit_jax.build import data as data_
from vit_jax.build import plugins
from vit_jax.build.warm_start import WarmStart, keeps_head, open_trained, warm_start
from vit_jax.contracts import Source, Task
from vit_jax.data.loading.loader import Loader
from vit_jax.errors import InputError
from vit_jax.info import Info, new_info
from vit_jax.layers.roles import Roles, Traced, trace
from vit_jax.pretrained.load import Opened
from vit_jax.training import optimizer, schedule
from vit_jax.training.evaluation import Evaluators
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init
from vit_jax.training.step import TrainStep, make_train_step
from vit_jax.types import Batch, Fields, TrainState, extent_of

EXECUTION = ("attention", "remat", "scan")
"""Options of a model that say how it is computed, not what: the config's alone, and in no checkpoint, so that whoever
loads it, or starts from it, chooses again."""
REGULARISATION = ("dropout", "attention_dropout", "drop_path")
"""Options that say how a model was trained: a run does not take them over from init.source."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What a config's train step is made of; no example is read for it.

    problem: model, task, companions, augmentation.
    optimizer: with its schedule.
    example: a batch of one blank example, for shapes.
    total_steps: the run's length.
    info: what a checkpoint says of its model.
    init: `init(seed, batch) -> TrainState`, not compiled.
    make_train_step: makes the train step, not compiled, for the device axis that the strategy reduces over.
    """

    problem: Problem
    optimizer: optimizer.Optimizer
    example: Batch
    total_steps: int
    info: Info
    init: Callable[[int, Batch], TrainState]
    make_train_step: Callable[[str | None], TrainStep]


@dataclasses.dataclass(frozen=True)
class Experiment(Step):
    """Everything that a config describes, ready to run.

    train_loader: the training examples.
    eval_loaders: name of the evaluation -> its examples.
    evaluators: figures of whole datasets beside the task's metrics.
    warm_start: the parameters that the run starts from; None if it starts from new ones.
    """

    train_loader: Loader
    eval_loaders: dict[str, Loader]
    evaluators: Evaluators
    warm_start: WarmStart | None

    def prepare_state(self, state: TrainState) -> tuple[TrainState, list[str]]:
        """Put what is taken over from trained models into a new run's state, and says so in lines for the log."""
        lines = []
        if self.warm_start is not None:
            state = self.warm_start.apply(state)
            lines.append(str(self.warm_start.report))
        for name, companion in self.problem.companions.items():
            state = state.replace(companions={**state.companions, name: companion.params})
            lines.append(str(companion))
        return state, lines


def experiment(config: Any, *, saved_info: Info | None = None) -> Experiment:
    """Build what a whole config describes.

    Args:
        config: a ConfigDict with the keys of configs/common.py.
        saved_info: info of the run's own checkpoint if there is one; the source that the run once started from, and its
            companions', are then not needed any more.

    Raises:
        InputError: a name or value that is not valid.
    """
    _check_values(config)
    opened = _open_init(config) if config.init.source and saved_info is None else None
    data = data_.open_data(config.data, opened.info if opened else saved_info if config.init.source else None)
    step = _step(config, data, opened=opened, saved_info=saved_info, count=data.class_counts)
    return Experiment(
        **vars(step),
        train_loader=data.train_loader(),
        eval_loaders=data.eval_loaders(config.evaluation.splits.to_dict(), step.problem.task.fields),
        evaluators=evaluators(config.evaluation, step.problem.task, data),
        warm_start=_warm_start(config.init, opened, step) if opened else None,
    )


def step_alone(config: Any, source: Source | None = None) -> Step:
    """Build what the train step is made of, without reading examples.

    Args:
        config: a ConfigDict with the keys of configs/common.py.
        source: a stand-in for what is trained on; None opens the config's data.

    Raises:
        InputError: a name or value that is not valid.
    """
    _check_values(config)
    opened = _open_init(config) if config.init.source else None
    data = data_.open_data(config.data, opened.info if opened else None, source=source)
    return _step(config, data, opened=opened, saved_info=None)


def evaluators(section: Any, task: Task, data: data_.Data) -> Evaluators:
    """Create what `config.evaluation.metrics` names, and opens the reference dataset if one of them learns from it.

    Args:
        section: `config.evaluation`.
        task: the model's.
        data: the config's.

    Raises:
        InputError: an unknown name or option, or an evaluator that cannot judge the task.
    """
    each = []
    for name, options in section.metrics.items():
        each.append(plugins.create_evaluator(name, task.fields, **options))
        each[-1].check(task)
    if not any(evaluator.uses_reference for evaluator in each):
        return Evaluators(each)
    reference = data.reference_loader(section.reference_split, section.reference_examples, task.fields)
    return Evaluators(each, reference)


def _check_values(config: Any) -> None:
    """Check the numbers that no part owns.

    Raises:
        InputError: one is out of its range.
    """
    for key in ("batch_size", "max_skipped_steps", "log_every_steps", "evaluation.batch_size"):
        section, _, name = key.rpartition(".")
        value = (config[section] if section else config)[name]
        if value < 1:
            raise InputError(f"{key} is {value}; valid: 1 or more")
    for key in ("checkpoint.every_steps", "evaluation.every_steps"):
        section, _, name = key.rpartition(".")
        if config[section][name] < 0:
            raise InputError(f"{key} is {config[section][name]}; valid: 0 or more")
    if not 0 <= config.seed < 2**63:
        raise InputError(f"seed is {config.seed}; valid: 0 or more, below 2**63")
    if not math.isfinite(config.num_epochs):
        raise InputError(f"num_epochs is {config.num_epochs}; valid: a finite number above 0")
    if not 0.0 <= config.ema_decay < 1.0:
        raise InputError(f"ema_decay is {config.ema_decay}; valid: at least 0 (none) and less than 1")


def _step(
    config: Any,
    data: data_.Data,
    *,
    opened: Opened | None,
    saved_info: Info | None,
    count: Callable[[str], Sequence[int]] | None = None,
) -> Step:
    base = opened.info if opened else saved_info if config.init.source else None
    task = _task(config.task, data.fields, base)
    task = task if count is None else task.for_data(count)
    described, fields = plugins.describe(task.inference()), task.inference().fields
    keeps = opened is None or keeps_head(config.init.head, opened.info, described, fields)
    info = new_info(
        model=_model_info(config.model, base, keeps),
        task=described,
        fields=fields,
        preprocessing=dataclasses.asdict(data.preprocessing),
        optimizer=config.optimizer.name,
        num_examples=len(data.source),
    )
    options = _given(config.model.options)
    execution = {key: value for key, value in options.items() if key in EXECUTION}
    model_info = info["model"]
    encoder: Any = plugins.create_encoder(
        model_info["name"], model_info["variant"], **model_info["options"] | execution
    )
    _warn_of_rest(encoder, data.preprocessing.image_size)
    saved = None if saved_info is None else saved_info.get("companions")
    companions = companions_.open_companions(task, data.preprocessing, saved=saved, dtype=options.get("dtype"))
    if companions.info:
        info["companions"] = companions.info
    problem = Problem(task.wrap(encoder), task, data.prepare, companions.models)
    total_steps = _total_steps(config, len(data.source))
    example = data.example()
    optimizer_ = _optimizer(config.optimizer, total_steps, encoder, traced(problem, example).roles)
    return Step(
        problem=problem,
        optimizer=optimizer_,
        example=example,
        total_steps=total_steps,
        info=info,
        init=make_init(problem, optimizer_, moving_average=config.ema_decay > 0),
        make_train_step=lambda axis_name: make_train_step(
            problem,
            optimizer_,
            ema_decay=config.ema_decay,
            accumulate_steps=config.accumulate_steps,
            log_every_steps=config.log_every_steps,
            max_skipped_steps=config.max_skipped_steps,
            axis_name=axis_name,
        ),
    )


def _warn_of_rest(encoder: Any, image_size: tuple[int, int]) -> None:
    """Warn of pixels that no patch covers; published models are used so, but in a new one it is rarely meant."""
    rows, columns = (side - part for side, part in zip(image_size, extent_of(encoder, image_size), strict=True))
    if rows > 0 or columns > 0:
        warnings.warn(
            f"data.image_size is {image_size[0]}x{image_size[1]} px, of which the model's patches leave out the last "
            f"{max(rows, 0)} rows and {max(columns, 0)} columns",
            stacklevel=2,
        )


def _open_init(config: Any) -> Opened:
    init, data = config.init, config.data
    return open_trained(
        init.source,
        step=int(init.step) if init.step.isdigit() else init.step,
        revision=init.revision,
        num_heads=init.num_heads,
        image_size=data.image_size,
        channels=data.channels,
    )


def _warm_start(init: Any, opened: Opened, step: Step) -> WarmStart:
    return warm_start(opened, traced(step.problem, step.example), step.info, head=init.head, allow=init.allow)


def traced(problem: Problem, example: Batch) -> Traced:
    """Trace shapes and roles of the parameters of a problem's model; nothing is computed."""

    def make() -> Any:
        return problem.task.initialise(problem.model, jax.random.key(0), problem.prepare(None, example))["params"]

    return trace(make)


def _model_info(section: Any, base: Info | None, keeps_head: bool) -> dict[str, Any]:
    """Return family, variant and options: the config's, and where it leaves them open those of init.source."""
    given = {"name": section.name, "variant": section.variant}
    own = {key: value for key, value in _given(section.options).items() if key not in EXECUTION}
    if base is None:
        for key, value in given.items():
            if value is None:
                raise InputError(f"model.{key} is not set; valid: one of `list_models`, or a run with init.source")
        return given | {"options": own}
    theirs = base["model"]
    for key, value in given.items():
        if value not in (None, theirs[key]):
            raise InputError(
                f"model.{key} is {value!r}, but init.source is {theirs[key]!r}; valid: {theirs[key]!r}, or leave "
                f"model.{key} unset to inherit it"
            )
    # How a model was regularised in its training is no part of it, and a pre-logits layer is part of the head.
    left = {*REGULARISATION, *(() if keeps_head else ("representation_size",))}
    options = {key: value for key, value in theirs["options"].items() if key not in left}
    return {key: theirs[key] for key in given} | {"options": options | own}


def _task(section: Any, fields: Fields, base: Info | None) -> Task:
    """Create the task; options that say what the model is are those of init.source unless they are given."""
    before = base["task"]["options"] if base and base["task"] else {}
    inherited = plugins.options_class("task", section.name).model_options
    options = {name: before[name] for name in inherited if name in before} | _given(section.options)
    return plugins.create_task(section.name, fields, **options)


def _optimizer(options: Any, total_steps: int, encoder: Any, roles: Roles) -> optimizer.Optimizer:
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
        roles=roles,
        **{name: options[name] for name in names},
    )


def layers_of(encoder: Any) -> optimizer.Layers | None:
    """Return the order of a model's parameters, its head last; None for an encoder that tells no layers apart."""
    if not hasattr(encoder, "layer_number"):
        return None

    def number(path: str) -> int:
        inside = path.startswith("encoder/")
        return encoder.layer_number(path.removeprefix("encoder/")) if inside else encoder.depth + 1

    return optimizer.Layers(encoder.depth, number)


def _total_steps(config: Any, num_examples: int) -> int:
    steps = config.num_steps
    if steps is None:
        steps = round(config.num_epochs * num_examples / config.batch_size)
    if steps < 1:
        raise InputError(
            f"num_steps {config.num_steps} (or num_epochs {config.num_epochs} of {num_examples} examples) "
            f"gives {steps} steps; valid: 1 or more"
        )
    return steps


def _given(options: Any) -> dict[str, Any]:
    """Return the options of a section that are set."""
    return {key: value for key, value in options.to_dict().items() if value is not None}
