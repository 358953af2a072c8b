"""Classification: losses and metrics by hand, masks, the head, and eight images learned by heart."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import LABEL_FIELDS, LABELS, TaskRow, classification

from vit_jax.errors import InputError
from vit_jax.models.vit import create
from vit_jax.tasks.classification import Classification, Prediction
from vit_jax.types import Field, Placement

ROW = TaskRow(LABEL_FIELDS, LABELS)
LOG = np.log
THIRDS = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))
"""Logits whose softmax is 1/8, 2/8, 5/8."""
ODDS = jnp.log(jnp.array([[1.0, 1 / 3, 4.0]]))
"""Logits whose sigmoid is 1/2, 1/4, 4/5."""
SEVEN = jnp.array([[7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])


def tiny_model(task):
    return task.wrap(create("Ti/4", hidden_dim=16, depth=1, mlp_dim=32, num_heads=2))


def random_params(model, images):
    """Parameters drawn by NumPy, the head's too, which needs no compiling."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


def figures(task, logits, batch):
    """Each metric's (sum, count) as numbers."""
    return jax.tree.map(float, task.metrics(jnp.asarray(logits), batch, train=False))


@pytest.mark.parametrize(
    ("label", "smoothing", "expected"),
    [
        ([2], 0.0, -LOG(5 / 8)),
        ([0], 0.0, -LOG(1 / 8)),
        ([2], 0.3, -0.1 * LOG(1 / 8) - 0.1 * LOG(2 / 8) - 0.8 * LOG(5 / 8)),
        ([[0.25, 0.0, 0.75]], 0.0, -0.25 * LOG(1 / 8) - 0.75 * LOG(5 / 8)),
        ([[0.5, 0.0, 0.5]], 0.6, -0.4 * LOG(1 / 8) - 0.2 * LOG(2 / 8) - 0.4 * LOG(5 / 8)),
    ],
)
def test_softmax_loss_by_hand(label, smoothing, expected):
    loss = classification(3, label_smoothing=smoothing).loss(THIRDS, {"label": jnp.array(label)})
    chex.assert_shape(loss, (1,))
    chex.assert_type(loss, jnp.float32)
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


WEIGHTS = (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("label", "smoothing", "expected", "weight"),
    [
        ([2], 0.0, -4 * LOG(5 / 8), 4.0),
        ([0], 0.0, -LOG(1 / 8), 1.0),
        ([[0.25, 0.0, 0.75]], 0.0, -0.25 * LOG(1 / 8) - 0.75 * 4 * LOG(5 / 8), 3.25),
        # PyTorch 2's cross_entropy(weight=, label_smoothing=) divides by the weight of the label before smoothing.
        ([2], 0.3, -0.1 * LOG(1 / 8) - 0.1 * 2 * LOG(2 / 8) - 0.8 * 4 * LOG(5 / 8), 4.0),
    ],
)
def test_weighted_softmax_loss_by_hand(label, smoothing, expected, weight):
    task = classification(3, label_smoothing=smoothing, class_weights=WEIGHTS)
    batch = {"label": jnp.array(label)}
    np.testing.assert_allclose(task.loss(THIRDS, batch), [expected], rtol=1e-6)
    np.testing.assert_allclose(task.weight(batch), [weight], rtol=1e-6)
    assert task.weight(batch).dtype == task.loss(THIRDS, batch).dtype == jnp.float32


def test_weighted_sigmoid_loss_by_hand():
    task = classification(3, loss_type="sigmoid", class_weights=WEIGHTS)
    batch = {"label": jnp.array([1])}
    np.testing.assert_allclose(task.loss(ODDS, batch), [-LOG(1 / 2) - 2 * LOG(1 / 4) - 4 * LOG(1 / 5)], rtol=1e-6)
    np.testing.assert_allclose(task.weight(batch), [1.0])


