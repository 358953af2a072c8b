"""Matrix products are counted as by hand, and as the models' own formulas do."""

import jax
import jax.numpy as jnp
import pytest
from conftest import small_config, write_classifier
from families import TINY

from vit_jax.build import experiment as build
from vit_jax.build import plugins
from vit_jax.planning.flops import matrix_flops
from vit_jax.planning.trial import training_flops
from vit_jax.types import encoder_of


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_product_and_a_batched_one():
    assert matrix_flops(jnp.matmul, shape(2, 3), shape(3, 5)) == 2 * 2 * 3 * 5
    assert matrix_flops(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), shape(4, 2, 3), shape(4, 5, 3)) == 2 * 4 * 30
    assert matrix_flops(lambda a: a * a + a.sum(), shape(2, 3)) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution(groups):
    def convolve(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=dimensions, feature_group_count=groups
        )

    # Three by two places, each of 2 x 2 pixels, 4 / groups channels, 6 outputs.
    assert matrix_flops(convolve, shape(1, 6, 4, 4), shape(2, 2, 4 // groups, 6)) == 2 * 6 * 4 * (4 // groups) * 6


def test_loops_and_branches():
    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(jnp.matmul)(x, w), None), x, length=7)[0]

    def chosen(x, w):
        return jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x)

    assert matrix_flops(scanned, shape(2, 3), shape(3, 3)) == 7 * 2 * 18
    assert matrix_flops(chosen, shape(2, 3), shape(3, 3)) == 2 * 2 * 18


@pytest.mark.parametrize("family", sorted(TINY.keys() - {"pvt"}))  # pvt's formula counts its sums of shifts too
def test_it_agrees_with_the_formula(family):
    tiny = TINY[family]
    encoder = plugins.create_encoder(family, tiny.variant, **tiny.options)
    images = shape(1, *tiny.sizes[1], 3)
    variables = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), images)
    counted = matrix_flops(lambda variables, x: encoder.apply(variables, x, train=False), variables, images)
    assert counted == encoder.flops(tiny.sizes[1], 3)


def test_training_takes_three_forward_passes_and_one_of_each_companion(tmp_path):
    teacher = write_classifier(tmp_path / "teacher", "0123456789", mean=[0.25])
    config = small_config(task__name="distillation")
    with config.unlocked():
        config.task.options.teacher = str(teacher)
    step = build.step_alone(config)
    state = jax.eval_shape(lambda: step.init(0, step.example))
    student, companion = encoder_of(step.problem.model), step.problem.companions["teacher"]
    head = 2 * 16 * 10
    expected = 3 * (student.flops((8, 8), 1, patch_tokens=False) + head)
    expected += encoder_of(companion.model).flops((8, 8), 1, patch_tokens=False) + head
    assert training_flops(step.problem, state, step.example) == expected
