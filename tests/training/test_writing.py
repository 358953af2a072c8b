"""Saving and restoring: exact, the last and the best, past what is half-written, never another model's."""

import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.errors import InputError
from vit_jax.info import new_info
from vit_jax.training.checkpoints import reading
from vit_jax.training.checkpoints.writing import Checkpoints
from vit_jax.types import Field, TrainState, class_fields

MODEL = {
    "model": {"name": "vit", "variant": "Ti/2", "options": {"depth": 1}},
    "task": {"name": "classification", "options": {}},
    "preprocessing": {"image_size": [4, 4]},
}


def info_of(*names, **changes):
    """An info as JSON gives it back."""
    return json.loads(json.dumps(new_info(**MODEL | {"fields": class_fields(names)} | changes)))


INFO = info_of("cat", "dog")


def state(step, width=3, ema=True, **parts):
    rng = np.random.default_rng(step)
    params = {"dense": {"kernel": rng.normal(size=(2, width)).astype(np.float32), "bias": np.zeros(width, np.float32)}}
    return TrainState(
        step=np.int32(step),
        params=params,
        opt_state=jax.device_get(optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam()).init(params)),
        ema_params=jax.tree.map(lambda x: x + 1, params) if ema else None,
        key=np.array([1, step], np.uint32),
        sums={"loss": (np.float32(step), np.float32(2))},
        skipped=np.int32(0),
        skipped_in_row=np.int32(0),
        nonfinite_leaf=np.int32(-1),
        **parts,
    )


def parts(number=0):
    """Variables and companions."""
    mean = np.array([number, 1.5], np.float32)
    companions = {
        "teacher": {"head": {"kernel": np.full((2, 2), number, np.float32)}},
        "tokenizer": {"codes": np.arange(number, number + 3, dtype=np.float32)},
    }
    return {"variables": {"batch_stats": {"norm": {"mean": mean}}}, "companions": companions}


def save(directory, step, what, info=INFO, **options):
    with Checkpoints(directory, **options) as checkpoints:
        checkpoints.save(step, what, info, None)
        checkpoints.wait()


def saved(directory, steps, metrics=None, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), INFO, metrics and {"test/loss": metrics[step]})
        checkpoints.wait()
    return reading.steps_in(directory)


def items_in(directory, step):
    """Names of the items of a checkpoint."""
    return {path.name for path in (directory / str(step)).iterdir() if path.is_dir()}


def restore(directory, template=None, info=INFO, max_step=100):
    with Checkpoints(directory) as checkpoints:
        shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, template or state(0)))
        return checkpoints.restore(shapes, info, max_step=max_step)


def truncate(directory: pathlib.Path):
    for file in directory.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:7])


def test_what_was_saved_comes_back_bitwise(tmp_path):
    saved(tmp_path, [7])
    restored = restore(tmp_path)
    assert (restored.step, restored.notes) == (7, ())
    chex.assert_trees_all_equal(restored.state, state(7))
    assert jax.tree.structure(restored.state) == jax.tree.structure(state(7))


def test_variables_and_companions_come_back_and_are_items_of_their_own(tmp_path):
    before = state(7, **parts(4))
    save(tmp_path, 7, before)
    assert {"params", "ema_params", "variables", "companions", "rest", "info"} <= items_in(tmp_path, 7)
    restored = restore(tmp_path, state(0, **parts())).state
    chex.assert_trees_all_equal(restored, before)
    assert jax.tree.structure(restored) == jax.tree.structure(before)


def test_what_is_empty_is_no_item(tmp_path):
    save(tmp_path, 7, state(7, ema=False))
    assert {"params", "rest", "info"} <= items_in(tmp_path, 7)
    assert not {"ema_params", "variables", "companions"} & items_in(tmp_path, 7)


def test_other_companions_or_variables_are_named(tmp_path):
    save(tmp_path, 7, state(7, **parts()))
    with pytest.raises(InputError, match=r"companions/teacher/head/kernel is float32 \(2, 2\) there and missing here"):
        restore(tmp_path, state(0, variables=parts()["variables"]))
    with pytest.raises(InputError, match=r"variables/batch_stats/norm/mean is float32 \(2,\) there and missing here"):
        restore(tmp_path, state(0, companions=parts()["companions"]))


def test_a_moment_in_bfloat16_stays_in_it(tmp_path):
    moment = np.array([1.5, -3e-9, 1e30]).astype(jnp.bfloat16)
    before = state(7).replace(opt_state={"mu": moment})
    save(tmp_path, 7, before)
    after = restore(tmp_path, before).state.opt_state["mu"]
    assert after.dtype == jnp.bfloat16 and after.tobytes() == moment.tobytes()
    with pytest.raises(InputError, match=r"opt_state/mu is bfloat16 \(3,\) there and float32 \(3,\) here"):
        restore(tmp_path, before.replace(opt_state={"mu": moment.astype(np.float32)}))


def test_nothing_there_is_none(tmp_path):
    assert restore(tmp_path) is None


def test_the_last_ones_stay(tmp_path):
    assert saved(tmp_path, [1, 2, 3, 4], keep_last=2) == [3, 4]


@pytest.mark.parametrize(("mode", "kept"), [("min", 2), ("max", 1)])
def test_the_best_stays_too_even_over_a_restart(tmp_path, mode, kept):
    metrics = {1: 0.9, 2: 0.1, 3: float("nan"), 4: 0.6}
    options = {"best_metric": "test/loss", "best_mode": mode, "known_metrics": ["test/loss"]}
    saved(tmp_path, [1, 2, 3], metrics, **options)
    assert saved(tmp_path, [4], metrics, **options) == [kept, 4]
    assert reading.best_step(tmp_path) == kept


