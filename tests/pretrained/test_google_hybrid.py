"""Google's `.npz` of hybrids: their own code's answers, other sizes and channels, what goes back out, refusals."""

import flax.traverse_util
import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.build import plugins
from vit_jax.models.hybrid import VARIANTS
from vit_jax.pretrained import libraries, mapping
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.hybrid.google import resnet_names
from vit_jax.pretrained.vit.names import GOOGLE

FILE = "google_hybrid/R_S_8-tiny.npz"


@pytest.fixture
def arrays(golden):
    """The file's arrays, to be changed."""
    return dict(np.load(golden / FILE))


def saved(tmp_path, arrays, name="R_S_8-tiny.npz"):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


def test_it_answers_as_googles_code(golden):
    classifier = vit_jax.load(golden / FILE)
    expected = np.load(golden / "google_hybrid" / "expected.npz")
    np.testing.assert_allclose(classifier.apply(expected["images"]), expected["logits"], atol=5e-5)
    report = classifier.report
    assert len(report.loaded) == len(jax.tree.leaves(classifier.params)) == 77
    assert (report.initialised, report.unused, report.resized, report.adapted) == ((), (), {}, {})
    assert classifier.preprocessing.image_size == (64, 64)
    assert classifier.info["model"]["name"] == "hybrid"
    assert classifier.attention(golden / "image.png").shape == (2, 1, 4, 65, 65)


def test_what_is_written_is_what_was_read(golden, arrays, tmp_path):
    classifier = vit_jax.load(golden / FILE)
    assert vit_jax.save(classifier, tmp_path / "out.npz", to="google") == "hybrid ViT"
    written = np.load(tmp_path / "out.npz")
    assert set(written.files) == arrays.keys()
    for name in arrays:
        assert written[name].dtype == np.float32
        np.testing.assert_array_equal(written[name], arrays[name])


def test_norms_may_have_four_axes_as_in_the_older_files(golden, arrays, tmp_path):
    old = {name: x.reshape(1, 1, 1, -1) if "/gn" in f"/{name}" else x for name, x in arrays.items()}
    assert old["gn_root/scale"].shape == (1, 1, 1, 32)
    pixels = np.load(golden / "google_hybrid" / "expected.npz")["images"]
    ours = vit_jax.load(saved(tmp_path, old)).apply(pixels)
    np.testing.assert_array_equal(ours, vit_jax.load(golden / FILE).apply(pixels))


def test_other_sizes_and_channels(golden, arrays):
    classifier = vit_jax.load(golden / FILE, image_size=(48, 80), in_channels=1)
    assert classifier.report.resized == {"encoder/pos_embedding/grid": ((8, 8), (6, 10))}
    assert classifier.report.adapted == {"encoder/resnet/conv_root/kernel": (3, 1)}
    kernel = classifier.params["encoder"]["resnet"]["conv_root"]["kernel"]
    np.testing.assert_allclose(kernel[..., 0, :], arrays["conv_root/kernel"].sum(axis=2), rtol=1e-6)
    assert classifier.features(np.zeros((1, 48, 80, 1), np.float32)).grid == (6, 10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_published_size_goes_by_its_name(variant):
    """From the names and shapes alone, at 384 px."""
    model = plugins.create_model("hybrid", variant, num_classes=5)
    size = (384, 384)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, *size, 3), np.float32), train=False))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes["params"])
    encoder = model.encoder
    rows = [*mapping.expand(GOOGLE, encoder.depth), *resnet_names(encoder.resnet_stages)]
    flat = flax.traverse_util.flatten_dict(zeros, sep="/")
    tensors = {tensor: flat[held[0].param] for tensor, held in mapping.grouped(rows, flat).items()}
    tensors["Transformer/posembed_input/pos_embedding"] = np.zeros((1, 1 + np.prod(encoder.grid_of(size)), 1))
    description = libraries.describe(Files(f"{variant}-res_384.npz", tensors))
    assert description.model["variant"] == variant
    assert plugins.create_encoder("hybrid", variant, **description.model["options"]) == encoder
    assert description.preprocessing.image_size == size


def test_what_does_not_fit_is_refused(golden, arrays, tmp_path):
    broken = dict(arrays)
    del broken["block1/unit1/gn2/bias"]
    with pytest.raises(vit_jax.InputError, match="it lacks block1/unit1/gn2/bias; "):
        vit_jax.load(saved(tmp_path, broken))
    more = arrays | {"block2/unit3/conv1/bias": np.zeros(64, np.float32)}
    with pytest.raises(vit_jax.InputError, match="the model has no place for block2/unit3/conv1/bias"):
        vit_jax.load(saved(tmp_path, more))
    gap = {name.replace("block2/", "block3/"): x for name, x in arrays.items()}
    with pytest.raises(vit_jax.InputError, match=r"model.options.resnet_stages is \(1, 0, 2\)"):
        vit_jax.load(saved(tmp_path, gap, "R_S_16-res_128.npz"))
    classifier = vit_jax.load(golden / FILE, image_size=60)
    with pytest.raises(vit_jax.InputError, match=r"data.image_size \(60, 60\) \(valid: a multiple of 8x8 px, "):
        vit_jax.save(classifier, tmp_path / "out.npz", to="google")
