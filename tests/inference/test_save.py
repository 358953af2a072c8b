"""Writing models: what is written is what was read, and what a format cannot express is refused."""

import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import vit_jax
from vit_jax.build.info import from_info
from vit_jax.inference.predictor import Predictor
from vit_jax.info import KEYS, new_info
from vit_jax.ops import posemb
from vit_jax.pretrained import libraries
from vit_jax.training.checkpoints import reading
from vit_jax.types import class_fields

IMAGE = class_fields([])["image"]
GOLDEN = [
    ("hf_vit", "huggingface"),
    ("hf_deit", "huggingface"),
    ("timm_vit", "timm"),
    ("timm_vit_gap", "timm"),
    ("timm_vit_reg", "timm"),
]


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert (array.shape, array.dtype) == (right[name].shape, right[name].dtype)
        assert array.tobytes() == right[name].tobytes(), name


def random_model(*, image_size=(16, 16), channels=3, task=None, names=("cat", "dog", "fox"), data=None, **options):
    """A tiny ViT with random parameters; task None is a plain head, False is none."""
    pixels = {"image_size": image_size, "channels": channels, "mean": (0.5,) * channels, "std": (0.5,) * channels}
    fields = {"image": IMAGE} if task is False else class_fields(names)
    info = new_info(
        model={
            "name": "vit",
            "variant": options.pop("variant", "B/8"),
            "options": {"hidden_dim": 16, "depth": 2, "mlp_dim": 20, "num_heads": 2} | options,
        },
        task=None if task is False else {"name": "classification", "options": task or {}},
        fields=fields,
        preprocessing=pixels | (data or {}),
    )
    model, made_task, preprocessing = from_info(info)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, *image_size, channels), np.float32), train=False)
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, shapes["params"])
    return Predictor(model, params, {}, made_task, fields, preprocessing, info)


def answers(classifier):
    """Logits, or tokens and pooled vectors where there is no head, of random pixels."""
    size, channels = classifier.preprocessing.image_size, classifier.preprocessing.channels
    pixels = np.random.default_rng(1).normal(size=(2, *size, channels)).astype(np.float32)
    if classifier.task is not None:
        return np.asarray(classifier.apply(pixels))
    features = classifier.features(pixels)
    return np.concatenate([np.ravel(features.tokens), np.ravel(features.pooled)])


def pixels_of(classifier):
    """A wide image, preprocessed."""
    image = np.random.default_rng(2).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    return np.asarray(classifier.preprocess(image))


def saved(classifier, path, to, **options):
    vit_jax.save(classifier, path, to=to, **options)
    return vit_jax.load(path)


@pytest.mark.parametrize(("name", "to"), GOLDEN)
def test_golden_files_come_back_bit_for_bit(golden, tmp_path, name, to):
    before = vit_jax.load(golden / name)
    after = saved(before, tmp_path / "copy", to)
    assert_same_bits(load_file(golden / name / "model.safetensors"), load_file(tmp_path / "copy" / "model.safetensors"))
    assert after.info == before.info
    np.testing.assert_array_equal(answers(after), answers(before))


@pytest.mark.parametrize(("name", "to"), GOLDEN)
def test_and_so_they_do_through_a_work_directory(golden, tmp_path, name, to):
    before = vit_jax.load(golden / name)
    between = saved(before, tmp_path / "run", "workdir")
    assert between.class_names == before.class_names and between.preprocessing == before.preprocessing
    after = saved(between, tmp_path / "copy", to)
    assert_same_bits(load_file(golden / name / "model.safetensors"), load_file(tmp_path / "copy" / "model.safetensors"))
    assert after.info == before.info


@pytest.mark.parametrize("name", ["hf_vit", "hf_deit"])
def test_huggingfaces_json_says_what_it_said(golden, tmp_path, name):
    vit_jax.save(vit_jax.load(golden / name), tmp_path / "copy", to="huggingface")
    more = {"config.json": set(), "preprocessor_config.json": {"do_convert_rgb", "do_center_crop"}}
    for file, keys in more.items():
        theirs, ours = (json.loads((folder / file).read_text()) for folder in (golden / name, tmp_path / "copy"))
        assert ours.keys() - theirs.keys() <= keys
        assert {key: theirs[key] for key in ours.keys() - keys} == {key: ours[key] for key in ours.keys() - keys}


