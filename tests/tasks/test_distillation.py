"""Distillation: losses by hand, masks, both heads, and eight images learned by heart from labels and a teacher."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import LABEL_FIELDS, LABELS, TaskRow, classification

from vit_jax.contracts import Forward
from vit_jax.errors import InputError
from vit_jax.models import vit
from vit_jax.tasks.distillation import Distillation, HeadLogits


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A companion that knows the eight images by the number in their first pixel."""

    def zeros(self):
        """No parameters."""
        return {}

    def apply(self, params, images):
        """Sure of the right class."""
        return 8.0 * jax.nn.one_hot(jnp.round((images[:, 0, 0, 0] + 1.0) * 127.5 / 32), 8)


ROW = TaskRow(LABEL_FIELDS, LABELS, {"teacher": "of this test"}, {"teacher": Teacher()})

distillation = functools.partial(classification, task=Distillation)

LOG = np.log
LABEL = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))
"""Logits whose softmax is 1/8, 2/8, 5/8."""
STUDENT = jnp.log(jnp.array([[1.0, 1.0, 2.0]]))
"""1/4, 1/4, 1/2; at temperature 1/2, 1/6, 1/6, 4/6."""
TEACHER = jnp.log(jnp.array([[3.0, 1.0, 0.5]]))
"""6/9, 2/9, 1/9; at temperature 1/2, 36/41, 4/41, 1/41."""
BATCH = {"label": jnp.array([2])}
OUTPUTS = HeadLogits(label=LABEL, distilled=STUDENT, teacher=TEACHER)


def tiny_encoder(**options):
    return vit.create("Ti/4", hidden_dim=16, depth=1, mlp_dim=32, num_heads=2, **options)


def random_batch(seed, size=4, num_classes=7):
    """Outputs of training, and a batch for them."""
    rng = np.random.default_rng(seed)
    label, distilled, teacher = rng.normal(size=(3, size, num_classes)).astype(np.float32)
    batch = {"label": rng.integers(0, num_classes, size)}
    return HeadLogits(label=label, distilled=distilled, teacher=teacher), batch


def test_the_hard_loss_by_hand():
    loss = distillation(3, teacher_weight=0.25).loss(OUTPUTS, BATCH)
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
    task = distillation(3, kind="soft", temperature=temperature, teacher_weight=0.1)
    np.testing.assert_allclose(task.loss(OUTPUTS, BATCH), [-0.9 * LOG(5 / 8) + 0.1 * divergence], rtol=1e-5)


def test_labels_are_smoothed_and_the_teachers_choice_is_not():
    smoothed = classification(3, label_smoothing=0.3).loss(LABEL, BATCH)
    task = distillation(3, label_smoothing=0.3)
    np.testing.assert_allclose(task.loss(OUTPUTS, BATCH), 0.5 * smoothed - 0.5 * LOG(1 / 4), rtol=1e-6)


def test_class_weights_weigh_the_teachers_part_too():
    task = distillation(3, teacher_weight=0.25, class_weights=(1.0, 1.0, 3.0))
    np.testing.assert_allclose(task.loss(OUTPUTS, BATCH), [3 * (-0.75 * LOG(5 / 8) - 0.25 * LOG(1 / 4))], rtol=1e-6)
    np.testing.assert_allclose(task.weight(BATCH), [3.0])
    assert task.inference().class_weights is task.evaluation().class_weights is None


def test_the_gradient_of_the_soft_loss_does_not_vanish_with_the_temperature():
    """That is what the temperature squared is for: far above the logits it tends to that of half the squared error."""
    task = distillation(3, kind="soft", temperature=1e3, teacher_weight=1.0)
    student, teacher = jnp.array([[1.0, -2.0, 1.0]]), jnp.array([[0.0, 3.0, -3.0]])

    def loss(logits):
        return task.loss(HeadLogits(label=logits, distilled=logits, teacher=teacher), BATCH).sum()

    np.testing.assert_allclose(jax.grad(loss)(student), (student - teacher) / 3, rtol=2e-2)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_weight_of_0_is_classification_and_a_teacher_that_agrees_costs_nothing(kind):
    outputs, batch = random_batch(0)
    alone = distillation(7, kind=kind, teacher_weight=0.0).loss(outputs, batch)
    np.testing.assert_allclose(alone, classification(7).loss(outputs.label, batch))
    sure = 1e3 * jax.nn.one_hot(batch["label"], 7)
    same = outputs.replace(distilled=sure, teacher=sure)
    loss = distillation(7, kind=kind, teacher_weight=1.0).loss(same, batch)
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_metrics_are_those_of_the_mean_of_both_heads_without_masked_rows():
    outputs = HeadLogits(
        label=jnp.array([[1.0, 0.0], [np.nan, 0.0]]),
        distilled=jnp.array([[0.0, 3.0], [0.0, np.nan]]),
        teacher=jnp.full((2, 2), np.nan),
    )
    batch = {"label": jnp.array([1, 1]), "is_example": jnp.array([1.0, 0.0])}
    assert distillation(2).metrics(outputs, batch, train=True) == {"accuracy": (1.0, 1.0)}


def test_outputs_of_evaluation_are_judged_as_classification():
    outputs, batch = random_batch(0)
    judged = distillation(7).metrics(outputs.label, batch, train=False)
    assert judged == classification(7).metrics(outputs.label, batch, train=False)
    np.testing.assert_array_equal(
        distillation(7).loss(outputs.label, batch), classification(7).loss(outputs.label, batch)
    )


