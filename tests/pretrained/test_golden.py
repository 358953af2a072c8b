"""Checkpoints of other libraries answer as those libraries did; see tests/golden."""

import json

import chex
import jax
import numpy as np
import pytest
from conftest import Changed

import vit_jax
from vit_jax.build.info import from_info

FOLDERS = ("hf_vit", "hf_deit", "timm_vit", "timm_vit_gap", "timm_vit_reg")


@pytest.mark.parametrize("name", FOLDERS)
def test_it_answers_as_its_own_library(golden, name):
    classifier = vit_jax.load(golden / name)
    expected = np.load(golden / name / "expected.npz")
    pixels = expected["pixel_values"].transpose(0, 2, 3, 1)
    hidden = expected["last_hidden_state" if "last_hidden_state" in expected else "forward_features"]
    np.testing.assert_allclose(classifier.apply(pixels), expected["logits"], atol=2e-5)
    np.testing.assert_allclose(classifier.features(pixels).tokens, hidden, atol=2e-5)
    np.testing.assert_allclose(classifier.preprocess(golden / "image.png"), pixels, atol=0.02)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_leaf_is_loaded_and_none_is_left(golden, name):
    classifier = vit_jax.load(str(golden / name))
    report = classifier.report
    assert len(report.loaded) == len(jax.tree.leaves(classifier.params))
    assert (report.resized, report.adapted, report.initialised, report.unused) == ({}, {}, (), ())
    chex.assert_type(jax.tree.leaves(classifier.params), np.float32)
    line = f"{golden / name}: {len(report.loaded)} loaded, 0 resized, 0 adapted, 0 newly initialised, 0 unused"
    assert str(report) == line


@pytest.mark.parametrize("name", ["hf_vit", "hf_deit", "timm_vit", "timm_vit_reg"])
def test_what_patches_do_not_divide_is_left_out_as_by_the_librarys_convolution(changed, golden, name):
    """SigLIP So400m has patches of 14 and images of 384 pixels."""
    expected = np.load(golden / name / "expected.npz")
    pixels = expected["pixel_values"].transpose(0, 2, 3, 1)
    larger = np.pad(pixels, ((0, 0), (0, 3), (0, 5), (0, 0)), constant_values=9.0)
    size, copy = list(larger.shape[1:3]), changed(name)
    if "architecture" in copy.config:
        copy.config["model_args"] = (copy.config.get("model_args") or {}) | {"img_size": size}
    else:
        copy.config["image_size"] = size
    classifier = vit_jax.load(copy.save())
    assert classifier.preprocessing.image_size == tuple(size) and classifier.report.resized == {}
    np.testing.assert_allclose(classifier.apply(larger), expected["logits"], atol=2e-5)
    rows, columns = classifier.features(larger).grid
    assert rows * columns == np.prod(classifier.params["encoder"]["pos_embedding"]["grid"].shape[:2])


def test_timms_padding_to_whole_patches_is_refused_where_there_is_any(changed):
    copy = changed("timm_vit")
    copy.config["model_args"] = (copy.config.get("model_args") or {}) | {"dynamic_img_pad": True}
    assert vit_jax.load(copy.save()).class_names
    copy.config["model_args"]["img_size"] = [51, 51]
    with pytest.raises(vit_jax.InputError, match=r"model_args\.dynamic_img_pad, which pads images of 51x51 px"):
        vit_jax.load(copy.save())


def test_both_heads_of_deit_answer_and_are_averaged(golden):
    classifier = vit_jax.load(golden / "hf_deit")
    expected = np.load(golden / "hf_deit" / "expected.npz")
    tokens = classifier.features(expected["pixel_values"].transpose(0, 2, 3, 1)).tokens
    for i, (head, key) in enumerate([("head", "cls_logits"), ("head_distillation", "distillation_logits")]):
        logits = tokens[:, i] @ classifier.params[head]["kernel"] + classifier.params[head]["bias"]
        np.testing.assert_allclose(logits, expected[key], atol=2e-5)


def test_class_names_come_along(golden, changed):
    names = ("tench", "goldfish", "shark", "ray", "cock", "hen", "ostrich")
    classifier = vit_jax.load(golden / "hf_vit")
    assert classifier.class_names == names
    best = classifier.predict(golden / "image.png", top_k=1)[0][0]
    assert best.class_name == names[best.label]
    assert vit_jax.load(golden / "timm_vit").class_names == tuple("0123456")

    copy = changed("timm_vit")
    copy.config["label_names"] = list(names)
    assert vit_jax.load(copy.save()).class_names == names