def test_an_npz_comes_back_bit_for_bit(tmp_path):
    model = random_model(gelu="tanh", representation_size=12, names=("0", "1", "2"))
    first = saved(model, tmp_path / "a-res_16.npz", "google")
    np.testing.assert_array_equal(answers(first), answers(model))
    assert (first.class_names, first.preprocessing) == (model.class_names, model.preprocessing)
    saved(first, tmp_path / "b.npz", "google")
    assert_same_bits(dict(np.load(tmp_path / "a-res_16.npz")), dict(np.load(tmp_path / "b.npz")))
    names = np.load(tmp_path / "b.npz").files
    assert {"cls", "Transformer/posembed_input/pos_embedding", "pre_logits/kernel", "head/bias"} <= set(names)


def test_what_an_npz_cannot_carry_is_said(tmp_path):
    model = random_model(data={"mean": (0.1, 0.2, 0.3)})
    with pytest.warns(UserWarning) as caught:
        after = saved(model, tmp_path / "x.npz", "google")
    messages = [str(warning.message) for warning in caught]
    assert messages[0] == "an .npz holds no class names: loaded, its classes are called '0' to '2'"
    assert messages[1].startswith("an .npz holds no preprocessing") and "mean=(0.1, 0.2, 0.3)" in messages[1]
    np.testing.assert_array_equal(answers(after), answers(model))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("to", "width_first"), [("huggingface", True), ("timm", False)])
def test_another_order_of_the_sides_is_said_where_it_shows(tmp_path, recwarn, to, width_first, interpolation):
    for own in (True, False):
        model = random_model(data={"width_first": own, "interpolation": interpolation})
        after = saved(model, tmp_path / str(own), to)
        assert after.preprocessing.width_first == width_first
    said = [str(each.message) for each in recwarn]
    assert len(said) == (interpolation == "bicubic")
    assert all(f"data.width_first {not width_first}" in line for line in said)


def test_a_trained_work_directory_goes_to_timm_and_back(trained, tmp_path):
    """One channel, mean pooling, computed positions, sizes of no published model."""
    run = vit_jax.load(trained)
    there = saved(run, tmp_path / "timm", "timm")
    np.testing.assert_allclose(answers(there), answers(run), atol=1e-6)
    assert there.class_names == tuple("0123456789")
    back = saved(there, tmp_path / "back", "workdir")
    np.testing.assert_array_equal(answers(back), answers(there))
    image = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)
    for other in (there, back):
        np.testing.assert_array_equal(other.preprocess(image), run.preprocess(image))
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert config["label_names"] == list("0123456789") and config["pretrained_cfg"]["input_size"] == [1, 8, 8]


BOTH = [
    {},
    {"image_size": (8, 32)},
    {"variant": "B/8x4", "image_size": (16, 8)},
    {"channels": 1},
    {"gelu": "exact"},
    {"gelu": "quick", "qkv_bias": False},
    {"prefix_posemb": False},
    {"posemb": "none"},
    {"task": False},
    {"names": ("a", "a", "ü")},
    {"distillation_token": True, "task": {"distillation_head": True}},
    {"data": {"resize_to": (20, 20), "interpolation": "bicubic"}},
    {"data": {"interpolation": "lanczos", "std": (0.1, 0.2, 0.3)}},
]
HUGGINGFACE = [
    {"norm_eps": 1e-12},
    {"dropout": 0.1, "attention_dropout": 0.2},
    {"task": {"loss_type": "sigmoid"}},
    {"task": False, "representation_size": 12},
    {"task": False, "distillation_token": True},
    {"distillation_token": True},
    {"data": {"resize": "shortest_edge", "resize_to": (20, 20)}},
    {"data": {"resize": "shortest_edge", "crop_fraction": 0.875}},
]
TIMM = [
    {"norm_eps": 1e-5, "pre_norm": True, "patch_bias": False},
    {"pooling": "gap", "class_token": True, "register_tokens": 2, "qk_norm": True, "layer_scale": 0.1},
    {"pooling": "gap", "final_norm": "pooled", "task": False},
    {"pooling": "map"},
    {"final_norm": "none", "mlp_dim": 17},
    {"data": {"resize": "shortest_edge", "crop_fraction": 0.875, "crop_offset": "nearest"}},
    {"data": {"resize": "shortest_edge", "resize_to": (19, 19), "crop_offset": "nearest", "interpolation": "box"}},
    {"data": {"resize_to": (20, 40)}, "image_size": (16, 32)},
    {
        "data": {"resize": "shortest_edge_nearest", "crop_fraction": 0.9, "crop_offset": "nearest"},
        "image_size": (16, 32),
    },
]
GOOGLE = [
    {"names": ("0", "1", "2"), "pooling": "gap"},
    {"names": ("0", "1", "2"), "variant": "B/4x8", "image_size": (12, 24)},
    {"task": False, "prefix_posemb": False},
]
CASES = [("huggingface", case) for case in BOTH + HUGGINGFACE] + [("timm", case) for case in BOTH + TIMM]
CASES += [("google", case) for case in GOOGLE]