def test_class_weights_by_name_balanced_or_not_at_all():
    assert classification(3, class_weights={"2": 3}).class_weights == (1.0, 1.0, 3.0)
    balanced = classification(3, class_weights="balanced")
    # 12 examples, of which class 0 has 6 and class 1 has 2: 12 / (3 * 6), 12 / (3 * 2), 12 / (3 * 4).
    assert balanced.for_data(lambda name: {"label": [6, 2, 4]}[name]).class_weights == pytest.approx((2 / 3, 2, 1))
    np.testing.assert_allclose(balanced.weight({"label": jnp.array([0, 1])}), [1, 1])  # as long as nothing is counted
    assert classification(3, class_weights=WEIGHTS).for_data(pytest.fail).class_weights == WEIGHTS
    for task in (balanced.evaluation(), balanced.inference()):
        assert task.class_weights is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("balance", "task.options.class_weights is 'balance'; valid: 'balanced', a number by class name"),
        (3.0, "task.options.class_weights is 3.0; valid"),
        ((1.0, 2.0), "has 2 numbers, and the data 3 classes"),
        ((1.0, 2.0, -1.0), "of class '2' is -1.0; valid: a number of 0 or more"),
        ((1.0, float("nan"), 1.0), "of class '1' is nan"),
        ((1.0, "2", 1.0), "of class '1' is '2'"),
        ((0.0, 0.0, 0.0), "is 0 for every class"),
        ({"9": 1.0}, "names a class '9' that the data do not have; valid: '0', '1', '2'"),
    ],
)
def test_class_weights_that_cannot_be_used(weights, message):
    with pytest.raises(InputError, match=re.escape(message)):
        classification(3, class_weights=weights)


@pytest.mark.parametrize(
    ("label", "smoothing", "expected"),
    [
        ([1], 0.0, -LOG(1 / 2) - LOG(1 / 4) - LOG(1 / 5)),
        ([[1, 0, 1]], 0.0, -LOG(1 / 2) - LOG(3 / 4) - LOG(4 / 5)),
        ([[0, 0, 0]], 0.0, -LOG(1 / 2) - LOG(3 / 4) - LOG(1 / 5)),
        ([[0.0, 0.5, 0.0]], 0.0, -LOG(1 / 2) - 0.5 * LOG(1 / 4) - 0.5 * LOG(3 / 4) - LOG(1 / 5)),
        (
            [2],
            0.3,
            -LOG(1 / 2) - 0.1 * LOG(1 / 4) - 0.9 * LOG(3 / 4) - 0.8 * LOG(4 / 5) - 0.2 * LOG(1 / 5),
        ),
    ],
)
def test_sigmoid_loss_by_hand(label, smoothing, expected):
    task = classification(3, loss_type="sigmoid", label_smoothing=smoothing)
    loss = task.loss(ODDS, {"label": jnp.array(label)})
    chex.assert_shape(loss, (1,))
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_one_hot_labels_equal_class_numbers(loss_type):
    task = classification(3, loss_type=loss_type, label_smoothing=0.1)
    logits, label = jnp.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]), jnp.array([0, 2])
    soft = {"label": jax.nn.one_hot(label, 3)}
    chex.assert_trees_all_close(task.loss(logits, soft), task.loss(logits, {"label": label}))
    assert figures(task, logits, soft) == figures(task, logits, {"label": label})


def test_metrics_by_hand():
    task = classification(3)
    logits = jnp.concatenate([THIRDS, THIRDS, THIRDS])
    batch = {"label": jnp.array([2, 0, 1])}
    assert figures(task, logits, batch) == {"accuracy": (1.0, 3.0)}
    np.testing.assert_array_equal(task.weight(batch), np.ones(3))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 0.0])
def test_masked_rows_change_nothing(poison):
    task = classification(7)
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    label = np.array([3, 0, 6, 1])
    expected = figures(task, logits[[0, 2]], {"label": label[[0, 2]]})
    logits[[1, 3]] = poison
    label[3] = 99
    batch = {"label": jnp.array(label), "is_example": jnp.array([1.0, 0.0, 1.0, 0.0])}
    chex.assert_trees_all_close(figures(task, logits, batch), expected, rtol=1e-6)


def test_all_rows_masked_count_nothing():
    task = classification(3)
    batch = {"label": jnp.array([0, 1]), "is_example": jnp.zeros(2)}
    assert figures(task, np.full((2, 3), np.nan), batch) == {"accuracy": (0.0, 0.0)}


