"""Guest contents do not leak: the tests search every output of samepaged for a planted secret."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.hypervisor.guest import describe
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory.hashing import PythonHasher
from tests.support.command import Samepaged
from tests.support.daemon import daemon
from tests.support.guests import Spec, running
from tests.support.process_memory import holders, mappings, standing
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tests.support.guests import Writer
    from tests.support.libvirtd import Libvirtd
    from tests.support.process_memory import Mapping

PAGE = 4096
PT_LOAD = 1
PLANTED = 0x5EC7E7
# Most looks meet a scan before the secret is in its buffer, or after that.
ATTEMPTS = 200
MEMORY, REGION = 128, 48  # MiB
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern").read_text().strip()
CORES_GO_ELSEWHERE = "/" in CORE_PATTERN or not CORE_PATTERN.startswith("core")

MAIN = "import sys; from samepaged.cli import main; sys.exit(main())"
IN_PYTHON = f"import sys; sys.modules['samepaged.memory._pagehash'] = None; {MAIN}"
UNSEALED = f"from samepaged import privileges; privileges.seal = lambda: None; {MAIN}"

LIVE = "mode: live, reader: process"
DUMPED = "mode: snapshot, reader: dump, max_pause: 1m"
# By name: the `scan:` settings, the guest's memory backing, and the command.
WAYS = {
    "its process": (LIVE, "anonymous", MAIN),
    "its process, in Python": (LIVE, "anonymous", IN_PYTHON),
    "its process, parts of pages too": (f"{LIVE}, page_sizes: [1KiB]", "anonymous", MAIN),
    "the file behind its memory": (LIVE, "memfd", MAIN),
    "a dump": (DUMPED, "anonymous", MAIN),
    "a dump, in Python, parts of pages too": (f"{DUMPED}, page_sizes: [1KiB]", "anonymous", IN_PYTHON),
}


def mixed(x: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def content(seed: int) -> bytes:
    """Return the content of a page after the writer guest's `fill` (tests/support/guest_init.c, write_page)."""
    first = np.uint64(seed * 0x100000001B3 % 2**64)
    return mixed(first + np.arange(PAGE // 8, dtype=np.uint64)).tobytes()


SECRET = content(PLANTED)
NEEDLES = [SECRET[at : at + 32] for at in (0, 1000, 2048, PAGE - 32)]


@pytest.fixture(scope="module")
def guests(connection: Any, root: Path) -> Iterator[dict[str, Writer]]:
    """Two guests with the secret in much of their memory: one in memory of its process, one in a file."""
    memfd = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    region = f"region={REGION}"
    anonymous = Spec("samepaged-test-secret", memory=MEMORY, cmdline=region)
    shared = Spec("samepaged-test-shared-secret", memory=MEMORY, cmdline=region, memory_backing=memfd)
    with running(connection, root, anonymous, shared) as writers:
        for writer in writers:
            writer.fill(0, REGION * 256, PLANTED, 1)
        yield dict(zip(("anonymous", "memfd"), writers, strict=True))


class Started(Samepaged):
    """Starts `program` with the command line's words."""

    program = MAIN

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-c", self.program, *words]


@pytest.fixture
def started(libvirtd: Libvirtd, tmp_path: Path) -> Started:
    return Started(libvirtd.uri, tmp_path)


def prepare(started: Started, way: str, guests: dict[str, Writer], more: str = "") -> None:
    scan, where, started.program = WAYS[way]
    started.configure(
        f"guests: {{include: ['{guests[where].name}']}}\nscan: {{interval: 1s, jitter: 0, max_drift: 1, {scan}}}\n"
        f"log: {{level: debug}}\n{more}"
    )


@contextlib.contextmanager
def caught(pid: int) -> Iterator[list[Mapping]]:
    """The process standing in the middle of a scan, and the mappings in which it has the secret."""
    smaps = Path(f"/proc/{pid}/smaps")
    for _ in range(ATTEMPTS):
        wait_for(lambda: b" lo " in smaps.read_bytes(), 60, "a scan has locked memory", every=0.001)
        with standing(pid):
            # The search in all its memory takes longer than a guest should stand still for nothing.
            locked = [one for one in mappings(pid) if "lo" in one.flags]
            if locked and holders(pid, NEEDLES, locked):
                yield holders(pid, NEEDLES)
                return
    pytest.fail("no scan was met while it had the secret in its memory")


def children(pid: int) -> list[int]:
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def files(*directories: Path) -> bytes:
    return b"".join(
        path.read_bytes() for top in directories for path in top.rglob("*") if path.is_file() and path.name != "seed"
    )


def qemu(guest: Writer, libvirtd: Libvirtd) -> int:
    hypervisor = LibvirtHypervisor(libvirtd.uri)
    hypervisor.connect()
    with contextlib.closing(hypervisor):
        return describe(hypervisor.by_uuid(guest.domain.UUIDString())).process.pid


@pytest.mark.parametrize("where", ["anonymous", "memfd"])
def test_the_search_finds_the_secret_where_it_is(guests: dict[str, Writer], libvirtd: Libvirtd, where: str) -> None:
    pid = qemu(guests[where], libvirtd)
    ram = [one for one in mappings(pid) if one.end - one.start == MEMORY << 20]
    assert holders(pid, NEEDLES, ram)
    assert not holders(pid, [content(PLANTED + 1)[:32]], ram)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_of_a_guest_is_only_in_memory_that_is_neither_dumped_nor_swapped(
    started: Started, guests: dict[str, Writer], way: str
) -> None:
    prepare(started, way, guests)
    with daemon(started) as one:
        pid = one.process.pid
        for _ in range(3):
            with caught(pid) as held:
                assert [mapping for mapping in held if not mapping.secluded] == []
                assert [child for child in children(pid) if holders(child, NEEDLES)] == []
                assert not any(needle in files(started.root) for needle in NEEDLES)

        def nothing_between_scans() -> bool:
            # It has to get on with its scan between two looks: each takes it long to stand, and us to read.
            time.sleep(random.uniform(0, 0.5))
            with standing(pid):
                between_scans = not any(mapping.secluded for mapping in mappings(pid))
                assert not between_scans or holders(pid, NEEDLES) == []
            return between_scans

        wait_for(nothing_between_scans, 60, "a look between two scans")


def written(number: int) -> list[bytes]:
    """64 bits as anyone would write them."""
    signed = number - 2**64 if number >= 2**63 else number
    texts = (f"{number:x}", f"{number:X}", f"{number}", f"{signed}")
    return [*(text.encode() for text in texts), number.to_bytes(8, "little"), number.to_bytes(8, "big")]


def get(address: str, path: str, accept: str) -> bytes:
    request = urllib.request.Request(f"http://{address}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        body: bytes = answer.read()
    return body


@pytest.mark.parametrize("way", ["its process, parts of pages too", "a dump"])
def test_neither_content_nor_hashes_nor_the_seed_come_out(
    started: Started, guests: dict[str, Writer], way: str
) -> None:
    prepare(started, way, guests)
    with daemon(started) as one:
        one.wait_scans(2)
        out = {
            "metrics": get(one.address, "/metrics", "text/plain"),
            "openmetrics": get(one.address, "/metrics", "application/openmetrics-text; version=1.0.0"),
            "page": get(one.address, "/", "text/html"),
        }
        out["command line"] = Path(f"/proc/{one.process.pid}/cmdline").read_bytes()
        with standing(one.process.pid):
            out["files of a running daemon"] = files(started.root)
    scan = started("scan", "--json", "--config", str(started.config))
    table = started("scan", "--config", str(started.config))
    out |= {"scan": (scan.stdout + scan.stderr).encode(), "table": (table.stdout + table.stderr).encode()}
    out["files"] = files(started.root)  # the log of level debug is one of them
    assert b"samepaged: DEBUG" in out["files"] or b"samepaged: INFO" in out["files"]
    assert guests["anonymous"].name.encode() in out["metrics"]

    seed = int((started.root / "state" / "seed").read_text(), 16)
    hashes = np.empty(5, dtype=np.uint64)
    PythonHasher().hash_buffer(SECRET, hashes[:1], PAGE, seed)
    PythonHasher().hash_buffer(SECRET, hashes[1:], 1024, seed)
    secrets = [*NEEDLES, *written(seed), *(text for value in hashes for text in written(int(value)))]
    assert [(name, secret) for name, text in out.items() for secret in secrets if secret in text] == []


def ended(started: Started, guests: dict[str, Writer], way: str, how: signal.Signals) -> list[Path]:
    """The cores that are left of a daemon to which this signal is sent in the middle of a scan."""
    directory = started.root / "cores"
    directory.mkdir()
    prepare(started, way, guests, "# ordinary memory")
    unlimited = ["sh", "-c", f'ulimit -S -c $(ulimit -H -c); cd {directory}; exec "$@"', "sh"]
    with daemon(started, before=unlimited) as one:
        with caught(one.process.pid):
            one.process.send_signal(how)
        one.process.wait(60)
    return list(directory.iterdir())


def test_a_daemon_that_is_aborted_in_the_middle_of_a_scan_leaves_no_core(
    started: Started, guests: dict[str, Writer]
) -> None:
    assert ended(started, guests, "its process", signal.SIGABRT) == []


@pytest.mark.skipif(CORES_GO_ELSEWHERE, reason="the kernel's cores go to a program or to a directory of their own")
def test_a_core_would_have_no_content_even_if_one_were_made(
    started: Started, guests: dict[str, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WAYS, "unsealed", (LIVE, "anonymous", UNSEALED))
    (core,) = ended(started, guests, "unsealed", signal.SIGABRT)
    assert_only_ordinary_memory(core, started)


@pytest.mark.skipif(shutil.which("gcore") is None, reason="gdb is not installed")
@pytest.mark.parametrize("way", ["its process", "the file behind its memory", "a dump"])
def test_a_core_that_root_takes_of_a_daemon_in_the_middle_of_a_scan_has_no_content(
    started: Started, guests: dict[str, Writer], way: str
) -> None:
    prepare(started, way, guests)
    with daemon(started) as one, caught(one.process.pid):
        command = ["gcore", "-o", str(started.root / "core"), str(one.process.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_only_ordinary_memory(next(started.root.glob("core.*")), started)


def memory_in(core: Path) -> bytes:
    """The memory in a core (elf(5): its PT_LOAD segments). The notes beside it have the registers of all threads, in
    which the code that hashes a page has some bytes of it.
    """
    content = core.read_bytes()
    table, size, count = (*struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54))
    headers = [struct.unpack_from("<IIQQQQ", content, table + number * size) for number in range(count)]
    return b"".join(content[offset : offset + length] for kind, _, offset, _, _, length in headers if kind == PT_LOAD)


def assert_only_ordinary_memory(core: Path, started: Started) -> None:
    memory = memory_in(core)
    assert str(started.config).encode() in memory  # its input, for example
    assert [needle for needle in NEEDLES if needle in memory] == []