def test_the_teacher_answers_in_training_only():
    """The teacher calls every image by the first class, as far as it is asked."""
    task = distillation(3)
    model, images = task.wrap(tiny_encoder()), jnp.ones((2, 8, 8, 3))
    params = model.init(jax.random.key(0), images, train=False)["params"]
    teacher = {"teacher": lambda images: jnp.tile(jnp.array([1.0, 0.0, 0.0]), (len(images), 1))}
    outputs, variables = task.forward(
        Forward(model, params, companions=teacher), {"image": images}, rngs={}, train=True
    )
    np.testing.assert_array_equal(outputs.teacher, [[1.0, 0.0, 0.0]] * 2)
    logits, _ = task.forward(Forward(model, params), {"image": images}, rngs={}, train=False)
    assert logits.shape == (2, 3) and variables == {}


@pytest.mark.parametrize("has_token", [True, False])
def test_the_model_is_a_classification_model_but_for_training(has_token):
    encoder = tiny_encoder(distillation_token=has_token)
    options = {"distillation_head": has_token, "head_bias": -1.0}
    model, plain = (make(5, **options).wrap(encoder) for make in (distillation, classification))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params, expected = (x.init(jax.random.key(1), images, train=False) for x in (model, plain))
    chex.assert_trees_all_equal(params, expected)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), params)
    logits = plain.apply(params, images, train=False)
    np.testing.assert_array_equal(model.apply(params, images, train=False), logits)
    heads = model.apply(params, images, train=True)
    np.testing.assert_allclose((heads.label + heads.distilled) / 2, logits, rtol=1e-6)
    assert np.array_equal(heads.label, heads.distilled) != has_token


@pytest.mark.parametrize(("teacher_weight", "reached"), [(0.0, "head"), (1.0, "head_distillation")])
def test_each_head_learns_from_its_own(teacher_weight, reached):
    task = distillation(5, teacher_weight=teacher_weight, distillation_head=True)
    model = task.wrap(tiny_encoder(distillation_token=True))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = model.init(jax.random.key(1), images, train=False)
    teacher = jax.nn.one_hot(jnp.array([2, 3]), 5)

    def loss(params):
        heads = model.apply(params, images, train=True)
        return task.loss(heads.replace(teacher=teacher), {"label": jnp.array([0, 1])}).mean()

    gradients = jax.grad(loss)(params)["params"]
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
    batch = {"label": jnp.arange(8)}
    optimizer = optax.adam(1e-2)

    def answers(params):
        return model.apply(params, images, train=True).replace(teacher=teacher)

    @jax.jit
    def init(key):
        params = model.init(key, images, train=False)
        return params, optimizer.init(params)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: task.loss(answers(p), batch).mean())(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params, state = init(jax.random.key(1))
    for _ in range(150):
        params, state = step(params, state)
    heads = answers(params)
    if has_token:
        np.testing.assert_array_equal(heads.label.argmax(-1), jnp.arange(8))
        np.testing.assert_array_equal(heads.distilled.argmax(-1), teacher.argmax(-1))
        assert task.loss(heads, batch).mean() < 0.1
    else:
        best = np.sort(np.argsort(heads.label, axis=-1)[:, -2:], axis=-1)
        np.testing.assert_array_equal(best, np.sort([(i, (i + 1) % 8) for i in range(8)], axis=-1))


def test_inference_is_a_classification_task_of_the_same_model():
    shared = {"label_smoothing": 0.1, "head_bias": -2.0, "distillation_head": True}
    task = distillation(5, **shared, kind="soft", teacher_weight=0.3)
    assert task.inference() == classification(5, **shared)


def test_the_teacher_is_a_companion_that_has_to_be_named():
    task = distillation(3, teacher="runs/a", teacher_step="7")
    assert task.companions() == {"teacher": {"source": "runs/a", "step": "7", "revision": None}}
    with pytest.raises(InputError, match=r"task.options.teacher is not set; valid for distillation: a work directory"):
        distillation(3).companions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_classes": "order"}, "task.options.teacher_classes is 'order'; valid: names, numbers"),
        ({"kind": "warm"}, "task.options.kind is 'warm'; valid: hard, soft"),
        ({"temperature": 0.0}, "task.options.temperature is 0.0; valid: above 0"),
        ({"temperature": np.inf}, "task.options.temperature is inf"),
        ({"teacher_weight": 1.5}, "task.options.teacher_weight is 1.5; valid: 0 to 1"),
        ({"loss_type": "sigmoid"}, "task.options.loss_type is 'sigmoid'; valid for distillation: softmax"),
        ({"label_smoothing": 1.0}, "task.options.label_smoothing is 1.0"),
    ],
)
def test_bad_option_is_refused_by_name_and_value(options, message):
    with pytest.raises(InputError, match=message):
        distillation(3, **options)


def test_a_token_that_nothing_would_teach_is_refused():
    with pytest.raises(InputError, match=r"distillation_token is True.*valid: task.options.distillation_head of True"):
        distillation(3).wrap(tiny_encoder(distillation_token=True))
    with pytest.raises(InputError, match=r"task.options.distillation_head needs model.options.distillation_token"):
        distillation(3, distillation_head=True).wrap(tiny_encoder())