@pytest.mark.parametrize(("num_classes", "present"), [(2, False), (5, False), (6, True)])
def test_top5_is_there_above_five_classes(num_classes, present):
    metrics = figures(classification(num_classes), jnp.zeros((1, num_classes)), {"label": jnp.array([0])})
    assert ("accuracy_top5" in metrics) == present


@pytest.mark.parametrize(("label", "top1", "top5"), [(0, 1, 1), (1, 0, 1), (4, 0, 1), (5, 0, 0), (6, 0, 0)])
@pytest.mark.parametrize("logits", [SEVEN, jnp.zeros((1, 7))], ids=["descending", "all equal"])
def test_accuracies_count_the_highest_and_the_first_of_equals(logits, label, top1, top5):
    metrics = figures(classification(7), logits, {"label": jnp.array([label])})
    assert (metrics["accuracy"], metrics["accuracy_top5"]) == ((top1, 1.0), (top5, 1.0))


@pytest.mark.parametrize(
    ("label", "hit"),
    [([0, 1, 0], 0), ([1, 0, 1], 1), ([1, 1, 1], 1), ([0, 0, 0], 0), ([0.6, 0.4, 0], 1), ([0.4, 0.6, 0], 0)],
)
def test_accuracy_of_several_or_blended_labels(label, hit):
    logits = jnp.array([[3.0, 2.0, 1.0]])
    task = classification(3, loss_type="sigmoid")
    assert figures(task, logits, {"label": jnp.array([label], jnp.float32)})["accuracy"] == (hit, 1.0)


def test_nan_logits_are_no_hit():
    logits = jnp.array([[jnp.nan, 1.0, 0.0], [0.0, jnp.nan, 1.0]])
    metrics = figures(classification(3), logits, {"label": jnp.array([0, 2])})
    assert metrics["accuracy"] == (0.0, 2.0)


def test_probabilities_follow_the_loss():
    np.testing.assert_allclose(classification(3).probabilities(THIRDS), [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-6)
    sigmoid = classification(3, loss_type="sigmoid").probabilities(ODDS)
    np.testing.assert_allclose(sigmoid, [[1 / 2, 1 / 4, 4 / 5]], rtol=1e-6)


def test_every_class_begins_equally_likely():
    model = tiny_model(classification(5, head_bias=-3.0))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    logits, params = jax.jit(lambda key: model.init_with_output(key, images, train=False))(jax.random.key(1))
    chex.assert_shape(params["params"]["head"]["kernel"], (16, 5))
    chex.assert_type(logits, jnp.float32)
    np.testing.assert_array_equal(logits, jnp.full((2, 5), -3.0))


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_gradients_reach_the_head_and_through_it_the_encoder(loss_type):
    task = classification(5, loss_type=loss_type)
    model = tiny_model(task)
    images, batch = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), {"label": jnp.array([1, 4])}
    params = jax.tree.map(jnp.asarray, random_params(model, images))
    params["params"]["head"] = jax.tree.map(jnp.zeros_like, params["params"]["head"])
    grad = jax.jit(jax.grad(lambda p: task.loss(model.apply(p, images, train=True), batch).mean()))
    gradients = grad(params)["params"]
    assert all((jnp.abs(g) > 1e-6).any() for g in jax.tree.leaves(gradients["head"]))

    params["params"]["head"]["kernel"] -= 0.1 * gradients["head"]["kernel"]
    encoder = grad(params)["params"]["encoder"]
    chex.assert_tree_all_finite(encoder)
    assert jnp.abs(encoder["patch_embed"]["kernel"]).max() > 1e-6


