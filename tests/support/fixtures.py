"""Fixtures for tests with real guests: one private libvirtd for each test process. A conftest.py imports them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import libvirt
import pytest

from samepaged.config import Config
from samepaged.drift.ledger import FILE_NAME
from tests.support.command import Samepaged
from tests.support.libvirtd import Libvirtd, private_libvirtd
from tests.support.waiting import happens

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["connection", "every_guest_runs_on", "libvirtd", "root", "samepaged"]

PAUSE_SECONDS: Final = 1.0

libvirt.registerErrorHandler(lambda *_: None, None)


@pytest.fixture(scope="session")
def root() -> Iterator[Path]:
    # Not in pytest's own directories, because a socket's path is limited to 108 bytes (unix(7)).
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
    # Commands without a configuration share the host's ledger: no test may spend the drift budget of the next one.
    (Config().runtime_directory / FILE_NAME).unlink(missing_ok=True)
    return Samepaged(libvirtd.uri, tmp_path)


@pytest.fixture(autouse=True)
def every_guest_runs_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that a test leaves no guest paused, unless it has the mark `leaves_paused`."""
    yield
    if "connection" in request.fixturenames and request.node.get_closest_marker("leaves_paused") is None:
        connection = request.getfixturevalue("connection")

        def paused() -> list[str]:
            return [d.name() for d in connection.listAllDomains() if d.state()[0] == libvirt.VIR_DOMAIN_PAUSED]

        with contextlib.suppress(libvirt.libvirtError):
            # A daemon of the module's fixtures may be scanning; its pauses are short.
            assert happens(lambda: not paused(), PAUSE_SECONDS), paused()
