"""The real hub client against a small HTTP server of this machine, in processes of their own.

huggingface_hub reads its environment when it is imported, so each case starts Python anew.
"""

import hashlib
import http.server
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import GOLDEN, ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys, vit_jax
classifier = vit_jax.load(sys.argv[1], revision=sys.argv[2] or None)
print(classifier.report, classifier.class_names[0])
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for `owner/<folder of tests/golden>`, with a revision `old` too."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        if "/resolve/" in self.path:  # the client asks for other things too, by itself
            self.server.requests.append((self.path, self.headers.get("authorization")))
        prefix, _, rest = self.path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        folder = GOLDEN / prefix.removeprefix("/owner/")
        file = folder / name
        if not folder.is_dir():
            return self.refuse("RepoNotFound", 401)
        if revision not in ("main", "old", COMMIT):
            return self.refuse("RevisionNotFound", 404)
        if not file.is_file() or name == "expected.npz":
            return self.refuse("EntryNotFound", 404)
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, code, status):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        """Says nothing."""


@pytest.fixture
def hub():
    """The server; `hub.requests` are the paths and tokens it was asked with."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def run(source, cache, *, endpoint="http://127.0.0.1:9", revision="", **environment):
    """Loads in a process of its own."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PYTHONPATH": str(ROOT)} | environment
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", LOAD, source, revision]
    return subprocess.run(command, env=kept | environment, cwd=cache, capture_output=True, text=True, timeout=300)


def load(source, cache, **options):
    """Gives what it printed, or the error's last line."""
    done = run(source, cache, **options)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def address(hub):
    return f"http://127.0.0.1:{hub.server_port}"


def test_it_is_fetched_with_the_token_and_then_read_offline(hub, tmp_path):
    answer = "owner/hf_vit: 57 loaded, 0 resized, 0 adapted, 0 newly initialised, 0 unused tench"
    assert load("owner/hf_vit", tmp_path, endpoint=address(hub), HF_TOKEN="hf_secret") == answer
    paths = {path for path, _ in hub.requests}
    assert {token for _, token in hub.requests} == {"Bearer hf_secret"}
    assert {path.rsplit("/", 1)[1] for path in paths} == {
        "config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }
    before = len(hub.requests)
    assert load("owner/hf_vit", tmp_path, endpoint=address(hub), HF_HUB_OFFLINE="1") == answer
    assert len(hub.requests) == before


def test_timm_has_no_preprocessor_file_and_is_read_offline_all_the_same(hub, tmp_path):
    answer = "owner/timm_vit: 57 loaded, 0 resized, 0 adapted, 0 newly initialised, 0 unused 0"
    assert load("owner/timm_vit", tmp_path, endpoint=address(hub)) == answer
    assert load("owner/timm_vit", tmp_path, HF_HUB_OFFLINE="1") == answer


def test_a_revision_is_asked_for(hub, tmp_path):
    assert "57 loaded" in load("owner/hf_vit", tmp_path, endpoint=address(hub), revision="old")
    assert all("/resolve/old/" in path or f"/{COMMIT}/" in path for path, _ in hub.requests)
    message = load("owner/hf_vit", tmp_path, endpoint=address(hub), revision="new")
    assert "owner/hf_vit at new is no folder here" in message and "it has no revision 'new'" in message


def test_a_repository_that_is_not_there(hub, tmp_path):
    message = load("owner/none", tmp_path, endpoint=address(hub))
    assert message.startswith("vit_jax.errors.InputError: owner/none is no folder here")
    assert "there is no such repository, or it is private" in message


def test_offline_and_not_cached_one_line_says_how_to_fetch_it(tmp_path):
    message = load("owner/hf_vit", tmp_path, HF_HUB_OFFLINE="1")
    assert message.startswith(
        "vit_jax.errors.InputError: owner/hf_vit is no folder here, its config.json is not in the"
    )
    assert str(tmp_path) in message and "HF_HUB_OFFLINE is set" in message
    assert "`hf download owner/hf_vit --local-dir hf_vit`" in message


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    """Nothing listens there; the client itself would try six times, with a line each."""
    message = load("owner/hf_vit", tmp_path)
    assert "its config.json is not in the cache" in message and "fetched from http://127.0.0.1:9: Connect" in message
    assert "; valid: a work directory of train.py" in message
    done = run("owner/hf_vit", tmp_path)
    assert "Retrying" not in done.stderr


def test_a_hub_that_cannot_be_reached_leaves_what_is_cached(hub, tmp_path):
    answer = "owner/hf_vit: 57 loaded, 0 resized, 0 adapted, 0 newly initialised, 0 unused tench"
    assert load("owner/hf_vit", tmp_path, endpoint=address(hub)) == answer
    (tmp_path / "owner").mkdir()  # a folder of the name's first part does not hide it
    assert load("owner/hf_vit", tmp_path) == answer


def test_a_missing_folder_within_a_folder_is_not_asked_of_the_hub(hub, tmp_path):
    (tmp_path / "owner" / "other").mkdir(parents=True)
    message = load("owner/hf_vit", tmp_path, endpoint=address(hub))
    assert "owner/hf_vit does not exist; owner holds other; valid: a work directory of train.py" in message
    assert message.endswith("hub, if that is meant: `hf download owner/hf_vit --local-dir owner/hf_vit`")
    assert "does not exist; owner holds other" in load("./owner/x", tmp_path, endpoint=address(hub))
    for path in ("nowhere/x.npz", "nowhere/deep/x", "~/nowhere/x"):
        assert f"{path} is no work directory, folder or file that exists; valid:" in load(path, tmp_path)
    assert not hub.requests


def test_an_npz_is_read_from_a_url_and_kept(tmp_path, monkeypatch):
    import vit_jax

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            """Says nothing."""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(
        vit_jax.InputError, match=r"none.npz cannot be read .*; download it elsewhere and give its path"
    ):
        vit_jax.load(f"{url}/none.npz")
    for _ in range(2):  # the second time without the server
        with pytest.raises(vit_jax.InputError, match=r"x.npz has no tensor 'embedding/kernel'"):
            vit_jax.load(f"{url}/x.npz")
        server.shutdown()
        server.server_close()
