"""Options on the command line: found by their owners, read by their types, refused by name."""

import pytest
from conftest import small_config

from configs.common import unset
from vit_jax.cli.option_flags import Change, apply, take
from vit_jax.errors import InputError


def changed(*arguments, **changes):
    """The config after a command line, of which nothing may be left."""
    config = small_config(**changes)
    rest, found = take([f"--config.{argument}" for argument in arguments])
    assert rest == []
    apply(config, found)
    assert config.is_locked
    return config


def test_only_changes_of_options_are_taken():
    arguments = ["train.py", "--config=configs/digits.py", "--config.model.variant=S/16", "stray"]
    options = ["-config.model.options.drop_path", "0.1", "--config.evaluation.metrics=knn"]
    rest, changes = take([*arguments, *options, "--workdir=a=b"])
    assert rest == [*arguments, "--workdir=a=b"]
    assert changes == [Change("model.options", "drop_path", "0.1"), Change("evaluation.metrics", "", "knn")]
    assert [change.name for change in changes] == ["model.options.drop_path", "evaluation.metrics"]


@pytest.mark.parametrize("rest", [[], ["--workdir=a"]])
def test_a_change_without_a_value_is_refused(rest):
    message = r"^--config.task.options.kind has no value; valid: --config.task.options.kind=VALUE$"
    with pytest.raises(InputError, match=message):
        take(["--config.task.options.kind", *rest])


@pytest.mark.parametrize(
    ("argument", "section", "expected"),
    [
        ("model.options.drop_path=0.2", "model", 0.2),
        ("model.options.drop_path=0", "model", 0.0),
        ("model.options.depth=3", "model", 3),
        ("model.options.scan=True", "model", True),
        ("model.options.pooling=token", "model", "token"),
        ("model.options.representation_size=none", "model", None),
        ("model.options.representation_size=64", "model", 64),
        ("task.options.label_smoothing=1e-1", "task", 0.1),
        ("task.options.distillation_head=false", "task", False),
    ],
)
def test_values_are_read_by_the_options_type(argument, section, expected):
    value = changed(argument)[section].options[argument.partition("=")[0].rpartition(".")[2]]
    assert value == expected and type(value) is type(expected)


def test_the_last_value_counts_whatever_its_type_was():
    config = changed("model.options.drop_path=0.2", "model.options.drop_path=0.1", model__options__drop_path=1)
    assert config.model.options.drop_path == 0.1


def test_the_owner_is_the_one_that_the_config_names():
    assert changed("task.options.kind=soft", task__name="distillation").task.options.kind == "soft"
    with pytest.raises(InputError, match=r"^task 'classification' has no option 'kind'"):
        changed("task.options.kind=soft")


def test_options_of_a_family_that_the_source_will_tell_are_taken_as_they_look():
    config = small_config()
    with config.unlocked():
        unset(config.model, "name")
    apply(config, take(["--config.model.options.depth=3", "--config.model.options.pooling=gap"])[1])
    assert (config.model.options.depth, config.model.options.pooling) == (3, "gap")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.options.drop_pth=0.1", "model 'vit' has no option 'drop_pth'; nearest: 'drop_path'; valid: .*dtype"),
        ("task.options.label_smoothin=0", "task 'classification' has no option .*; nearest: 'label_smoothing'; valid"),
        ("model.options.depth=many", "model.options.depth is 'many'; valid: a whole number"),
        ("model.options.depth=1.5", "model.options.depth is '1.5'; valid: a whole number"),
        ("model.options.depth=none", "model.options.depth is 'none'; valid: a whole number"),
        ("model.options.drop_path=true", "model.options.drop_path is 'true'; valid: a number"),
        ("model.options.scan=1", "model.options.scan is '1'; valid: true, false"),
        ("evaluation.metrics=confusin", "unknown metric 'confusin' .did you mean 'confusion'..; valid: "),
        ("evaluation.metrics.knn.kk=3", "metric 'knn' has no option 'kk'; .*valid: k"),
        ("evaluation.metrics.knn=3", "evaluation.metrics.knn is '3'; valid: true, false, or .*knn.OPTION=VALUE"),
        ("evaluation.metrics.confusion.x=3", "metric 'confusion' has no option 'x'; it has no options"),
        ("data.augment.flop=true", "unknown augmentation 'flop' .did you mean 'flip'..; valid: "),
        ("data.augment.shift.pixel=1", "augmentation 'shift' has no option 'pixel'; nearest: 'pixels'"),
        ("data.augment.shift.pixels=far", "data.augment.shift.pixels is 'far'; valid: a whole number"),
    ],
)
def test_what_is_not_valid_is_refused_in_one_line(argument, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        changed(argument)
    assert "\n" not in str(caught.value)


def test_evaluators_come_and_go():
    config = changed("evaluation.metrics=confusion,knn", "evaluation.metrics.knn.k=7")
    assert config.evaluation.metrics.to_dict() == {"confusion": {}, "knn": {"k": 7}}
    assert changed("evaluation.metrics.probe=true").evaluation.metrics.to_dict() == {"probe": {}}
    on = {"evaluation__metrics": {"confusion": {}, "knn": {"k": 7}}}
    assert list(changed("evaluation.metrics.knn=false", **on).evaluation.metrics) == ["confusion"]
    for none in ("none", ""):
        assert changed(f"evaluation.metrics={none}", **on).evaluation.metrics.to_dict() == {}
    assert changed("evaluation.metrics.knn=true", **on).evaluation.metrics.knn.k == 7


def test_augmentations_come_and_go():
    config = changed("data.augment.flip=true", "data.augment.shift.pixels=3", data__augment={"shift": {"pixels": 1}})
    assert config.data.augment.to_dict() == {"flip": {}, "shift": {"pixels": 3}}
    assert changed("data.augment.flip=false", data__augment={"flip": {}}).data.augment.to_dict() == {}
    assert changed("data.augment.flip=false", data__augment={}).data.augment.to_dict() == {}
    mixed = changed("data.augment.mix.mixup_alpha=1", data__augment={}).data.augment.to_dict()
    assert mixed == {"mix": {"mixup_alpha": 1.0}} and type(mixed["mix"]["mixup_alpha"]) is float