@pytest.mark.parametrize(("to", "options"), CASES)
def test_it_answers_the_same(tmp_path, to, options):
    model = random_model(**options)
    after = saved(model, tmp_path / ("x.npz" if to == "google" else "x"), to)
    np.testing.assert_array_equal(answers(after), answers(model))
    np.testing.assert_array_equal(pixels_of(after), pixels_of(model))
    assert after.class_names == model.class_names
    if model.task is not None:
        assert after.task.loss_type == model.task.loss_type
    for name in ("gelu", "norm_eps", "patch_size", "num_heads", "mlp_dim", "pooling", "layer_scale"):
        encoders = [c.model if c.task is None else c.model.encoder for c in (model, after)]
        assert getattr(encoders[0], name) == getattr(encoders[1], name)


@pytest.mark.parametrize("to", libraries.writers("vit", "classification"))
@pytest.mark.parametrize("kind", ["sincos1d", "sincos2d"])
def test_computed_positions_are_written_as_a_table(tmp_path, to, kind):
    model = random_model(posemb=kind, names=("0", "1", "2"))
    after = saved(model, tmp_path / "x.npz", to)
    table = after.params["encoder"]["pos_embedding"]
    if kind == "sincos1d":
        whole = np.asarray(posemb.sincos1d(5, 16))
        expected = {"prefix": whole[:1], "grid": whole[1:].reshape(2, 2, 16)}
    else:
        expected = {"prefix": np.zeros((1, 16), np.float32), "grid": np.asarray(posemb.sincos2d((2, 2), 16))}
    jax.tree.map(np.testing.assert_array_equal, table, expected)
    np.testing.assert_allclose(answers(after), answers(model), atol=2e-6)


