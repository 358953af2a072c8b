"""Reading a model back without its training state."""

import json
import subprocess
import sys

import chex
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.info import KEYS, new_info
from vit_jax.training.checkpoints import reading
from vit_jax.types import class_fields

INFO = new_info(
    model={"name": "vit", "variant": "Ti/2", "options": {"depth": 1}},
    task={"name": "classification", "options": {}},
    fields=class_fields(["cat", "dog"]),
    preprocessing={"image_size": [4, 4]},
    optimizer="adamw",
)
PARAMS = {"head": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
VARIABLES = {"batch_stats": {"mean": np.array([0.5, 2.0], np.float32)}}


def test_a_written_model_comes_back_without_what_only_a_run_needs(tmp_path):
    reading.write_params(tmp_path / "checkpoints", 3, PARAMS, INFO, variables=VARIABLES)
    model = reading.read_model(tmp_path)
    assert model.step == 3
    assert model.info == {key: json.loads(json.dumps(INFO))[key] for key in KEYS}
    chex.assert_trees_all_equal(model.params, PARAMS)
    chex.assert_trees_all_equal(model.variables, VARIABLES)


def test_a_model_without_variables_has_none(tmp_path):
    reading.write_params(tmp_path / "checkpoints", 0, PARAMS, INFO)
    assert reading.read_model(tmp_path).variables == {}
    items = {path.name for path in (tmp_path / "checkpoints" / "0").iterdir() if path.is_dir()}
    assert items == {"params", "info", "checksums"}


def test_the_last_step_that_can_be_read_is_used_with_a_warning(tmp_path):
    for step in (1, 2):
        reading.write_params(tmp_path / "checkpoints", step, PARAMS, INFO)
    (tmp_path / "checkpoints" / "2" / "info" / "metadata").write_text("{}")
    with pytest.warns(UserWarning, match="checkpoint 2 is incomplete .*; using checkpoint 1"):
        assert reading.read_model(tmp_path).step == 1
    assert reading.last_info(tmp_path / "checkpoints")["task"]["name"] == "classification"
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read: checkpoint 2 is incomplete"):
        reading.read_model(tmp_path, 2)


def test_a_step_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    with pytest.raises(InputError, match="is no work directory"):
        reading.read_model(tmp_path)
    assert reading.last_info(tmp_path / "checkpoints") is None
    reading.write_params(tmp_path / "checkpoints", 1, PARAMS, INFO)
    with pytest.raises(InputError, match=r"no checkpoint of step 7; valid: last, best, \[1\]"):
        reading.read_model(tmp_path, 7)
    with pytest.raises(InputError, match=r"no checkpoint of .* was saved with a metric to be best by"):
        reading.read_model(tmp_path, "best")


def test_a_later_versions_model_is_refused(tmp_path):
    reading.write_params(tmp_path / "checkpoints", 1, PARAMS, INFO | {"format": 99})
    with pytest.raises(InputError, match="format 99, which a later version of vit_jax wrote"):
        reading.read_model(tmp_path)


def test_reading_needs_no_optimizer_and_no_log():
    program = (
        "import sys; from vit_jax.training.checkpoints import reading;"
        "print([name for name in ('optax', 'tensorboardX', 'vit_jax.training.step') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
