"""Fixtures of tests with real guests: a private libvirtd for each process of the tests. A conftest.py imports them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from samepaged.config import Config
from samepaged.drift.ledger import FILE_NAME
from tests.support.command import Samepaged
from tests.support.libvirtd import Libvirtd, private_libvirtd

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["connection", "every_guest_runs_on", "libvirtd", "root", "samepaged"]

libvirt.registerErrorHandler(lambda *_: None, None)


@pytest.fixture(scope="session")
def root() -> Iterator[Path]:
    # Sockets' names are short (unix(7): 108 bytes), so not pytest's own directories.
    with tempfile.TemporaryDirectory(prefix="spd-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def libvirtd(root: Path) -> Iterator[Libvirtd]:
    if os.geteuid() != 0:
        pytest.skip("a private libvirtd takes root")
    with private_libvirtd(root / "libvirt") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def connection(libvirtd: Libvirtd) -> Iterator[Any]:
    with contextlib.closing(libvirt.open(libvirtd.uri)) as connection:
        yield connection


@pytest.fixture
def samepaged(libvirtd: Libvirtd, tmp_path: Path) -> Samepaged:
    # Commands without a configuration share the host's ledger: no test is to spend the drift budget of the next.
    (Config().runtime_directory / FILE_NAME).unlink(missing_ok=True)
    return Samepaged(libvirtd.uri, tmp_path)


@pytest.fixture(autouse=True)
def every_guest_runs_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Resume guests after each test, unless the test paused one itself and declares it."""
    yield
    if "connection" in request.fixturenames and request.node.get_closest_marker("leaves_paused") is None:
        connection = request.getfixturevalue("connection")
        with contextlib.suppress(libvirt.libvirtError):
            paused = [d.name() for d in connection.listAllDomains() if d.state()[0] == libvirt.VIR_DOMAIN_PAUSED]
            assert paused == []
