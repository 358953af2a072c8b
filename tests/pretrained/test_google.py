"""Google's `.npz`, built from the Hugging Face golden file by the published name mapping."""

import numpy as np
import pytest

import vit_jax

LAYER = "Transformer/encoderblock_{}"
PUBLISHED = {
    "layernorm_before": "LayerNorm_0",
    "layernorm_after": "LayerNorm_2",
    "attention.attention.query": "MultiHeadDotProductAttention_1/query",
    "attention.attention.key": "MultiHeadDotProductAttention_1/key",
    "attention.attention.value": "MultiHeadDotProductAttention_1/value",
    "attention.output.dense": "MultiHeadDotProductAttention_1/out",
    "intermediate.dense": "MlpBlock_3/Dense_0",
    "output.dense": "MlpBlock_3/Dense_1",
}
"""Hugging Face's module of a layer -> Google's."""


def google_arrays(tensors, heads=4, depth=3):
    """The arrays of an AugReg file with the weights of `hf_vit`; heads is None for kernels of two axes."""
    arrays = {
        "cls": tensors["vit.embeddings.cls_token"],
        "embedding/kernel": tensors["vit.embeddings.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": tensors["vit.embeddings.patch_embeddings.projection.bias"],
        "Transformer/posembed_input/pos_embedding": tensors["vit.embeddings.position_embeddings"],
        "Transformer/encoder_norm/scale": tensors["vit.layernorm.weight"],
        "Transformer/encoder_norm/bias": tensors["vit.layernorm.bias"],
        "head/kernel": tensors["classifier.weight"].T,
        "head/bias": tensors["classifier.bias"],
    }
    for i in range(depth):
        for theirs, google in PUBLISHED.items():
            weight = tensors[f"vit.encoder.layer.{i}.{theirs}.weight"]
            bias = tensors[f"vit.encoder.layer.{i}.{theirs}.bias"]
            name = f"{LAYER.format(i)}/{google}"
            if "LayerNorm" in google:
                arrays |= {f"{name}/scale": weight, f"{name}/bias": bias}
                continue
            kernel = weight.T
            if heads and google.endswith(("query", "key", "value")):
                kernel, bias = kernel.reshape(-1, heads, 48 // heads), bias.reshape(heads, -1)
            elif heads and google.endswith("out"):
                kernel = kernel.reshape(heads, 48 // heads, -1)
            arrays |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
    return arrays


@pytest.fixture
def arrays(changed):
    """Builds the arrays of the file."""
    tensors = changed("hf_vit").tensors
    return lambda **options: google_arrays(tensors, **options)


def saved(tmp_path, arrays, name="S_8-tiny.npz"):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


def reference(golden):
    """`hf_vit` with Google's GELU and epsilon."""
    classifier = vit_jax.load(golden / "hf_vit")
    encoder = classifier.model.encoder.clone(gelu="tanh", norm_eps=1e-6)
    pixels = np.load(golden / "hf_vit" / "expected.npz")["pixel_values"].transpose(0, 2, 3, 1)
    return pixels, classifier.task.wrap(encoder).apply({"params": classifier.params}, pixels, train=False)


@pytest.mark.parametrize("heads", [4, None])
def test_it_answers_as_the_same_weights_elsewhere(arrays, tmp_path, golden, heads):
    classifier = vit_jax.load(saved(tmp_path, arrays(heads=heads)), num_heads=4)
    pixels, expected = reference(golden)
    np.testing.assert_allclose(classifier.apply(pixels), expected, atol=2e-5)
    # Google's tanh GELU is not Hugging Face's: the wrong one would go unnoticed but for the last digits.
    exact = np.load(golden / "hf_vit" / "expected.npz")["logits"]
    assert 1e-5 < np.abs(classifier.apply(pixels) - exact).max() < 1e-2
    assert len(classifier.report.loaded) == 57
    assert classifier.class_names == tuple("0123456")
    assert (classifier.preprocessing.image_size, classifier.preprocessing.mean) == ((48, 48), (0.5, 0.5, 0.5))


def test_pre_logits_are_a_dense_layer_and_tanh(arrays, tmp_path, golden):
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.normal(size=(48, 48)).astype(np.float32), "bias": rng.normal(size=48).astype(np.float32)}
    more = arrays() | {f"pre_logits/{name}": array for name, array in layer.items()}
    plain, classifier = vit_jax.load(saved(tmp_path, arrays(), "a.npz")), vit_jax.load(saved(tmp_path, more, "b.npz"))
    pixels, _ = reference(golden)
    expected = np.tanh(plain.features(pixels).pooled @ layer["kernel"] + layer["bias"])
    np.testing.assert_allclose(classifier.features(pixels).pooled, expected, atol=2e-5)


def test_without_a_head_it_gives_features(arrays, tmp_path):
    bare = {name: array for name, array in arrays().items() if not name.startswith("head/")}
    assert vit_jax.load(saved(tmp_path, bare)).class_names == ()


def rectangle(arrays, positions):
    table = np.random.default_rng(0).normal(size=(1, 1 + positions, 48)).astype(np.float32)
    return arrays() | {"Transformer/posembed_input/pos_embedding": table}


def test_the_grid_is_of_the_name_or_square_or_given(arrays, tmp_path):
    assert vit_jax.load(saved(tmp_path, arrays(), "S_8-x-res_48.npz")).preprocessing.image_size == (48, 48)
    assert vit_jax.load(saved(tmp_path, arrays(), "S_8-x-res_224.npz")).preprocessing.image_size == (48, 48)
    assert vit_jax.load(saved(tmp_path, arrays(), "S_8-x-res_54.npz")).preprocessing.image_size == (54, 54)
    file = saved(tmp_path, rectangle(arrays, 12), "wide.npz")
    assert vit_jax.load(file, image_size=(16, 48)).features(np.zeros((1, 16, 48, 3))).grid == (2, 6)
    with pytest.raises(vit_jax.InputError, match=r"wide.npz: 12 positions make no square.*give image_size"):
        vit_jax.load(file)


def test_the_number_of_heads_is_of_the_arrays_or_given_or_the_variants(arrays, tmp_path):
    file, flat = saved(tmp_path, arrays(), "a.npz"), saved(tmp_path, arrays(heads=None), "b.npz")
    assert vit_jax.load(file).model.encoder.num_heads == 4
    assert vit_jax.load(flat, num_heads=6).model.encoder.num_heads == 6
    with pytest.raises(vit_jax.InputError, match="no variant has a hidden_dim of 48; give num_heads"):
        vit_jax.load(flat)
    with pytest.raises(vit_jax.InputError, match="has 4 heads, not num_heads=6"):
        vit_jax.load(file, num_heads=6)


def test_other_npz_files_are_refused(arrays, tmp_path):
    with pytest.raises(vit_jax.InputError, match=r"r.npz: tensor 'conv_root/kernel' has shape \[3\]; valid: 4 axes"):
        vit_jax.load(saved(tmp_path, arrays() | {"conv_root/kernel": np.zeros(3)}, "r.npz"))
    for name in ("head/kernel", "pre_logits/kernel"):
        with pytest.raises(vit_jax.InputError, match=rf"h.npz: tensor '{name}' has shape \[3\]; valid: 2 axes"):
            vit_jax.load(saved(tmp_path, arrays() | {name: np.zeros(3, np.float32)}, "h.npz"))
    with pytest.raises(vit_jax.InputError, match=r"o.npz has no tensor 'embedding/kernel'"):
        vit_jax.load(saved(tmp_path, {"x": np.zeros(3)}, "o.npz"))
    with pytest.raises(vit_jax.InputError, match=r"p.npz cannot be read as .npz without pickles: it holds pickled"):
        vit_jax.load(saved(tmp_path, {"x": np.array([{}], object)}, "p.npz"))
    (tmp_path / "t.npz").write_bytes(b"PK hello")
    with pytest.raises(vit_jax.InputError, match=r"t.npz cannot be read as .npz"):
        vit_jax.load(tmp_path / "t.npz")