@pytest.mark.parametrize("name", FOLDERS)
def test_the_model_is_rebuilt_from_what_it_says_of_itself(golden, name):
    classifier = vit_jax.load(golden / name)
    info = json.loads(json.dumps(classifier.info))
    model, task, preprocessing = from_info(info)
    assert (model, task, preprocessing) == (classifier.model, classifier.task, classifier.preprocessing)


def test_several_labels_at_once_are_sigmoids(changed):
    copy = changed("hf_vit")
    copy.config["problem_type"] = "multi_label_classification"
    assert vit_jax.load(copy.save()).task.loss_type == "sigmoid"


@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_one_label_an_image_is_a_softmax(changed, problem):
    copy = changed("hf_vit")
    copy.config["problem_type"] = problem
    assert vit_jax.load(copy.save()).task.loss_type == "softmax"


def test_a_regression_is_refused_by_name(changed):
    copy = changed("hf_vit")
    for problem in ("regression", "ranking"):
        copy.config["problem_type"] = problem
        with pytest.raises(vit_jax.InputError, match=f"problem_type '{problem}' is not supported; valid: single_label"):
            vit_jax.load(copy.save())


@pytest.mark.parametrize("problem", [None, "single_label_classification", "multi_label_classification"])
def test_a_head_of_one_output_is_refused(changed, problem):
    """Without a problem_type transformers takes it for a regression."""
    for name, heads in (("hf_vit", ("classifier",)), ("timm_vit", ("head",))):
        copy = changed(name)
        for tensor in (f"{head}.{part}" for head in heads for part in ("weight", "bias")):
            copy.tensors[tensor] = copy.tensors[tensor][:1]
        copy.config |= {"num_classes": 1} if name == "timm_vit" else {"id2label": {"0": "x"}, "problem_type": problem}
        with pytest.raises(vit_jax.InputError, match=f"{name}: its head has one output, for a regression or a single"):
            vit_jax.load(copy.save())


def without_head(copy, prefix):
    """The tensors of a bare model: no head, and no prefix in their names."""
    tensors = {name.removeprefix(prefix): x for name, x in copy.tensors.items() if name.startswith(prefix)}
    return {name: np.ascontiguousarray(x) for name, x in tensors.items()}


def test_a_bare_model_gives_features(changed, golden):
    copy = changed("hf_vit")
    copy.config["architectures"] = ["ViTModel"]
    copy.tensors = without_head(copy, "vit.")
    classifier = vit_jax.load(copy.save())
    expected = np.load(golden / "hf_vit" / "expected.npz")
    pixels = expected["pixel_values"].transpose(0, 2, 3, 1)
    features = classifier.features(pixels)
    np.testing.assert_allclose(features.tokens, expected["last_hidden_state"], atol=2e-5)
    np.testing.assert_array_equal(features.pooled, features.tokens[:, 0])
    assert (classifier.task, classifier.class_names) == (None, ())
    for use in (lambda: classifier.apply(pixels), lambda: classifier.predict(golden / "image.png")):
        with pytest.raises(vit_jax.InputError, match=r"no classification head; valid: Classifier.features"):
            use()


def test_a_pooler_is_the_representation(changed, golden):
    rng = np.random.default_rng(0)
    copy = changed("hf_vit")
    copy.config["architectures"] = ["ViTModel"]
    copy.tensors = without_head(copy, "vit.")
    weight, bias = rng.normal(size=(48, 48)).astype(np.float32), rng.normal(size=48).astype(np.float32)
    copy.tensors |= {"pooler.dense.weight": weight, "pooler.dense.bias": bias}
    classifier = vit_jax.load(copy.save())
    expected = np.load(golden / "hf_vit" / "expected.npz")
    features = classifier.features(expected["pixel_values"].transpose(0, 2, 3, 1))
    pooled = np.tanh(expected["last_hidden_state"][:, 0] @ weight.T + bias)
    np.testing.assert_allclose(features.pooled, pooled, atol=2e-5)