def test_eight_images_are_learned_by_heart_by_the_sigmoid_loss():
    """The softmax's is in test_every_task.py."""
    task = classification(8, loss_type="sigmoid")
    model = tiny_model(task)
    images, batch = jax.random.normal(jax.random.key(0), (8, 8, 8, 3)), {"label": jnp.arange(8)}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def init(key):
        params = model.init(key, images, train=False)
        return params, optimizer.init(params)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits = model.apply(params, images, train=True)
            return task.loss(logits, batch).mean(), logits

        gradients, logits = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, logits

    params, state = init(jax.random.key(1))
    for _ in range(100):
        params, state, logits = step(params, state)
    assert figures(task, logits, batch)["accuracy"] == (8.0, 8.0)
    assert task.loss(logits, batch).mean() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "at least 2 classes, and the data has 1"),
        ({"loss_type": "hinge"}, "task.options.loss_type is 'hinge'; valid: softmax, sigmoid"),
        ({"label_smoothing": 1.0}, "task.options.label_smoothing is 1.0; valid: at least 0 and less than 1"),
        ({"label_smoothing": -0.1}, "task.options.label_smoothing is -0.1"),
        ({"several": True}, "'label' has several classes an image; valid: a task.options.loss_type of 'sigmoid'"),
    ],
)
def test_bad_option_is_refused_by_name_and_value(options, message):
    with pytest.raises(InputError, match=message):
        classification(**{"num_classes": 3} | options)


def test_data_without_classes_is_refused():
    with pytest.raises(InputError, match=r"needs a field of kind label or labels, and the data has image \(image\)"):
        Classification({"image": Field("image", (None, None, 3), "uint8")})


def test_the_label_may_have_another_name():
    fields = {"image": Field("image", (8, 8, 3), "uint8"), "species": Field("label", names=("cat", "dog"))}
    task = Classification(fields)
    assert (task.target, task.class_names, task.num_classes) == ("species", ("cat", "dog"), 2)
    np.testing.assert_allclose(task.loss(jnp.zeros((1, 2)), {"species": jnp.array([1])}), [LOG(2)], rtol=1e-6)


def test_rows_of_evaluators():
    task, batch = classification(3), {"label": jnp.array([0])}
    rows = {name: np.asarray(row(THIRDS, batch)) for name, row in task.rows.items()}
    assert (rows["label"], rows["prediction"], rows["prediction"].dtype) == ([0], [2], np.int32)
    np.testing.assert_allclose(rows["probabilities"], [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-6)
    np.testing.assert_allclose(rows["confidence"], [5 / 8], rtol=1e-6)


def test_results_name_the_most_probable_classes():
    task, where = classification(3), [Placement.whole((8, 8))]
    (best,) = task.results(np.asarray(THIRDS), where, top_k=2)
    assert list(best) == [Prediction(2, "2", pytest.approx(5 / 8)), Prediction(1, "1", pytest.approx(2 / 8))]
    assert best.line() == "2 62.5%  1 25.0%" and best.draw(None) is None
    assert best.json()["predictions"][0] == {"label": 2, "class_name": "2", "probability": pytest.approx(5 / 8)}
    assert len(task.results(np.asarray(THIRDS), where)[0]) == 3
    with pytest.raises(InputError, match="top_k is 0; valid: 1 to 3"):
        task.results(np.asarray(THIRDS), where, top_k=0)


def test_the_distillation_head_is_averaged_with_the_first():
    encoder = create("Ti/4", hidden_dim=16, depth=1, mlp_dim=32, num_heads=2, distillation_token=True)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    model = classification(3, distillation_head=True).wrap(encoder)
    params = random_params(model, images)["params"]
    tokens = encoder.apply({"params": params["encoder"]}, images, train=False).tokens
    heads = [params["head"], params["head_distillation"]]
    first, second = (tokens[:, i] @ head["kernel"] + head["bias"] for i, head in enumerate(heads))
    logits = model.apply({"params": params}, images, train=False)
    np.testing.assert_allclose(logits, (first + second) / 2, atol=1e-5)


def test_what_is_collected_of_the_last_block_is_of_all_tokens():
    encoder = create("Ti/4", hidden_dim=16, depth=2, mlp_dim=32, num_heads=2)
    model, images = classification(3).wrap(encoder), jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = random_params(model, images)["params"]
    logits, seen = model.apply({"params": params}, images, train=False, mutable=["intermediates"])
    blocks = seen["intermediates"]["encoder"]
    for block in ("block_0", "block_1"):
        chex.assert_shape(blocks[block]["attention"]["attention_weights"], (2, 2, 5, 5))
    np.testing.assert_allclose(logits, model.apply({"params": params}, images, train=False), atol=1e-5)


def test_a_distillation_head_needs_its_token():
    with pytest.raises(InputError, match=r"task.options.distillation_head needs model.options.distillation_token"):
        tiny_model(classification(3, distillation_head=True))
