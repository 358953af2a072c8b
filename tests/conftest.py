"""What all tests share: eight virtual CPU devices, quick compilation, and the digits prepared once."""

import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

# All of this is in the environment and set before JAX is imported, so that it holds for the subprocesses of tests too.
if "VIT_JAX_TESTS_CACHE" not in os.environ:  # this is the process that starts the workers, which inherit it
    _CACHE = tempfile.TemporaryDirectory(prefix="vit_jax_tests_")
    os.environ["VIT_JAX_TESTS_CACHE"] = _CACHE.name
_SHARED = os.environ["VIT_JAX_TESTS_CACHE"]
_OWN = f"{_SHARED}/{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "8",
    # Dozens of unfinished steps with collectives can deadlock on virtual CPU devices.
    "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
    # Most of the tests' time goes into compiling: what one worker has compiled, the others need not.
    "JAX_COMPILATION_CACHE_DIR": f"{_SHARED}/jax",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "TFDS_DATA_DIR": f"{_OWN}/tfds",
    "XDG_CACHE_HOME": f"{_OWN}/cache",
}
# The older code generator compiles the tests' programs three times as fast. Later versions do not have it, and end at a
# flag that they do not know.
_QUICK = "--xla_cpu_use_fusion_emitters=false"
if importlib.metadata.version("jaxlib").startswith("0.10.") and _QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """TFDS's folder for this session."""
    return pathlib.Path(os.environ["TFDS_DATA_DIR"])


def small_config(**changes):
    """configs/digits.py, made small enough to train in a second; keys with dots joined by `__`."""
    from configs import digits

    config = digits.get_config()
    small = {
        "num_steps": 12,
        "batch_size": 48,
        "log_every_steps": 4,
        "model__options__hidden_dim": 16,
        "model__options__depth": 1,
        "model__options__mlp_dim": 16,
        "model__options__num_heads": 2,
        "optimizer__warmup_steps": 2,
        "evaluation__every_steps": 6,
        "checkpoint__every_steps": 6,
        "checkpoint__keep_last": 2,
        "checkpoint__best_metric": "test/accuracy",
    }
    for key, value in (small | changes).items():
        set_key(config, key.split("__"), value)
    return config


def set_key(config, path, value):
    """Sets a key of a config; an option may be new, of any type, or with None be taken out again."""
    *parents, name = path
    section = config
    for part in parents:
        section = section[part]
    if "options" in parents or {"augment", "metrics"} & {*path}:
        with config.unlocked():
            if name in section:
                del section[name]  # a ConfigDict keeps a key's type
            if value is not None:
                section[name] = value
    else:
        section[name] = value


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
    """The work directory of a small finished run; not to be changed."""
    import train

    workdir = tmp_path_factory.mktemp("runs") / "trained"
    assert train.train(small_config(), workdir) == 0
    return workdir


def write_classifier(workdir: pathlib.Path, class_names, *, task=None, scale=0.3, **preprocessing) -> pathlib.Path:
    """A work directory with a tiny ViT of random parameters, its head's too, and images as `preprocessing` says."""
    import jax
    import numpy as np

    from vit_jax.build.info import from_info
    from vit_jax.info import new_info
    from vit_jax.training.checkpoints import reading
    from vit_jax.types import class_fields

    task = {"name": "classification", "options": {}} | (task or {})
    several = task["options"].get("loss_type") == "sigmoid"
    preprocessing = {"image_size": [8, 8], "channels": 1, "mean": [0.5], "std": [0.5]} | preprocessing
    info = new_info(
        model={"name": "vit", "variant": "Ti/4", "options": {"hidden_dim": 16, "depth": 1, "num_heads": 2}},
        task=task,
        fields=class_fields(list(class_names), several=several),
        preprocessing=preprocessing,
    )
    model, _, _ = from_info(info)
    images = np.zeros((1, *preprocessing["image_size"], preprocessing["channels"]), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(scale=scale, size=leaf.shape).astype(leaf.dtype), shapes)
    reading.write_params(workdir / "checkpoints", 0, params, info)
    return workdir


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory) -> list[tuple[pathlib.Path, int]]:
    """Three test digits as PNG files, and what they show."""
    from vit_jax.data.sources import tfds as sources

    source = sources.open_source("digits", "test")
    folder = tmp_path_factory.mktemp("digits")
    files = []
    for record in range(3):
        example = source[record]
        files.append((folder / f"{record}.png", example["label"]))
        files[-1][0].write_bytes(example["image"])
    return files


GOLDEN = ROOT / "tests" / "golden"


class Changed:
    """A copy of a golden folder whose files can be changed before it is loaded."""

    def __init__(self, name: str, folder: pathlib.Path):
        from safetensors.numpy import load_file

        shutil.copytree(GOLDEN / name, folder)
        self.folder = folder
        self.tensors = load_file(folder / "model.safetensors")
        self.config = json.loads((folder / "config.json").read_text())
        file = folder / "preprocessor_config.json"
        self.preprocessor = json.loads(file.read_text()) if file.exists() else None

    def save(self) -> pathlib.Path:
        """Writes the changes; gives the folder."""
        from safetensors.numpy import save_file

        save_file(self.tensors, self.folder / "model.safetensors")
        (self.folder / "config.json").write_text(json.dumps(self.config))
        (self.folder / "preprocessor_config.json").unlink(missing_ok=True)
        if self.preprocessor is not None:
            (self.folder / "preprocessor_config.json").write_text(json.dumps(self.preprocessor))
        return self.folder


@pytest.fixture
def golden() -> pathlib.Path:
    """The folder of checkpoints that other libraries wrote, with their answers."""
    return GOLDEN


@pytest.fixture
def changed(tmp_path):
    """`changed(name)` copies a golden folder for changes."""
    return lambda name: Changed(name, tmp_path / name)


@pytest.fixture(scope="module", autouse=True)
def without_programs_of_other_files():
    """Compiled programs go with the test file: each takes memory maps, of which a process may have 65,530 on Linux."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
