from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest

from micro_sam.errors import DownloadError, UnknownModelError
from micro_sam.models import cache as cache_module
from micro_sam.models import download, spec
from micro_sam.models.cache import checkpoint_location, decoder_location, is_cached
from micro_sam.models.download import file_hash, models

CONTENT = b"weights " * 500_000  # several chunks of a download
OLD_CONTENT = b"older weights " * 1000


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        kind = self.path.strip("/")
        if kind == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        body = b"x" * len(CONTENT) if kind == "wrong" else CONTENT
        if kind == "breaks":
            body = CONTENT[: len(CONTENT) // 2]
        if kind == "slow":
            self.wfile.write(body[: len(body) // 2])
            self.server.half_sent.set()
            self.server.go_on.wait(300)
            return
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A web server on this computer: /good, /wrong (bytes), /breaks (off in the middle), /slow, /missing."""
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http_server.requests, http_server.half_sent, http_server.go_on = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=http_server.serve_forever)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{http_server.server_port}", server=http_server)
    http_server.go_on.set()
    http_server.shutdown()
    http_server.server_close()
    thread.join()


@pytest.fixture
def register(monkeypatch, tmp_path, cache):
    """A function that registers one model (and one earlier release) whose file the server at a url has."""
    reference, old = tmp_path / "reference", tmp_path / "old_reference"
    reference.write_bytes(CONTENT)
    old.write_bytes(OLD_CONTENT)

    def do(url, algorithm="xxh128:"):
        document = textwrap.dedent(f"""
            [models.net]
            group = "current"
            encoder = "vit_t"
            url = "{url}"
            hash = "{file_hash(reference, algorithm)}"
            decoder = "unetr"
            decoder_url = "{url}"
            decoder_hash = "{file_hash(reference, algorithm)}"
            [models."net@0.1"]
            group = "previous"
            encoder = "vit_t"
            url = "{url}/old"
            hash = "{file_hash(old, "sha256:")}"
        """)
        sections = spec.parse_registry(document)
        monkeypatch.setattr(spec, "_registry", lambda: sections)
        return cache / "models"

    return do


def _files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("algorithm", ["xxh128:", "sha256:"])
def test_a_model_is_downloaded_once_and_then_used_without_network(server, register, algorithm):
    folder = register(f"{server.url}/good", algorithm)
    path = models().fetch("net")
    assert path == str(folder / "net")
    assert (folder / "net").read_bytes() == CONTENT
    assert models().fetch("net") == path
    assert server.server.requests == ["/good"]
    assert _files(folder) == ["net"]


def test_the_decoder_is_a_file_of_its_own(server, register):
    folder = register(f"{server.url}/good")
    models().fetch("net_decoder")
    assert _files(folder) == ["net_decoder"]
    assert not is_cached("net")
    models().fetch("net")
    assert is_cached("net")


def test_a_download_that_breaks_off_leaves_nothing_behind(server, register):
    folder = register(f"{server.url}/breaks")
    with pytest.raises(DownloadError) as error:
        models().fetch("net")
    for part in ("net", f"{server.url}/breaks", str(folder / "net"), "vit_t_builtin"):
        assert part in str(error.value)
    assert _files(folder) == []


def test_wrong_bytes_are_discarded(server, register):
    folder = register(f"{server.url}/wrong")
    with pytest.raises(DownloadError, match="is not the model 'net': its hash is xxh128:[0-9a-f]+ instead of xxh128:"):
        models().fetch("net")
    assert _files(folder) == []


def test_a_missing_file_on_the_server_is_reported(server, register):
    folder = register(f"{server.url}/missing")
    with pytest.raises(DownloadError, match="HTTP status 404"):
        models().fetch("net")
    assert _files(folder) == []


def test_a_killed_download_leaves_no_file_under_the_models_name_and_can_be_repeated(server, register, monkeypatch):
    folder = register(f"{server.url}/slow")
    code = (
        "import sys; from micro_sam.models import spec; from micro_sam.models.download import models\n"
        "sections = spec.parse_registry(sys.stdin.read())\n"
        "spec._registry = lambda: sections\n"
        "models().fetch('net')"
    )
    net = spec.get_spec("net")
    document = f'[models.net]\ngroup = "current"\nencoder = "vit_t"\nurl = "{net.url}"\nhash = "{net.hash}"\n'
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)
    process.stdin.write(document)
    process.stdin.close()
    assert server.server.half_sent.wait(120)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in folder.glob(".net.*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (leftover,) = folder.iterdir()
    assert leftover.name.startswith(".net.")
    os.utime(leftover, (0, 0))
    register(f"{server.url}/good")
    models().fetch("net")
    assert _files(folder) == ["net"]


def test_a_file_that_is_not_the_model_is_reported_and_left_alone(server, register):
    folder = register(f"{server.url}/good")
    folder.mkdir(parents=True)
    (folder / "net").write_bytes(b"my own weights")
    with pytest.raises(DownloadError, match="is not the model 'net'.*delete it .* or pass it as checkpoint_path"):
        models().fetch("net")
    assert (folder / "net").read_bytes() == b"my own weights"
    assert server.server.requests == []


def test_the_file_of_an_earlier_release_is_replaced_and_kept_under_its_own_name(server, register, caplog):
    folder = register(f"{server.url}/good")
    folder.mkdir(parents=True)
    (folder / "net").write_bytes(OLD_CONTENT)
    models().fetch("net")
    assert (folder / "net").read_bytes() == CONTENT
    assert (folder / "net@0.1").read_bytes() == OLD_CONTENT
    assert "earlier release" in caplog.text
    assert models().fetch("net@0.1") == str(folder / "net@0.1")


def test_without_network_an_earlier_release_in_the_cache_is_offered(server, register):
    folder = register(f"{server.url}/missing")
    folder.mkdir(parents=True)
    (folder / "net").write_bytes(OLD_CONTENT)
    with pytest.raises(DownloadError, match=r"the earlier release 'net@0\.1', which is in the cache"):
        models().fetch("net")
    assert (folder / "net").read_bytes() == OLD_CONTENT


class _Bar:
    def __init__(self):
        self.total, self.seen, self.closed = 0, 0, False

    def update(self, n):
        self.seen += n

    def reset(self):
        self.seen = 0

    def close(self):
        self.closed = True


def test_a_progress_bar_of_ones_own_is_driven(server, register):
    register(f"{server.url}/good")
    bar = _Bar()
    models().fetch("net", progressbar=bar)
    assert (bar.total, bar.seen, bar.closed) == (len(CONTENT), len(CONTENT), True)


def test_a_progress_bar_is_made_only_for_a_download(server, register):
    register(f"{server.url}/good")
    bars = []
    for _ in range(2):
        models().fetch("net", progressbar=lambda: bars.append(_Bar()) or bars[-1])
    assert len(bars) == 1


def test_a_cache_that_cannot_be_written_to_is_named(server, register, cache):
    register(f"{server.url}/good")
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file in the place of the folder")
    with pytest.raises(DownloadError, match="MICROSAM_CACHEDIR"):
        models().fetch("net")


def test_a_full_disk_is_named(server, register, monkeypatch):
    folder = register(f"{server.url}/good")

    def full(url, output_file, pooch):
        raise OSError(28, "No space left on device")

    with pytest.raises(DownloadError, match="cannot be written to .* \\(No space left on device\\): make room"):
        models().fetch("net", downloader=full)
    assert _files(folder) == []


DOWNLOADABLE = [name for name in spec.model_names() if spec.get_spec(name).url]


@pytest.mark.parametrize("name", DOWNLOADABLE)
def test_without_network_the_error_says_what_to_put_where(name, cache):
    with pytest.raises(DownloadError) as error:
        models().fetch(name)
    message = str(error.value)
    for part in (repr(name), spec.get_spec(name).url, str(cache / "models" / name), "'vit_t_builtin'"):
        assert part in message
    assert _files(cache / "models") == []


@pytest.mark.parametrize("name", spec.model_names())
def test_the_store_knows_the_files_of_every_model(name, cache):
    store, model = models(), spec.get_spec(name)
    assert (name in store.registry) == (model.url is not None)
    if model.url:
        assert (store.registry[name], store.urls[name]) == (model.hash, model.url)
        assert checkpoint_location(name) == cache / "models" / name
    if model.decoder_url:
        decoder = f"{name}_decoder"
        assert (store.registry[decoder], store.urls[decoder]) == (model.decoder_hash, model.decoder_url)
        assert decoder_location(name) == cache / "models" / decoder


def test_a_publication_without_a_file_names_its_doi(cache):
    with pytest.raises(DownloadError, match="https://doi.org/10.5281/zenodo.11117495 .* model_type='vit_h'"):
        models().fetch("vit_h_em_organelles")


def test_an_unknown_name_is_refused(cache):
    with pytest.raises(UnknownModelError):
        models().fetch("vit_b_lmm")


def test_a_bundled_model_that_is_missing_says_so(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "bundled_path", lambda name: tmp_path / name)
    with pytest.raises(DownloadError, match="should be part of the package"):
        models().fetch("vit_t_builtin")
    (tmp_path / "vit_t_builtin.pt").write_bytes(b"x")
    assert models().fetch("vit_t_builtin") == str(tmp_path / "vit_t_builtin.pt")


def test_the_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path))
    assert cache_module.get_cache_directory() == cache_module.microsam_cachedir() == tmp_path
    monkeypatch.delenv("MICROSAM_CACHEDIR")
    assert cache_module.get_cache_directory().name == "micro_sam"
