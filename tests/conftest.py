"""Fixtures of every test: a fresh home, no network, the shared material when it is there."""

from __future__ import annotations

import errno
import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
if "PYTEST_XDIST_WORKER" in os.environ:
    # tests in several processes at once: one thread each, or they wait for one another; torch reads it when imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and real data, or a skip that says how to provide it."""
    path = Path(os.environ.get("SPEECHPROMPT_SHARED", ROOT.parent / "shared"))
    if not (path / "golden").is_dir():
        pytest.skip(f"no golden numbers or real data at {path}; set SPEECHPROMPT_SHARED")
    return path


@pytest.fixture(autouse=True)
def fresh_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test gets an empty cache folder and no tokens of the user's."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SPEECHPROMPT_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that opens a connection to anything but this machine fails."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else address
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Close files and folders as a mode of 0 does to users; root, who may run the tests, ignores modes."""
    closed: set[str] = set()

    def guarded(real: Callable[..., Any], itself: bool) -> Callable[..., Any]:
        def call(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            name = "" if isinstance(path, int) else os.fsdecode(path)
            if any((itself and name == one) or name.startswith(one + "/") for one in closed):
                raise PermissionError(errno.EACCES, "Permission denied", name)
            return real(path, *arguments, **options)

        return call

    for module, name in ((os, "scandir"), (os, "listdir"), (io, "open"), (os, "stat")):
        monkeypatch.setattr(module, name, guarded(getattr(module, name), itself=name != "stat"))
    return lambda path: closed.add(str(path))
