"""Real guests: a libvirtd of the test run's own, the guests that most tests share, and running samepaged."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from samepaged.config import Config
from samepaged.drift.ledger import FILE_NAME
from tests.support.guests import Spec, Writer, running
from tests.support.libvirtd import Libvirtd, private_libvirtd

if TYPE_CHECKING:
    from collections.abc import Iterator

# One guest's region in MiB and in pages: the part of its memory that a test tells what to hold.
REGION = 16
REGION_PAGES = REGION * 256
LARGE = "samepaged-test-large"

libvirt.registerErrorHandler(lambda *_: None, None)

Scan = "Callable[..., Any]"


@pytest.fixture(scope="session")
def root() -> Iterator[Path]:
    # Sockets' names are short (unix(7): 108 bytes), so not pytest's own directories.
    with tempfile.TemporaryDirectory(prefix="spd-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def libvirtd(root: Path) -> Iterator[Libvirtd]:
    if os.geteuid() != 0:
        pytest.skip("system tests start libvirtd, which takes root")
    with private_libvirtd(root / "libvirt") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def connection(libvirtd: Libvirtd) -> Iterator[Any]:
    with contextlib.closing(libvirt.open(libvirtd.uri)) as connection:
        yield connection


@pytest.fixture(scope="session")
def pair(connection: Any, root: Path) -> Iterator[list[Writer]]:
    """Two writer guests of one image, for the whole run. A test leaves them running, and says what they hold."""
    with running(
        connection, root, *(Spec(f"samepaged-test-{name}", cmdline=f"region={REGION}") for name in "ab")
    ) as writers:
        yield writers


@pytest.fixture(scope="module")
def large(connection: Any, root: Path) -> Iterator[Writer]:
    """A guest of a file's own, large enough that its pauses are easy to meet."""
    with running(connection, root, Spec(LARGE, memory=512, cmdline="region=320")) as (writer,):
        writer.fill(0, 320 * 256, 5, 320 * 256)
        yield writer


@contextlib.contextmanager
def in_a_job(writer: Writer, directory: Path) -> Iterator[None]:
    """A guest that libvirt is at work on: a live dump into a FIFO that nobody reads from."""
    fifo = directory / "never-read"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def dump() -> None:
        flags = libvirt.VIR_DUMP_MEMORY_ONLY | libvirt.VIR_DUMP_LIVE
        with pytest.raises(libvirt.libvirtError):
            writer.domain.coreDumpWithFormat(str(fifo), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, flags)

    thread = threading.Thread(target=dump)
    thread.start()
    try:
        # Not by asking for the job, on the connection that the dump is waiting on.
        assert select.select([reader], [], [], 20)[0], "no dump has begun"
        yield
    finally:
        os.close(reader)
        thread.join()
        fifo.unlink()


class Samepaged:
    """Runs the command line as a user would, against the test run's libvirtd."""

    def __init__(self, uri: str, root: Path) -> None:
        self.uri = uri
        self.root = root
        self.config = root / "config.yaml"
        self.configure("")

    def configure(self, more: str) -> Path:
        self.config.write_text(
            f"libvirt: {{uri: '{self.uri}'}}\nstate_directory: {self.root}/state\nruntime_directory: {self.root}/run\n"
            f"export: {{listen: '127.0.0.1:0'}}\n{more}\n"
        )
        return self.config

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "samepaged", *words]

    def __call__(self, *words: str, expect: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=120, check=False, **options)
        assert expect is None or done.returncode == expect, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
        return done

    def scan(self, *words: str, expect: int = 0) -> dict[str, Any]:
        done = self("scan", "--json", "--config", str(self.config), *words, expect=expect)
        result: dict[str, Any] = json.loads(done.stdout)
        return result


@pytest.fixture
def samepaged(libvirtd: Libvirtd, tmp_path: Path) -> Samepaged:
    # Commands without a configuration share the host's ledger: no test is to spend the drift budget of the next.
    (Config().runtime_directory / FILE_NAME).unlink(missing_ok=True)
    return Samepaged(libvirtd.uri, tmp_path)


@pytest.fixture(autouse=True)
def every_guest_runs_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, no guest is left paused, unless the test itself paused it (and then it says so)."""
    yield
    if "connection" in request.fixturenames and request.node.get_closest_marker("leaves_paused") is None:
        connection = request.getfixturevalue("connection")
        with contextlib.suppress(libvirt.libvirtError):
            paused = [d.name() for d in connection.listAllDomains() if d.state()[0] == libvirt.VIR_DOMAIN_PAUSED]
            assert paused == []