REFUSED = [
    ("huggingface", {"pooling": "gap"}, "model.pooling 'gap' (valid: token); formats that can: google, timm, workdir"),
    ("huggingface", {"pooling": "map"}, "model.pooling 'map' (valid: token); formats that can: timm, workdir"),
    ("huggingface", {"register_tokens": 1}, "model.register_tokens 1 (valid: 0); formats that can: timm, workdir"),
    ("huggingface", {"pre_norm": True}, "model.pre_norm True (valid: False); formats that can: workdir"),
    ("huggingface", {"final_norm": "pooled"}, "model.final_norm 'pooled' (valid: tokens); formats that can: timm,"),
    ("huggingface", {"layer_scale": 0.1}, "model.layer_scale 0.1 (valid: None); formats that can: timm, workdir"),
    ("huggingface", {"patch_bias": False}, "model.patch_bias False (valid: True); formats that can: workdir"),
    ("huggingface", {"qk_norm": True}, "model.qk_norm True (valid: False); formats that can: timm, workdir"),
    ("huggingface", {"representation_size": 8}, "model.representation_size 8 (valid: None, where there is a head)"),
    ("huggingface", {"data": {"interpolation": "box"}}, "data.interpolation 'box' (valid: bilinear, bicubic, lanczos)"),
    (
        "huggingface",
        {"data": {"resize_to": (17, 16), "crop_offset": "nearest"}, "gelu": "exact", "norm_eps": 1e-3},
        None,  # half a pixel is rounded down either way
    ),
    (
        "huggingface",
        {"data": {"resize_to": (19, 16), "crop_offset": "nearest"}},
        "data.crop_offset 'nearest' (valid: floor); formats that can: google, workdir; "
        "to write it all the same, with other answers there, allow crop_offset",
    ),
    (
        "huggingface",
        {"data": {"resize": "shortest_edge"}, "image_size": (8, 16)},
        "data.resize 'shortest_edge' (valid: exact, for 8x16 px); formats that can: workdir; to write",
    ),
    (
        "huggingface",
        {"data": {"resize": "shortest_edge_nearest"}},
        "data.resize 'shortest_edge_nearest' (valid: shortest_edge)",
    ),
    (
        "timm",
        {"data": {"resize": "shortest_edge", "crop_offset": "nearest"}, "image_size": (8, 16)},
        "data.resize 'shortest_edge' (valid: shortest_edge_nearest, for 8x16 px)",
    ),
    ("timm", {"norm_eps": 1e-12}, "model.norm_eps 1e-12 (valid: 1e-06, 1e-05); formats that can: huggingface, workdir"),
    ("timm", {"representation_size": 8}, "model.representation_size 8 (valid: None); formats that can: google, work"),
    ("timm", {"patch_bias": False}, "model.patch_bias False (valid: True, with this pre_norm)"),
    ("timm", {"pooling": "map", "register_tokens": 1}, "model.pooling 'map' (valid: token, gap; map only without"),
    ("timm", {"distillation_token": True}, "model.distillation_token True (valid: False, without task.distillation"),
    (
        "timm",
        {"task": {"loss_type": "sigmoid"}},
        "task.loss_type 'sigmoid' (valid: softmax); formats that can: hugging",
    ),
    (
        "timm",
        {"distillation_token": True, "task": {"distillation_head": True}, "register_tokens": 1, "norm_eps": 1e-5},
        "model.norm_eps 1e-05 (valid: 1e-06), model.register_tokens 1 (valid: 0); formats that can: workdir",
    ),
    ("timm", {"data": {"resize_to": (20, 16)}}, "data.resize_to (20, 16) (valid: in proportion to data.image_size (16"),
    ("timm", {"data": {"resize": "shortest_edge", "crop_fraction": 0.9}}, "data.crop_offset 'floor' (valid: nearest)"),
    ("google", {"gelu": "exact"}, "model.gelu 'exact' (valid: tanh); formats that can: huggingface, timm, workdir; to"),
    ("google", {"norm_eps": 1e-12}, "model.norm_eps 1e-12 (valid: 1e-06); formats that can: huggingface, workdir; to"),
    ("google", {"qkv_bias": False}, "model.qkv_bias False (valid: True); formats that can: huggingface, timm, workdir"),
    ("google", {"distillation_token": True}, "model.distillation_token True (valid: False)"),
    ("google", {"pooling": "gap", "class_token": True}, "model.class_token True (valid: False, where pooling is gap)"),
    ("google", {"image_size": (8, 32)}, "data.image_size (8, 32) (valid: as many rows as columns of patches"),
    ("google", {"task": {"loss_type": "sigmoid"}}, "task.loss_type 'sigmoid' (valid: softmax)"),
]


@pytest.mark.parametrize(("to", "options", "message"), REFUSED)
def test_what_a_format_cannot_express_is_refused(tmp_path, to, options, message):
    model, dest = random_model(**options), tmp_path / "new" / "x.npz"
    if message is None:
        np.testing.assert_array_equal(pixels_of(saved(model, dest, to)), pixels_of(model))
        return
    with pytest.raises(vit_jax.InputError) as error:
        vit_jax.save(model, dest, to=to)
    assert str(error.value).startswith(f"{to} cannot express {message}")
    assert list(tmp_path.iterdir()) == []


def test_what_may_differ_can_be_allowed(tmp_path):
    model = random_model(norm_eps=1e-12, gelu="exact", names=("0", "1", "2"))
    with pytest.raises(vit_jax.InputError, match=r"allow gelu, norm_eps$"):
        vit_jax.save(model, tmp_path / "x.npz", to="google")
    with pytest.raises(vit_jax.InputError, match=r"allow norm_eps$"):
        vit_jax.save(model, tmp_path / "x.npz", to="google", allow=["gelu"])
    after = saved(model, tmp_path / "x.npz", "google", allow=["gelu", "norm_eps"])
    jax.tree.map(np.testing.assert_array_equal, after.params, model.params)
    assert (after.model.encoder.gelu, after.model.encoder.norm_eps) == ("tanh", 1e-6)
    with pytest.raises(vit_jax.InputError, match="allow has 'pooling'; valid: gelu, norm_eps,"):
        vit_jax.save(model, tmp_path / "y.npz", to="google", allow=["pooling"])


