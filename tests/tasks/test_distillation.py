"""Distillation: losses by hand, masks, both heads, and eight images learned by heart from labels and a teacher."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.errors import InputError
from vit_jax.models import vit
from vit_jax.tasks.classification import Classification
from vit_jax.tasks.distillation import Distillation, HeadLogits

LOG = np.log
LABEL = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))
"""Logits whose softmax is 1/8, 2/8, 5/8."""
STUDENT = jnp.log(jnp.array([[1.0, 1.0, 2.0]]))
"""1/4, 1/4, 1/2; at temperature 1/2, 1/6, 1/6, 4/6."""
TEACHER = jnp.log(jnp.array([[3.0, 1.0, 0.5]]))
"""6/9, 2/9, 1/9; at temperature 1/2, 36/41, 4/41, 1/41."""
BATCH = {"label": jnp.array([2]), "teacher_logits": TEACHER}


def tiny_encoder(**options):
    return vit.create("Ti/4", hidden_dim=16, depth=1, mlp_dim=32, num_heads=2, **options)


def random_batch(seed, size=4, num_classes=7):
    """Outputs of training, and a batch for them."""
    rng = np.random.default_rng(seed)
    label, teacher, student = rng.normal(size=(3, size, num_classes)).astype(np.float32)
    batch = {"label": rng.integers(0, num_classes, size), "teacher_logits": label}
    return HeadLogits(label=student, teacher=teacher), batch


def test_the_hard_loss_by_hand():
    outputs = HeadLogits(label=LABEL, teacher=STUDENT)
    loss = distillation(3, weight=0.25).loss(outputs, BATCH)
    chex.assert_shape(loss, (1,))
    chex.assert_type(loss, jnp.float32)
    np.testing.assert_allclose(loss, [-0.75 * LOG(5 / 8) - 0.25 * LOG(1 / 4)], rtol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "divergence"),
    [
        (1.0, 6 / 9 * LOG(6 / 9 * 4) + 2 / 9 * LOG(2 / 9 * 4) + 1 / 9 * LOG(1 / 9 * 2)),
        (0.5, 0.25 * (36 / 41 * LOG(36 / 41 * 6) + 4 / 41 * LOG(4 / 41 * 6) + 1 / 41 * LOG(1 / 41 * 6 / 4))),
    ],
)
def test_the_soft_loss_by_hand(temperature, divergence):
    outputs = HeadLogits(label=LABEL, teacher=STUDENT)
    task = distillation(3, kind="soft", temperature=temperature, weight=0.1)
    np.testing.assert_allclose(task.loss(outputs, BATCH), [-0.9 * LOG(5 / 8) + 0.1 * divergence], rtol=1e-5)


def test_labels_are_smoothed_and_the_teachers_choice_is_not():
    outputs = HeadLogits(label=LABEL, teacher=STUDENT)
    smoothed = classification(3, label_smoothing=0.3).loss(LABEL, BATCH)
    task = distillation(3, label_smoothing=0.3)
    np.testing.assert_allclose(task.loss(outputs, BATCH), 0.5 * smoothed - 0.5 * LOG(1 / 4), rtol=1e-6)


def test_the_gradient_of_the_soft_loss_does_not_vanish_with_the_temperature():
    """That is what the temperature squared is for: far above the logits it tends to that of half the squared error."""
    task = distillation(3, kind="soft", temperature=1e3, weight=1.0)
    student, teacher = jnp.array([[1.0, -2.0, 1.0]]), jnp.array([[0.0, 3.0, -3.0]])

    def loss(logits):
        return task.loss(HeadLogits(label=logits, teacher=logits), BATCH | {"teacher_logits": teacher}).sum()

    np.testing.assert_allclose(jax.grad(loss)(student), (student - teacher) / 3, rtol=2e-2)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_weight_of_0_is_classification_and_a_teacher_that_agrees_costs_nothing(kind):
    outputs, batch = random_batch(0)
    np.testing.assert_allclose(
        distillation(7, kind=kind, weight=0.0).loss(outputs, batch), classification(7).loss(outputs.label, batch)
    )
    sure = batch | {"teacher_logits": 1e3 * jax.nn.one_hot(batch["label"], 7)}
    same = outputs.replace(teacher=sure["teacher_logits"])
    np.testing.assert_allclose(distillation(7, kind=kind, weight=1.0).loss(same, sure), 0.0, atol=1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, 0.0])
def test_masked_rows_change_nothing(kind, poison):
    task = distillation(7, kind=kind, temperature=2.0)
    outputs, batch = random_batch(0)
    kept = jax.tree.map(lambda x: x[jnp.array([0, 2])], (outputs, batch))
    expected = task.metrics(*kept)
    for array in (outputs.label, outputs.teacher, batch["teacher_logits"]):
        array[[1, 3]] = poison
    mask = jnp.array([1.0, 0.0, 1.0, 0.0])
    metrics = task.metrics(outputs, batch | {"mask": mask})
    chex.assert_trees_all_close(metrics, expected, rtol=1e-6)
    assert list(metrics) == ["loss", "accuracy", "accuracy_top5"]
    assert metrics["loss"][0] == pytest.approx(float(task.loss(*kept).sum()), rel=1e-6)


def test_accuracy_is_that_of_the_mean_of_both_heads():
    outputs = HeadLogits(label=jnp.array([[1.0, 0.0]]), teacher=jnp.array([[0.0, 3.0]]))
    batch = {"label": jnp.array([1]), "teacher_logits": jnp.zeros((1, 2))}
    assert distillation(2).metrics(outputs, batch)["accuracy"] == (1.0, 1.0)


def test_outputs_of_evaluation_are_judged_as_classification():
    outputs, batch = random_batch(0)
    assert distillation(7).metrics(outputs.label, batch) == classification(7).metrics(outputs.label, batch)


@pytest.mark.parametrize("has_token", [True, False])
def test_the_model_is_a_classification_model_but_for_training(has_token):
    encoder = tiny_encoder(distillation_token=has_token)
    options = {"distillation_head": has_token, "head_bias": -1.0}
    model, plain = (task(5, **options).wrap(encoder) for task in (Distillation, Classification))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params, expected = (x.init(jax.random.key(1), images, train=False) for x in (model, plain))
    chex.assert_trees_all_equal(params, expected)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), params)
    logits = plain.apply(params, images, train=False)
    np.testing.assert_array_equal(model.apply(params, images, train=False), logits)
    heads = model.apply(params, images, train=True)
    np.testing.assert_allclose((heads.label + heads.teacher) / 2, logits, rtol=1e-6)
    assert np.array_equal(heads.label, heads.teacher) != has_token


@pytest.mark.parametrize(("weight", "reached"), [(0.0, "head"), (1.0, "head_distillation")])
def test_each_head_learns_from_its_own(weight, reached):
    task = distillation(5, weight=weight, distillation_head=True)
    model = task.wrap(tiny_encoder(distillation_token=True))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = model.init(jax.random.key(1), images, train=False)
    batch = {"label": jnp.array([0, 1]), "teacher_logits": jax.nn.one_hot(jnp.array([2, 3]), 5)}
    gradients = jax.grad(lambda p: task.loss(model.apply(p, images, train=True), batch).mean())(params)["params"]
    for head in ("head", "head_distillation"):
        assert bool(jnp.abs(gradients[head]["kernel"]).max() > 1e-6) == (head == reached)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("has_token", [True, False])
def test_eight_images_are_learned_by_heart(kind, has_token):
    task = distillation(8, kind=kind, distillation_head=has_token)
    model = task.wrap(tiny_encoder(distillation_token=has_token))
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    # The teacher calls every image by the next number, so that two heads come to disagree and one is torn.
    teacher = 8.0 * jax.nn.one_hot((jnp.arange(8) + 1) % 8, 8)
    batch = {"label": jnp.arange(8), "teacher_logits": teacher}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def init(key):
        params = model.init(key, images, train=False)
        return params, optimizer.init(params)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: task.loss(model.apply(p, images, train=True), batch).mean())(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params, state = init(jax.random.key(1))
    for _ in range(150):
        params, state = step(params, state)
    heads = model.apply(params, images, train=True)
    if has_token:
        np.testing.assert_array_equal(heads.label.argmax(-1), jnp.arange(8))
        np.testing.assert_array_equal(heads.teacher.argmax(-1), teacher.argmax(-1))
        assert task.loss(heads, batch).mean() < 0.1
    else:
        best = np.sort(np.argsort(heads.label, axis=-1)[:, -2:], axis=-1)
        np.testing.assert_array_equal(best, np.sort([(i, (i + 1) % 8) for i in range(8)], axis=-1))


def test_inference_is_a_classification_task_of_the_same_model():
    task = distillation(5, label_smoothing=0.1, head_bias=-2.0, distillation_head=True, kind="soft", weight=0.3)
    named = task.inference()
    assert named["name"] == "classification"
    assert classification(5, **named["options"]) == classification(
        5, label_smoothing=0.1, head_bias=-2.0, distillation_head=True
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "warm"}, "task.kind is 'warm'; valid: hard, soft"),
        ({"temperature": 0.0}, "task.temperature is 0.0; valid: above 0"),
        ({"temperature": np.inf}, "task.temperature is inf"),
        ({"weight": 1.5}, "task.weight is 1.5; valid: 0 to 1"),
        ({"loss_type": "sigmoid"}, "task.loss_type is 'sigmoid'; valid for distillation: softmax"),
        ({"label_smoothing": 1.0}, "task.label_smoothing is 1.0"),
    ],
)
def test_bad_option_is_refused_by_name_and_value(options, message):
    with pytest.raises(InputError, match=message):
        distillation(3, **options)


def test_a_token_that_nothing_would_teach_is_refused():
    with pytest.raises(InputError, match=r"model.distillation_token is True.*valid: task.distillation_head of True"):
        distillation(3).wrap(tiny_encoder(distillation_token=True))
    with pytest.raises(InputError, match=r"task.distillation_head needs model.distillation_token"):
        distillation(3, distillation_head=True).wrap(tiny_encoder())
