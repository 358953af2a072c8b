"""Where compiled programs are kept."""

import jax
import pytest

from vit_jax.system import compile_cache as compiled


@pytest.mark.parametrize(
    ("platform", "environment", "kept"),
    [("gpu", None, True), ("tpu", None, True), ("cpu", None, False), ("gpu", "x", False)],
)
def test_where_programs_are_kept(monkeypatch, tmp_path, platform, environment, kept):
    changes = []
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax.config, "update", lambda *change: changes.append(change))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if environment:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", environment)
    compiled.keep_in(tmp_path)
    assert changes == ([("jax_compilation_cache_dir", str(tmp_path))] if kept else [])
