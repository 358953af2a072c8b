"""vit-jax predict: what it reads, what it prints and writes, for a task that is not a classifier."""

import contextlib
import errno
import functools
import http.server
import io
import json
import os
import sys
import threading
import time

import numpy as np
import pytest
from bright import bright_predictor
from PIL import Image

from vit_jax.cli import image_inputs
from vit_jax.cli.main import main


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """The model that every command here loads."""
    monkeypatch.setattr("vit_jax.inference.predictor.load", lambda source, step="last": bright_predictor())


def status(*arguments):
    try:
        return main(["predict", "--model", "any", *map(str, arguments)])
    except SystemExit as end:
        return end.code


def half_bright(width=40, height=20):
    """The left half is white, the right half black."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "in" / "photo.png"
    file.parent.mkdir()
    half_bright().save(file)
    return file


def encoded(image, file_format="PNG"):
    stream = io.BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()


@contextlib.contextmanager
def served(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_line_or_an_object_for_each_image(photo, capsys):
    assert status(photo) == 0
    assert capsys.readouterr().out == f"{photo}: 50% is bright ☀\n"
    assert status(photo, photo, "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"image": str(photo), "share": 0.5}
    ] * 2


def test_out_gets_pictures_in_the_original_size(photo, tmp_path, capsys):
    out = tmp_path / "answers" / "new"
    assert status(photo, "--out", out, "--json") == 0
    files = [out / "photo.png", out / "photo.mask.png"]
    assert json.loads(capsys.readouterr().out)["files"] == [str(file) for file in files]
    assert sorted(out.iterdir()) == sorted(files)
    drawn = np.asarray(Image.open(files[0]))
    np.testing.assert_array_equal(drawn[:, :20], np.broadcast_to([255, 0, 0], (20, 20, 3)))
    np.testing.assert_array_equal(drawn[:, 20:], np.zeros((20, 20, 3)))
    np.testing.assert_array_equal(np.asarray(Image.open(files[1]))[0], [1] * 20 + [0] * 20)


def test_no_picture_replaces_another_or_an_input(photo, tmp_path, capsys):
    other = tmp_path / "other" / "photo.jpg"
    other.parent.mkdir()
    half_bright(80, 40).save(other, quality=95)
    before = photo.read_bytes()
    assert status(photo, other, "--out", photo.parent) == 0
    assert photo.read_bytes() == before
    names = ["photo.png", "photo_2.mask.png", "photo_2.png", "photo_3.mask.png", "photo_3.png"]
    assert sorted(file.name for file in photo.parent.iterdir()) == names
    assert Image.open(photo.parent / "photo_3.png").size == (80, 40)
    assert status(photo.parent, "--out", photo.parent) == 0  # the folder's own images are inputs too
    assert photo.read_bytes() == before


def test_a_folder_stands_for_all_that_decodes_in_it(photo, capsys):
    deep = photo.parent / "b" / "c"
    deep.mkdir(parents=True)
    half_bright().save(deep / "deep.webp", lossless=True)
    (deep / "no_ending").write_bytes(encoded(half_bright()))
    (deep / "notes.txt").write_text("not an image")
    (deep / ".hidden.png").write_bytes(encoded(half_bright()))
    assert status(photo.parent, "--batch-size", 2) == 0
    names = [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [str(photo), str(deep / "deep.webp"), str(deep / "no_ending")]
    (deep / "damaged.png").write_bytes(encoded(half_bright())[:40])
    assert status(photo.parent) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "damaged.png" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("out", [False, True])
def test_encoded_images_are_kept_until_the_batch_is_full_only_to_be_drawn_on(out, tmp_path, monkeypatch, capsys):
    held = set()

    class Content(bytes):
        def __del__(self):
            held.discard(id(self))

    def read():
        content = Content(encoded(half_bright()))
        held.add(id(content))
        return content

    inputs = [image_inputs.ImageInput(name, name, read) for name in "abcdefgh"]
    monkeypatch.setattr(image_inputs, "find_images", lambda names, on_error: iter(inputs))
    seen, model = [], bright_predictor()
    predict = type(model).predict
    monkeypatch.setattr(type(model), "predict", lambda *args, **kw: seen.append(len(held)) or predict(*args, **kw))
    assert status("any", "--batch-size", 4, *(["--out", tmp_path / "out"] if out else [])) == 0
    assert seen == ([4, 5] if out else [1, 1])


def test_a_folder_without_images_is_an_error(tmp_path, photo, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert status(empty, photo) == 2
    out, err = capsys.readouterr()
    assert out.startswith(str(photo)) and err == f"vit-jax predict: {empty} holds no images that Pillow reads\n"


def test_standard_input(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded(half_bright(), "BMP"))))
    assert status("-", "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("-: 50% is bright")
    assert (tmp_path / "out" / "stdin.mask.png").is_file()
    for content, message in ((b"", "standard input is empty"), (b"hello", "- is not an image")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert status("-") == 2
        assert message in capsys.readouterr().err


def test_urls(photo, tmp_path, capsys):
    with served(functools.partial(Quiet, directory=str(photo.parent))) as address:
        assert status(f"{address}/photo.png?size=1", "--out", tmp_path / "out") == 0
        assert capsys.readouterr().out.startswith(f"{address}/photo.png?size=1: 50% is bright")
        assert (tmp_path / "out" / "photo.png").is_file()
        assert status(f"{address}/none.png", photo) == 2
        out, err = capsys.readouterr()
        assert out.startswith(str(photo)) and err.endswith("/none.png cannot be read: 404 File not found\n")
    assert status(f"{address}/photo.png") == 2  # nobody listens any more
    assert "refused" in capsys.readouterr().err
    for url in ("http://", "http://a b/", "https://[::1"):
        assert status(url) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


class Strange(Quiet):
    """A server that answers as its paths say."""

    def do_GET(self):
        kind = self.path.strip("/")
        places = {
            "again": "/f%C3%BCr%20dich.png",
            "loop": "/loop",
            "passwd": "file:///etc/passwd",
            "ftp": "ftp://a/b.png",
        }
        self.send_response(302 if kind in places else 200)
        if kind in places:
            self.send_header("Location", places[kind])
        content = {"page": b"  <!doctype html><p>no</p>", "nothing": b""}.get(kind, encoded(half_bright()))
        self.send_header("Content-Length", str(10**12 if kind == "huge" else len(content)))
        self.end_headers()
        self.wfile.write(content[:20] if kind == "short" else content)


def test_strange_answers_are_one_line_each(capsys):
    with served(Strange) as address:
        for path in ("again", "für dich.png", "a%20b.png?x=1 2#here"):
            assert status(f"{address}/{path}") == 0, path
            assert "50% is bright" in capsys.readouterr().out
        for path, message in {
            "loop": "cannot be read: 302 ",
            "passwd": "cannot be read: 302 ",
            "ftp": "cannot be read: unknown url type: ftp",
            "page": "is no image: the server sent ",
            "nothing": "is empty; valid: one encoded image",
            "short": "cannot be read: it ended after 20 of ",
            "huge": "has more than 134,217,728 bytes",
        }.items():
            assert status(f"{address}/{path}") == 2, path
            out, err = capsys.readouterr()
            assert out == "" and f"/{path} {message}" in err and len(err.splitlines()) == 1


def test_names_that_are_no_image_are_one_line_each(photo, capsys):
    names = {
        "": "'' is no image",
        "file:///etc/passwd": "file:///etc/passwd is not read; valid: a file, a folder, or a URL of http or https",
        "s3://bucket/a.png": "s3://bucket/a.png is not read",
        "http://me:secret@host/a.png": "host is not asked with a name and a password",
    }
    assert status(*names, photo) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and out.startswith(str(photo))
    for line, message in zip(err.splitlines(), names.values(), strict=True):
        assert message in line


def test_a_folder_with_links_pipes_and_damaged_files(photo, tmp_path, capsys):
    folder = photo.parent
    other = tmp_path / "other"
    other.mkdir()
    half_bright().save(other / "linked.png")
    (folder / "a").symlink_to(other)
    (folder / "b").symlink_to(folder)  # back up
    (folder / "nowhere.png").symlink_to("/nowhere/a.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "text.png").write_text("hello")
    assert status(folder) == 2
    out, err = capsys.readouterr()
    assert [line.partition(": ")[0] for line in out.splitlines()] == [str(photo), str(folder / "a" / "linked.png")]
    assert [name in line for name, line in zip(("nowhere.png", "text.png"), err.splitlines(), strict=True)] == [
        True
    ] * 2


def test_a_url_that_sends_too_much_or_nothing(monkeypatch, capsys):
    ended = threading.Event()

    class Handler(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            if "drip" in self.path:  # never a pause that is too long
                with contextlib.suppress(OSError):
                    while not ended.wait(0.1):
                        self.wfile.write(b"x")
            elif "large" in self.path:
                with contextlib.suppress(OSError):
                    for _ in range(100):
                        self.wfile.write(b"x" * 1000)
            else:
                ended.wait(20)

    monkeypatch.setattr(image_inputs, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(image_inputs, "MAX_BYTES", 5000)
    with served(Handler) as address:
        assert status(f"{address}/large.png") == 2
        assert "large.png has more than 5,000 bytes" in capsys.readouterr().err
        for name in ("slow", "drip"):
            started = time.monotonic()
            assert status(f"{address}/{name}.png") == 2
            assert time.monotonic() - started < 10
            assert f"{name}.png cannot be read: no answer within 0.5 seconds" in capsys.readouterr().err
        ended.set()


def test_options_of_the_task(photo, capsys):
    assert status(photo, "--option", "threshold=2") == 0
    assert capsys.readouterr().out.startswith(f"{photo}: 0% is bright")
    for arguments, message in (
        (["--option", "treshold=2"], "the task 'bright' has no option 'treshold' of results; nearest: 'threshold'"),
        (["--top-k", "3"], "has no option 'top_k' of results; valid: threshold"),
        (["--option", "threshold"], "--option is 'threshold'; valid: NAME=VALUE"),
        (["--option", "threshold=high"], "--option threshold is 'high'; valid: a number"),
    ):
        assert status(photo, *arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and message in err and len(err.splitlines()) == 1


def test_output_that_is_not_utf8(photo, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert status(photo) == 0
    assert raw.getvalue().decode() == f"{photo}: 50% is bright \\u2600\n"


def test_an_out_that_is_a_file_is_refused_before_anything_is_read(photo, capsys):
    assert status(photo, "--out", photo) == 2
    assert f"--out {photo} exists already and is no folder" in capsys.readouterr().err


def test_a_pipe_and_a_device_are_read_to_their_end_or_to_the_limit(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_inputs, "MAX_BYTES", 5000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(encoded(half_bright())))
    writer.start()
    assert status(pipe, "/dev/zero", "/dev/null", "", "x" * 300, photo, "--out", tmp_path / "out") == 2
    writer.join()
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [str(pipe), str(photo)]
    messages = [
        "/dev/zero has more than 5,000 bytes",
        "/dev/null is empty",
        "'' is no image",
        "x cannot be read: File name too long",
    ]
    assert len(err.splitlines()) == 4 and all(map(str.__contains__, err.splitlines(), messages)), err
    os.mkfifo(photo.parent / "waits.png")
    assert status(photo.parent) == 0  # which nobody writes to


def test_names_of_pictures_fit_a_file_system(tmp_path, capsys):
    file = tmp_path / f"{'猫' * 80}.png"  # 240 bytes
    half_bright().save(file)
    assert status(file, "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_an_empty_out_is_refused_and_a_home_of_nobody_is_a_name(photo, monkeypatch, capsys):
    monkeypatch.chdir(photo.parent)
    assert status(photo, "--out", "") == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "vit-jax predict: --out is empty; valid: a folder\n")
    assert status(photo, "--out", "~nobody of this name/a") == 0
    assert (photo.parent / "~nobody of this name" / "a" / "photo.png").is_file()


def test_a_folder_that_cannot_be_read_is_named_and_the_others_answered(photo, monkeypatch, capsys):
    closed = photo.parent / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert status(photo.parent, closed) == 2
    out, err = capsys.readouterr()
    assert out.startswith(str(photo)) and out.count("\n") == 1
    assert err == f"vit-jax predict: {closed} cannot be read: Permission denied\n" * 2