def test_deit_with_one_head_has_the_class_tokens_logits(changed, golden):
    copy = changed("hf_deit")
    copy.config["architectures"] = ["DeiTForImageClassification"]
    for leaf in ("weight", "bias"):
        copy.tensors[f"classifier.{leaf}"] = copy.tensors.pop(f"cls_classifier.{leaf}")
        del copy.tensors[f"distillation_classifier.{leaf}"]
    expected = np.load(golden / "hf_deit" / "expected.npz")
    logits = vit_jax.load(copy.save()).apply(expected["pixel_values"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(logits, expected["cls_logits"], atol=2e-5)


def test_a_distilled_deit_of_timm_is_that_of_hugging_face(changed, golden):
    """The same weights by timm's names, with LayerNorm's other epsilon."""
    from vit_jax.pretrained import mapping
    from vit_jax.pretrained.vit.names import TIMM

    teacher = vit_jax.load(golden / "hf_deit")
    rows = mapping.expand(TIMM, 3, grid=(6, 6))
    copy = changed("timm_vit")
    copy.config["architecture"] = "deit_base_distilled_patch16_224"
    copy.tensors = mapping.write(rows, vit_jax_flat(teacher.params))
    expected = np.load(golden / "hf_deit" / "expected.npz")
    logits = vit_jax.load(copy.save()).apply(expected["pixel_values"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)


def vit_jax_flat(params):
    from flax.traverse_util import flatten_dict

    return flatten_dict(params, sep="/")


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("hf_vit", "vit."), ("hf_deit", "deit."), ("timm_vit", ""), ("timm_vit_gap", ""), ("timm_vit_reg", "")],
)
def test_writing_is_reading_backwards_bit_for_bit(changed, name, prefix):
    from vit_jax.pretrained import mapping
    from vit_jax.pretrained.vit import huggingface, names

    copy = changed(name)
    table = names.TIMM if name.startswith("timm") else names.HUGGINGFACE
    heads = {"hf_vit": huggingface.HEAD, "hf_deit": huggingface.TEACHER_HEADS}.get(name, ())
    rows = [*mapping.expand(table, 3, prefix), *heads]
    params = vit_jax_flat(vit_jax.load(copy.folder).params)
    written = mapping.write(rows, params)
    assert written.keys() == copy.tensors.keys()
    for tensor, array in written.items():
        np.testing.assert_array_equal(array, copy.tensors[tensor])
    with pytest.raises(vit_jax.InputError, match="the format has no name for encoder/new"):
        mapping.write(rows, params | {"encoder/new": np.zeros(1)})


@pytest.mark.parametrize(
    "about",
    [
        "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
        "B_16-i21k-300ep--imagenet2012-steps_20k-lr_0.01-res_224.npz",
        "gs://vit_models/imagenet21k+imagenet2012/ViT-B_16.npz",
        "imagenet-1k",
    ],
)
def test_a_thousand_classes_are_imagenets_where_the_checkpoint_says_so(about):
    from vit_jax.pretrained.description import numbered_classes

    names = numbered_classes(1000, about=about)
    assert len(names) == 1000 and all(names)
    assert (names[0], names[281], names[999]) == (
        "tench, Tinca tinca",
        "tabby, tabby cat",
        "toilet tissue, toilet paper, bathroom tissue",
    )
    assert numbered_classes(3, about=about) == ("0", "1", "2")


@pytest.mark.parametrize("about", ["", "vit_base_patch16_224.augreg_in21k", "mushrooms", "main1k_plants"])
def test_any_other_thousand_classes_have_numbers(about):
    from vit_jax.pretrained.description import numbered_classes

    assert numbered_classes(1000, about=about) == tuple(map(str, range(1000)))


def test_timms_tag_says_whose_a_thousand_classes_are(tmp_path):
    for tag, first in (("augreg_in1k", "tench, Tinca tinca"), ("mine", "0"), (None, "0")):
        copy = Changed("timm_vit", tmp_path / str(tag))
        head = copy.tensors["head.weight"]
        copy.tensors["head.weight"] = np.ascontiguousarray(np.resize(head, (1000, head.shape[1])))
        copy.tensors["head.bias"] = np.resize(copy.tensors["head.bias"], 1000)
        copy.config["num_classes"] = copy.config["model_args"]["num_classes"] = 1000
        copy.config["pretrained_cfg"] |= {"num_classes": 1000, "tag": tag}
        assert vit_jax.load(copy.save()).class_names[0] == first


def test_timms_attention_pooling_leaves_prefix_tokens_out_and_is_refused(changed):
    copy = changed("timm_vit_reg")
    copy.config["model_args"]["global_pool"] = "map"
    with pytest.raises(vit_jax.InputError, match=r"global_pool 'map' with class token or registers, .* not supported"):
        vit_jax.load(copy.save())
