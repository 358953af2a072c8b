"""Paths that libraries would take for a pattern or an address."""

import pathlib
import tempfile

import pytest

from vit_jax.errors import InputError
from vit_jax.system.alias import plain


def test_a_plain_path_is_itself():
    with plain(pathlib.Path("/runs/größe 1/a-b_c.d+e@f,g=h~")) as path:
        assert path == pathlib.Path("/runs/größe 1/a-b_c.d+e@f,g=h~")


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a\\b", "gs:", "a\nb\\", "\udcff"])
def test_any_other_has_a_plain_one_for_a_while(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    with plain(folder) as path:
        assert not set(str(path)) & set("[]*?\\:\n\udcff")
        (path / "file").write_text("x")
    assert (folder / "file").read_text() == "x" and not path.is_symlink()


def test_without_a_plain_folder_for_the_link_the_path_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[t]"))
    (tmp_path / "[t]").mkdir()
    with pytest.raises(InputError, match=r"has a plain path; valid: .*TMPDIR"), plain(tmp_path / "[a]"):
        pass