def test_saving_a_step_again_does_nothing(tmp_path):
    assert saved(tmp_path, [1, 1]) == [1]


def test_a_step_that_cannot_be_read_is_put_aside_and_the_one_before_taken(tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    truncate(tmp_path / "2")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    restored = restore(tmp_path)
    assert restored.step == 1
    assert any("removed the half-written checkpoint 3" in note for note in restored.notes)
    assert any("checkpoint 2 is incomplete or damaged" in note and "unreadable-2" in note for note in restored.notes)
    assert saved(tmp_path, [2], keep_last=2) == [1, 2]


@pytest.mark.parametrize("missing", ["info", "params", "rest"])
def test_a_step_with_a_part_missing_is_not_restored(tmp_path, missing):
    saved(tmp_path, [1, 2], keep_last=2)
    for file in sorted((tmp_path / "2" / missing).rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    assert restore(tmp_path).step == 1


def test_if_none_can_be_read_all_stay_where_they_are(tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    truncate(tmp_path)
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read"):
        restore(tmp_path)
    assert reading.steps_in(tmp_path) == [1, 2]


def test_another_model_is_refused_by_name(tmp_path):
    saved(tmp_path, [5])
    other = INFO | {"model": {"name": "vit", "variant": "Ti/2", "options": {"depth": 2}}}
    with pytest.raises(InputError, match=r"model.depth is 1 there and 2 here.*bias is float32 \(3,\) there"):
        restore(tmp_path, state(0, width=4), other)
    with pytest.raises(InputError, match=r"ema_params.*missing here"):
        restore(tmp_path, state(0, ema=False))
    assert reading.steps_in(tmp_path) == [5]


def test_a_checkpoint_from_beyond_the_end_is_refused(tmp_path):
    saved(tmp_path, [5])
    with pytest.raises(InputError, match="holds checkpoint 5, but the config ends at step 4"):
        restore(tmp_path, max_step=4)


def test_inference_reads_the_moving_average_the_variables_and_the_info(tmp_path):
    before = state(5, **parts(3))
    save(tmp_path / "checkpoints", 5, before)
    model = reading.read_model(tmp_path)
    chex.assert_trees_all_equal(model.params, before.ema_params)
    chex.assert_trees_all_equal(model.variables, before.variables)
    assert (model.step, model.info) == (5, INFO)


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"best_mode": "least"}, {"best_metric": "test/acuracy"}])
def test_refusals(tmp_path, options):
    with pytest.raises(InputError, match=next(iter(options))):
        Checkpoints(tmp_path, **options)


def test_other_classes_are_refused_by_name(tmp_path):
    save(tmp_path, 5, state(5))
    with pytest.raises(InputError, match="other classes: class 0 is 'cat' there and 'ant' here"):
        restore(tmp_path, info=info_of("ant", "dog"))
    with pytest.raises(InputError, match="class 2 is None there and 'emu' here; the data has gained 'emu'; valid: the"):
        restore(tmp_path, info=info_of("cat", "dog", "emu"))
    with pytest.raises(
        InputError, match=r"class 0 .*; the data has gained 'Cat' and has lost 'cat'; 'Cat' looks like 'cat'"
    ):
        restore(tmp_path, info=info_of("Cat", "dog"))
    with pytest.raises(InputError, match="the data has them in another order"):
        restore(tmp_path, info=info_of("dog", "cat"))


def test_classes_that_came_are_named_although_the_head_has_another_size(tmp_path):
    save(tmp_path, 5, state(5))
    with pytest.raises(InputError, match=r"of other classes: .*; the data has gained 'emu'; valid"):
        restore(tmp_path, template=state(0, width=4), info=info_of("cat", "dog", "emu"))


def test_a_class_in_another_unicode_form_is_the_same(tmp_path):
    save(tmp_path, 5, state(5), info_of("cafe\u0301", "tea"))
    assert restore(tmp_path, info=info_of("caf\u00e9", "tea")).step == 5


def test_of_several_fields_with_classes_the_one_that_differs_is_named(tmp_path):
    def of(*names):
        fields = {"mask": Field("mask", (None, None), names=names), **class_fields(["cat"])}
        return json.loads(json.dumps(new_info(**MODEL, fields=fields)))

    save(tmp_path, 5, state(5), of("sky", "road"))
    with pytest.raises(InputError, match="other classes: class 1 of 'mask' is 'road' there and 'sea' here"):
        restore(tmp_path, info=of("sky", "sea"))
    assert restore(tmp_path, info=of("sky", "road")).step == 5


def test_the_size_of_the_images_may_change(tmp_path):
    save(tmp_path, 5, state(5))
    fields = class_fields(["cat", "dog"]) | {"image": Field("image", (8, 8, 3), "float32")}
    assert restore(tmp_path, info=info_of(fields=fields)).step == 5


def test_another_number_of_examples_is_told(tmp_path):
    save(tmp_path, 5, state(5), INFO | {"num_examples": 8})
    note = "there are 7 examples to train on, not 8: their order is another one from here"
    assert restore(tmp_path, info=INFO | {"num_examples": 7}).notes == (note,)
    assert restore(tmp_path, info=INFO | {"num_examples": 8}).notes == ()


def test_a_later_versions_checkpoint_is_refused(tmp_path):
    save(tmp_path, 5, state(5), INFO | {"format": 99})
    with pytest.raises(InputError, match=r"5 cannot be read: its info has format 99, which a later version"):
        restore(tmp_path)
    assert reading.steps_in(tmp_path) == [5]


def test_a_converted_model_is_no_training_to_continue(tmp_path):
    reading.write_params(tmp_path, 0, state(0).params, INFO)
    with pytest.raises(InputError, match="holds the parameters of a converted model"):
        restore(tmp_path)
