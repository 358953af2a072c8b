"""Who may import whom: each part of the library imports lower ranks and itself. Every import statement is read."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "train.py", *(ROOT / "vit_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
)

RANKS = [
    {"class_names", "errors", "options", "synonyms", "system", "version"},
    {"contracts", "info", "types"},
    {"ops"},
    {"layers", "data", "figures"},
    {"models"},
    {"tasks", "evaluators"},
    {"parallel"},
    {"training", "pretrained"},
    {"build"},
    {"planning", "inference"},
    {"cli"},
    {"train.py"},  # above cli, whose flags and error lines it uses
]
"""Lowest first. A part imports lower ranks and itself; the files of the two lowest ranks also import each other."""
RANK = {part: rank for rank, parts in enumerate(RANKS) for part in parts}

EXEMPT = {"vit_jax/__init__.py", "vit_jax/__main__.py"}
"""The front doors: they import, when asked, from anywhere."""

ONLY_IN = {
    "tensorflow_datasets": ["vit_jax/data/"],
    "grain": ["vit_jax/data/"],
    "absl.flags": ["train.py", "vit_jax/cli/"],
    "ml_collections.config_flags": ["train.py", "vit_jax/cli/"],
    "tensorflow": [],
    "torch": [],
}
"""Who may import a package."""


def imports(path, source):
    """Every imported name with its dots, `from a import b` as `a.b`; those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.split("/")[: -node.level] if node.level else []
            prefix = [*package, *([node.module] if node.module else [])]
            yield from (".".join([*prefix, alias.name]) for alias in node.names)


def is_within(name, package):
    return name == package or name.startswith(package + ".")


def part_of(path):
    """`ops` of vit_jax/ops/patches.py, `types` of vit_jax/types.py, `train.py` of train.py."""
    return path if path == "train.py" else path.split("/")[1].removesuffix(".py")


def is_above(part, other):
    """Whether `part` may import `other`."""
    if part not in RANK or other not in RANK:
        return False
    return RANK[part] > RANK[other] or part == other or RANK[part] == RANK[other] <= 1


def violations(path, source):
    """What the file at `path` imports and must not."""
    found = []
    for name in imports(path, source):
        allowed = all(
            any(path.startswith(place) for place in places)
            for package, places in ONLY_IN.items()
            if is_within(name, package)
        )
        if path.startswith("configs/"):
            allowed &= is_within(name, "ml_collections") or is_within(name, "configs")
        elif is_within(name, "vit_jax"):
            allowed &= path in EXEMPT or is_above(part_of(path), (name + ".").split(".")[1])
        elif name.split(".")[0] in ("configs", "train", "tests", "benchmarks"):
            allowed = False
        if not allowed:
            found.append(f"{path} imports {name}")
    return found


@pytest.mark.parametrize("path", FILES)
def test_imports(path):
    assert violations(path, (ROOT / path).read_text()) == []


def test_every_part_has_a_rank():
    parts = {part_of(path) for path in FILES if not path.startswith("configs/") and path not in EXEMPT}
    assert parts <= RANK.keys()


def test_no_file_is_called_utils():
    assert not [path for path in FILES if path.endswith("utils.py")]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vit_jax/ops/patches.py", "from vit_jax.layers.mlp import Mlp"),
        ("vit_jax/ops/patches.py", "import vit_jax.models.vit as vit"),
        ("vit_jax/ops/patches.py", "def f():\n    from vit_jax import build"),
        ("vit_jax/ops/patches.py", "if TYPE_CHECKING:\n    from vit_jax.models import vit"),
        ("vit_jax/ops/patches.py", "from ..layers import mlp"),
        ("vit_jax/ops/patches.py", "from .. import layers"),
        ("vit_jax/ops/patches.py", "from vit_jax import create_model"),
        ("vit_jax/cli/main.py", "import vit_jax"),
        ("vit_jax/layers/mlp.py", "from vit_jax.data import order"),
        ("vit_jax/data/order.py", "from vit_jax.layers import mlp"),
        ("vit_jax/errors.py", "from vit_jax.ops import patches"),
        ("vit_jax/novel/thing.py", "from vit_jax.errors import InputError"),
        ("vit_jax/cli/main.py", "import train"),
        ("vit_jax/cli/main.py", "from configs import common"),
        ("vit_jax/training/step.py", "import tensorflow_datasets as tfds"),
        ("vit_jax/training/step.py", "import grain.python"),
        ("vit_jax/data/sources.py", "import tensorflow as tf"),
        ("vit_jax/pretrained/timm.py", "def f():\n    from torch import nn"),
        ("vit_jax/__init__.py", "import torch"),
        ("vit_jax/data/sources.py", "from absl import flags"),
        ("vit_jax/training/step.py", "from ml_collections import config_flags"),
        ("configs/digits.py", "import jax"),
        ("configs/digits.py", "from vit_jax import build"),
    ],
)
def test_checker_catches(path, source):
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vit_jax/ops/patches.py", "from vit_jax.errors import InputError\nfrom vit_jax.ops import posemb"),
        (
            "vit_jax/ops/patches.py",
            "from . import posemb\nfrom .posemb import sincos1d\nfrom ..errors import InputError",
        ),
        ("vit_jax/ops/__init__.py", "from .posemb import sincos1d"),
        ("vit_jax/types.py", "from vit_jax.version import __version__"),
        ("vit_jax/data/loader.py", "import grain\nimport tensorflow_datasets as tfds"),
        ("vit_jax/cli/flags.py", "from absl import flags\nfrom ml_collections import config_flags"),
        ("vit_jax/training/step.py", "import tensorboardX\nfrom absl import logging"),
        ("vit_jax/__init__.py", "from vit_jax.build.experiment import create_model"),
        ("train.py", "from vit_jax import build\nfrom vit_jax.cli import flags"),
        ("configs/digits.py", "from configs import common\nfrom ml_collections import ConfigDict"),
        ("configs/digits_families.py", "from configs import common, digits"),
    ],
)
def test_checker_lets_pass(path, source):
    assert violations(path, source) == []
