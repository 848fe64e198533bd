"""The published samples, from a web server on this computer that offers files of the same kinds."""

from __future__ import annotations

import functools
import http.server
import io
import threading
import zipfile
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from micro_sam import sample_data
from micro_sam.errors import DownloadError
from micro_sam.models.download import file_hash
from micro_sam.sample_data import published

FETCHERS = {
    "image_series": "fetch_image_series_example_data",
    "wholeslide": "fetch_wholeslide_example_data",
    "livecell": "fetch_livecell_example_data",
    "hela_2d": "fetch_hela_2d_example_data",
    "lucchi_3d": "fetch_3d_example_data",
    "tracking": "fetch_tracking_example_data",
    "tracking_segmentation": "fetch_tracking_segmentation_data",
    "nucleus_3d": "fetch_nucleus_3d_example_data",
    "wholeslide_histopathology": "fetch_wholeslide_histopathology_example_data",
}
LAYERS = {
    "image_series": "sample_data_image_series",
    "wholeslide": "sample_data_wholeslide",
    "livecell": "sample_data_livecell",
    "hela_2d": "sample_data_hela_2d",
    "lucchi_3d": "sample_data_3d",
    "tracking": "sample_data_tracking",
    "tracking_segmentation": "sample_data_segmentation",
}
MEMBERS = {
    "image_series": ["series/a.tif", "series/b.tif", "__MACOSX/series/._a.tif"],
    "lucchi_3d": ["Lucchi++/Test_In/mask0000.png", "Lucchi++/Test_In/mask0001.png", "Lucchi++/Test_Out/0.png"],
    "tracking": ["DIC/01/t000.tif", "DIC/01/t001.tif", "DIC/01_GT/TRA/man_track000.tif", "DIC/02/t000.tif"],
    "tracking_segmentation": ["masks/mask000.tif", "masks/mask001.tif"],
}
IMAGE = np.arange(48, dtype=np.uint8).reshape(6, 8)


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".png":
        iio.imwrite(buffer, IMAGE, extension=".png")
    else:
        tifffile.imwrite(buffer, IMAGE)
    return buffer.getvalue()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Every sample on a local server, with the hash of what is there; returns the folder that is served."""
    root = tmp_path / "server"
    root.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    samples = {}
    for name, sample in published.published_samples().items():
        path = root / sample.file
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                for member in MEMBERS[name]:
                    archive.writestr(member, encoded(member[-4:]))
        else:
            path.write_bytes(encoded(path.suffix))
        url = f"http://127.0.0.1:{server.server_port}/{sample.file}"
        samples[name] = replace(sample, url=url, hash=file_hash(path, "sha256:"))
    monkeypatch.setattr(published, "published_samples", lambda: samples)
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    yield root
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_sample_has_a_fetcher():
    assert set(FETCHERS) == set(published.published_samples())


@pytest.mark.parametrize("name", FETCHERS)
def test_a_sample_is_downloaded_once_and_then_used_without_network(name, served, tmp_path):
    fetch = getattr(sample_data, FETCHERS[name])
    path = fetch(tmp_path / "here")
    (served / published.published_samples()[name].file).unlink()
    assert fetch(tmp_path / "here") == path
    found = published.Path(path)
    if name in MEMBERS:
        expected = [m.rpartition("/")[2] for m in MEMBERS[name] if "/" + found.name + "/" in "/" + m and "__" not in m]
        assert sorted(p.name for p in found.iterdir()) == expected
    else:
        assert found.read_bytes() == encoded(found.suffix)
    assert not list((tmp_path / "here").glob(".*"))


@pytest.mark.parametrize("name", LAYERS)
def test_a_sample_is_given_as_layers(name, served):
    layers = getattr(sample_data, LAYERS[name])()
    assert {kind for _, _, kind in layers} == {"labels" if "segmentation" in name else "image"}
    n_slices = 2 if name in ("lucchi_3d", "tracking", "tracking_segmentation") else None
    for data, options, _ in layers:
        assert options["name"]
        expected = IMAGE if n_slices is None else np.stack([IMAGE] * n_slices)
        np.testing.assert_array_equal(np.asarray(data), expected)
    assert len(layers) == (2 if name == "image_series" else 1)


def test_a_wrong_file_is_refused_and_leaves_nothing(served, tmp_path):
    (served / "livecell-2d-image.png").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="not the expected"):
        sample_data.fetch_livecell_example_data(tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_broken_archive_leaves_no_folder(served, tmp_path, monkeypatch):
    (served / "image-series.zip").write_bytes(b"PK broken")
    samples = dict(published.published_samples())
    samples["image_series"] = replace(samples["image_series"], hash=file_hash(served / "image-series.zip", "sha256:"))
    monkeypatch.setattr(published, "published_samples", lambda: samples)
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        sample_data.fetch_image_series_example_data(tmp_path / "here")
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["image-series.zip"]


@pytest.mark.parametrize("name", FETCHERS)
def test_without_network_the_error_says_what_to_put_where(name, tmp_path):
    with pytest.raises(DownloadError) as error:
        getattr(sample_data, FETCHERS[name])(tmp_path)
    sample = published.published_samples()[name]
    assert sample.url in str(error.value) and str(tmp_path / sample.file) in str(error.value)
