"""What every test gets: a cache folder of its own, no settings of the user's, and no network."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

# Before anything is imported: the default model is found when the models are.
os.environ["MICROSAM_SETTINGS"] = str(Path(tempfile.gettempdir()) / "micro_sam tests have no settings.json")
for _name in ("MICROSAM_MODEL", "MICROSAM_DEVICE", "MICROSAM_PRECISION", "MICROSAM_JOURNALS"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session", autouse=True)
def _temporary_cache(tmp_path_factory):
    """Models and samples that lie in the user's cache must not decide whether a test passes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROSAM_CACHEDIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Connections that would leave this computer fail at once."""
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family == socket.AF_UNIX or str(address[0]) in ("localhost", "127.0.0.1", "::1"):
            return connect(self, address)
        raise ConnectionRefusedError(f"Tests use no network, but one connects to {address}.")

    monkeypatch.setattr(socket.socket, "connect", local_only)
