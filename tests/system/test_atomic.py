"""Files and folders appear whole or not at all."""

import pytest

from vit_jax.system.atomic import writing


def test_a_file_and_a_folder_take_their_names_at_the_end(tmp_path):
    file, folder = tmp_path / "a.txt", tmp_path / "b"
    file.write_text("old")
    with writing(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    with writing(folder) as part:
        part.mkdir()
        (part / "c").write_text("c")
    assert (file.read_text(), (folder / "c").read_text()) == ("new", "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b"]


def test_a_failure_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    for make in (lambda part: part.write_text("half"), lambda part: part.mkdir()):
        with pytest.raises(KeyboardInterrupt), writing(file) as part:
            make(part)
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and file.read_text() == "old"


def test_an_error_that_names_no_file_names_this_one(tmp_path):
    with pytest.raises(OSError, match=r"file\.txt") as caught, writing(tmp_path / "file.txt"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file.txt")
    with pytest.raises(OSError, match="other"), writing(tmp_path / "file.txt"):
        raise OSError(28, "No space left on device", "other")
    with pytest.raises(OSError, match="No space left") as caught, writing(tmp_path / "file.txt"):
        raise RuntimeError("write() failed: No space left on device; at byte 36864")
    assert caught.value.filename == str(tmp_path / "file.txt")


@pytest.mark.parametrize(
    ("file", "write", "named"),
    [
        ("none/a", lambda part: part.write_text(""), "none/a"),
        ("a", lambda part: (part / "b").write_text(""), "a/b"),
        ("a", lambda part: None, "a"),  # there is nothing to rename
    ],
)
def test_an_error_names_the_file_and_not_the_hidden_one_beside_it(tmp_path, file, write, named):
    with pytest.raises(FileNotFoundError) as caught, writing(tmp_path / file) as part:
        write(part)
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{tmp_path / named}'"