def test_a_setting_that_is_allowed_to_differ_is_written_as_near_as_can_be(tmp_path):
    edge = random_model(image_size=(8, 16), data={"resize": "shortest_edge", "crop_fraction": 0.8})
    after = saved(edge, tmp_path / "hf", "huggingface", allow=["resize"]).preprocessing
    assert (after.resize, after.resize_to, after.image_size) == ("exact", (10, 20), (8, 16))
    odd = random_model(data={"resize_to": (20, 16)})
    after = saved(odd, tmp_path / "timm", "timm", allow=["resize_to"]).preprocessing
    assert (after.resize, after.resize_to) == ("exact", (20, 20))
    eps = random_model(norm_eps=1e-12)
    assert saved(eps, tmp_path / "eps", "timm", allow=["norm_eps"]).model.encoder.norm_eps == 1e-6


def test_another_dtype_is_noted_and_kept_only_in_a_work_directory(tmp_path):
    model = random_model(dtype="bfloat16")
    with pytest.warns(UserWarning, match="timm computes in float32, the model here in bfloat16"):
        vit_jax.save(model, tmp_path / "x", to="timm")
    assert saved(model, tmp_path / "run", "workdir").model.encoder.dtype == "bfloat16"


def test_other_families_and_tasks_need_a_work_directory(tmp_path):
    model = random_model()
    for section, kind in (("model", "resnet"), ("task", "detection")):
        model.info[section]["name"], before = kind, model.info[section]["name"]
        with pytest.raises(vit_jax.InputError, match=rf"{section} '{kind}' is not written in .*; valid: .*workdir"):
            vit_jax.save(model, tmp_path / "x", to="timm")
        model.info[section]["name"] = before


def test_a_destination_that_is_taken_is_refused(tmp_path):
    model = random_model(names=("0", "1", "2"))
    full, file = tmp_path / "full", tmp_path / "x.npz"
    full.mkdir()
    (full / "note").touch()
    file.touch()
    for dest, to in ((full, "huggingface"), (full, "workdir"), (file, "timm"), (file, "google")):
        with pytest.raises(vit_jax.InputError, match=f"{dest} exists already"):
            vit_jax.save(model, dest, to=to)
    with pytest.raises(vit_jax.InputError, match=r"valid: a file that ends in \.npz"):
        vit_jax.save(model, tmp_path / "x", to="google")
    with pytest.raises(vit_jax.InputError, match=r"unknown format 'onnx'; valid: google, huggingface, .*workdir"):
        vit_jax.save(model, tmp_path / "x", to="onnx")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "note", "x.npz"]
    (tmp_path / "empty").mkdir()
    assert saved(model, tmp_path / "empty", "huggingface").class_names == ("0", "1", "2")


@pytest.mark.parametrize("to", [*libraries.writers("vit", "classification"), "workdir"])
def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch, to):
    """The disk fills up just before the file has its name."""
    model = random_model(names=("0", "1", "2"))
    with monkeypatch.context() as patch:

        def full(path, target):
            assert path.parent == target.parent and path.exists() and not target.exists()
            raise OSError(28, "No space left on device")

        patch.setattr(pathlib.Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            vit_jax.save(model, tmp_path / "x.npz", to=to)
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_is_written(tmp_path):
    vit_jax.save(random_model(), tmp_path / "x", to="huggingface")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "x").iterdir()}
    assert len(modes) == 1


def test_a_work_directory_has_parameters_and_description_alone(golden, tmp_path):
    vit_jax.save(vit_jax.load(golden / "hf_vit"), tmp_path / "run", to="workdir")
    assert reading.steps_in(tmp_path / "run" / "checkpoints") == [0]
    items = {path.name for path in (tmp_path / "run" / "checkpoints" / "0").iterdir() if path.is_dir()}
    assert items == {"params", "info", "checksums"}
    assert set(reading.read_info(tmp_path / "run" / "checkpoints", 0)) == set(KEYS)
