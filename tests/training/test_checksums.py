"""Damage that only a checksum shows: it is said, and the checkpoint before is used."""

import json
import shutil
import zlib

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from test_writing import INFO, parts, restore, save, saved, state

from vit_jax.errors import InputError
from vit_jax.training.checkpoints import checksums, digest, reading
from vit_jax.training.checkpoints.checksums import Checksums
from vit_jax.training.checkpoints.damage import Damaged
from vit_jax.training.checkpoints.writing import Checkpoints


def whole(array):
    return digest.part_digest(array, (0,) * array.ndim, array.shape)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int8, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(), (1,), (13,), (3, 5), (2, 3, 7), (4, 0)])
def test_every_bit_counts(shape, dtype):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    before = whole(array)
    for position in range(array.nbytes):
        for bit in range(1 if dtype is np.bool_ else 8):
            data = bytearray(array.tobytes())
            data[position] ^= 1 << bit
            assert whole(np.frombuffer(data, dtype).reshape(shape)) != before


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_digests_of_parts_add_up(dtype):
    array = np.random.default_rng(0).normal(size=(6, 5, 7)).astype(dtype)
    for axis in range(3):
        for cut in range(1, array.shape[axis]):
            first, second = np.split(array, [cut], axis)
            start = tuple(cut if i == axis else 0 for i in range(3))
            total = digest.part_digest(first, (0, 0, 0), array.shape) + digest.part_digest(second, start, array.shape)
            assert total % 2**64 == whole(array)


def test_places_count():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert len({whole(x) for x in (array, array[::-1], array[:, ::-1], array * 0, array.reshape(4, 3))}) == 5


@pytest.mark.parametrize("spec", [(None, None), ("x", None), (None, "x"), ("x", "y")])
def test_an_array_in_shards_has_the_digest_of_the_whole(spec):
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    array = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert digest.digests([placed]).tolist() == [whole(array)]


def replace_item(directory, name, step=2, by=1):
    shutil.rmtree(directory / str(step) / name)
    shutil.copytree(directory / str(by) / name, directory / str(step) / name)


@pytest.mark.parametrize("name", ["params", "ema_params", "rest"])
def test_arrays_that_are_not_what_was_saved_are_not_restored(name, tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    replace_item(tmp_path, name)
    restored = restore(tmp_path)
    assert restored.step == 1
    assert any(f"({name}/" in note and "is not what was saved); moved it to" in note for note in restored.notes)
    chex.assert_trees_all_equal(restored.state, state(1))


def empty_files(directory, name):
    for file in (directory / "2" / name / "ocdbt.process_0" / "d").iterdir():
        file.write_bytes(b"")


@pytest.mark.parametrize("damage", [replace_item, empty_files])
def test_nor_are_shards(damage, tmp_path):
    for step in (1, 2):
        save(tmp_path, step, state(step, width=300), keep_last=2)  # narrower ones are in an index
    damage(tmp_path, "ema_params")
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    kernel = jax.ShapeDtypeStruct((2, 300), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("x")))
    template = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state(0, width=300)))
    template = template.replace(ema_params={"dense": template.ema_params["dense"] | {"kernel": kernel}})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(template, INFO, max_step=9)
    assert restored.step == 1 and isinstance(restored.state.ema_params["dense"]["kernel"], jax.Array)


def test_nor_are_they_used_to_predict(tmp_path):
    for step in (1, 2):
        save(tmp_path / "checkpoints", step, state(step, **parts(step)), keep_last=2)
    replace_item(tmp_path / "checkpoints", "variables")
    with pytest.warns(UserWarning, match=r"damaged \(variables/.*/mean is not what was saved\); using"):
        model = reading.read_model(tmp_path)
    chex.assert_trees_all_equal(model.params, state(1).ema_params)


def test_the_parameters_do_not_stand_in_for_a_moving_average_that_is_lost(tmp_path):
    saved(tmp_path / "checkpoints", [1, 2], keep_last=2)
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "ema_params")
    with pytest.warns(UserWarning, match="2 is incomplete or damaged"):
        assert reading.read_model(tmp_path).step == 1
    assert restore(tmp_path / "checkpoints").step == 1


def test_an_info_that_is_not_what_was_saved_is_damage(tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    file = tmp_path / "2" / "info" / "metadata"
    file.write_text(file.read_text().replace("cat", "cow"))
    with pytest.raises(Damaged, match="its info is not what was saved"):
        reading.read_info(tmp_path, 2)
    assert reading.last_info(tmp_path) == INFO
    assert restore(tmp_path).step == 1


def test_names_types_and_shapes_are_compared_with_those_that_were_saved():
    sums = Checksums.of(1, {"params": state(1).params}, {}, None)
    sums.check_types("params", state(2).params)
    dense = state(1).params["dense"]
    for other in ({"kermel": dense["kernel"], "bias": dense["bias"]}, {"kernel": dense["kernel"]}, dense | {"a": 1.0}):
        with pytest.raises(Damaged, match="and was saved as"):
            sums.check_types("params", {"dense": jax.tree.map(np.asarray, other)})
    with pytest.raises(Damaged, match=r"kernel is int32 \(2, 3\), and was saved as float32 \(2, 3\)"):
        sums.check_types("params", {"dense": dense | {"kernel": dense["kernel"].astype(np.int32)}})


def test_damage_to_orbaxs_index_is_no_other_model(tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    file = tmp_path / "2" / "params" / "_METADATA"
    file.write_text(file.read_text().replace("kernel", "kermel"))
    assert restore(tmp_path).step == 1


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"crc32": 5}', '{"leaves": {"a": 1}}', "[" * 100_000, "\udcff"])
def test_checksums_that_are_damaged_are_damage(text, tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    (tmp_path / "2" / "checksums" / "metadata").write_text(text, errors="surrogateescape")
    assert restore(tmp_path).step == 1


def test_checksums_of_other_types_are_damage(tmp_path):
    saved(tmp_path, [1])
    content = {"step": 1, "leaves": {"a": 1}}
    content["crc32"] = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    (tmp_path / "1" / "checksums" / "metadata").write_text(json.dumps(content))
    with pytest.raises(Damaged, match="its checksums are none"):
        checksums.read(tmp_path / "1")


def test_a_checkpoint_under_another_number_is_damage(tmp_path):
    saved(tmp_path, [1])
    (tmp_path / "1").rename(tmp_path / "3")
    with pytest.raises(InputError, match="it is the checkpoint of step 1, which was renamed"):
        restore(tmp_path)


def test_a_checkpoint_of_an_older_version_has_none_and_is_read(tmp_path):
    saved(tmp_path / "checkpoints", [1])
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "checksums")
    chex.assert_trees_all_equal(restore(tmp_path / "checkpoints").state, state(1))
    assert reading.read_model(tmp_path).step == 1


def test_what_is_said_of_the_info_does_not_depend_on_the_order_of_keys():
    info = {"b": [1, (2, 3)], "a": {"x": None, "1": 2.5}}
    Checksums.of(1, {}, info, None).check_info({"a": {"1": 2.5, "x": None}, "b": [1, [2, 3]]})
