"""Options: what is taken as plain Python, what is refused, and what each one means."""

import dataclasses
import importlib
import inspect
import pkgutil

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import vit_jax.models
from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.models import pvt, swin, vit

FAMILIES = [module.name for module in pkgutil.iter_modules(vit_jax.models.__path__)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (jnp.bfloat16, "bfloat16"),
        (np.float32, "float32"),
        (np.dtype("float32"), "float32"),
        (jnp.dtype("bfloat16"), "bfloat16"),
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (jnp.int32(4), 4),
        (np.array(0.25), 0.25),
        (np.array([8, 4]), (8, 4)),
        (jnp.array([[7, 7], [3, 3]]), ((7, 7), (3, 3))),
        (np.str_("exact"), "exact"),
        ([1, [np.int8(2), 3]], (1, (2, 3))),
        ("exact", "exact"),
        (None, None),
        (True, True),
        (int, int),
    ],
    ids=str,
)
def test_values_become_plain(value, expected):
    result = options.plain(value)
    assert result == expected and type(result) is type(expected)


def test_a_long_value_is_shortened_in_a_message():
    assert options.short([1, "a"]) == "[1, 'a']"
    assert options.short("x" * 1000, 9) == "'xxxxxxxx..."
    assert options.short(10**5000) == "a value of type int that is too large to be shown"
    with pytest.raises(InputError, match=r"depth is 'x{99}\.\.\.; valid: 1 or more"):
        vit.create("Ti/16", depth="x" * 10**5)


def test_models_take_what_numpy_jax_and_configs_hold():
    given = vit.create(
        "Ti/16", dtype=jnp.bfloat16, depth=np.int64(2), drop_path=jnp.float32(0.5), patch_size=[8, 4], qk_norm=np.True_
    )
    assert given == vit.create("Ti/16", dtype="bfloat16", depth=2, drop_path=0.5, patch_size=(8, 4), qk_norm=True)
    assert vit.create("Ti/16", patch_size=jnp.array([8, 4])) == vit.create("Ti/8x4")
    config = ml_collections.ConfigDict({"depths": (1, 1, 1, 1), "num_heads": [1, 2, 5, 8]})
    assert pvt.create("B0", **config) == pvt.create("B0", depths=(1, 1, 1, 1), num_heads=(1, 2, 5, 8))
    assert swin.create("T/7", window_size=[[7, 7], 7, 7, [7, 7]]) == swin.create("T/7")


@dataclasses.dataclass
class Owner:
    """Something with options.

    width: of it, in
        metres.
    depth: of it.

    Note: width: is no entry here.
    """

    width: int
    depth: int = 1
    bare: bool = False


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"^owner has no option 'widht'; nearest: 'width'; valid: width, depth, bare$"):
        options.check_options("owner", Owner, {"widht": 1})
    with pytest.raises(InputError, match=r"^owner has no option 'zzz'; valid: width, depth, bare$"):
        options.check_options("owner", Owner, {"zzz": 1})


def test_a_value_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"^model.options.width is 0; valid: 1 or more$"):
        options.check_options("owner", Owner, {"width": np.int32(0)}, {"width": options.COUNT})
    with pytest.raises(InputError, match=r"^model.options.bare is 1; valid: True, False$"):
        options.check_options("owner", Owner, {"bare": 1})


def test_meanings_are_read_from_the_docstring():
    assert options.meanings(Owner) == {"width": "of it, in metres.", "depth": "of it."}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_option_of_every_family_has_a_meaning(family):
    module = inspect.signature(importlib.import_module(f"vit_jax.models.{family}").create).return_annotation
    assert list(options.meanings(module)) == options.names_of(module)
