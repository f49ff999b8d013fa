"""Resources of the attribution worker, seen from outside, and its access to the page buffer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.attribution import sandbox, seccomp
from samepaged.attribution.client import WorkerClient, WorkerRefused
from samepaged.attribution.messages import regions_of, replies
from samepaged.attribution.page_buffer import PageBuffer
from samepaged.attribution.sandbox import Limits, SandboxedProcess
from samepaged.attribution.wire import Channel
from samepaged.config import SourcesConfig
from samepaged.privileges import PrivilegeError
from tests.support.waiting import wait_for
from tests.unit.attribution.pretended import LAYOUTS, NOTE, PAGES, Guest, program

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def confined(how: str = "well") -> Iterator[int]:
    """Start a worker and yield its pid."""
    copied = PageBuffer(PAGES, 16)
    child = SandboxedProcess(copied.file, PAGES, Limits.of(10.0, PAGES, 16, seccomp=True), program(how))
    try:
        channel = Channel(child.socket, lambda: False)
        nothing = {
            "regions": regions_of(LAYOUTS),
            "notes": np.array([NOTE]),
            "profile": np.empty(0, dtype=np.uint8),
            "blocks": np.ones(1, dtype=np.uint8),
        }
        channel.send("inspect", nothing, {"full": 0, "names": 0})
        if how == "well":
            asked = channel.receive(replies(PAGES), time.monotonic() + 20)
            assert asked.kind == "fetch"
        else:
            time.sleep(1)
        yield child.pid
    finally:
        child.close()
        copied.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_worker_has_no_privileges() -> None:
    with confined() as pid:
        has = status(pid)
        assert {has[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
        assert (has["NoNewPrivs"], has["Seccomp"]) == ("1", "2")
        if os.geteuid() == 0:
            assert "0" not in has["Uid"].split() + has["Gid"].split()
            assert has["Groups"] == ""


def test_worker_has_resource_limits() -> None:
    with confined() as pid:
        limits = {
            line[:25].strip(): line[26:].split()[:2] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        }
        for name, most in (
            ("Max core file size", 0),
            ("Max file size", 0),
            ("Max processes", 0),
            ("Max open files", 8),
        ):
            assert limits[name] == [str(most), str(most)]
        assert limits["Max cpu time"] == ["10", "10"]
        assert limits["Max address space"] == [str(Limits.of(10.0, PAGES, 16, seccomp=True).memory)] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="the files of a process that is not dumpable are root's")
def test_worker_inherits_only_socket_and_buffer() -> None:
    with confined() as pid:
        opened = sorted(str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())
        assert [name.partition(":")[0] for name in opened] == ["/dev/null"] * 3 + ["/memfd", "socket"]
        copies = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "samepaged-copy" in line]
        assert [line.split()[1] for line in copies] == ["r--s"]
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert {part.partition(b"=")[0].decode() for part in environment.split(b"\0") if part} == set(
            sandbox.ENVIRONMENT
        )


def test_page_buffer_is_sealed_read_only() -> None:
    copied = PageBuffer(PAGES, 16)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(copied.file, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        for size in (0, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(copied.file, size)
        with pytest.raises(PermissionError):
            os.pwrite(copied.file, b"x", 0)
        with pytest.raises(PermissionError):
            fcntl.fcntl(copied.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        copied.add(Guest(), np.array([NOTE]))  # the daemon can still write
        assert os.pread(copied.file, 10, PAGE_SIZE) == b"OSRELEASE="
    finally:
        copied.close()


def test_page_buffer_is_not_dumped() -> None:
    copied = PageBuffer(PAGES, 16)
    copied.preallocate(16)
    area = next(text for text in Path("/proc/self/smaps").read_text().split("VmFlags:") if "samepaged-copy" in text)
    flags = Path("/proc/self/smaps").read_text().split(area)[1].splitlines()[0].split()
    assert {"dd", "dc"} <= set(flags)
    copied.close()
    assert "samepaged-copy" not in Path("/proc/self/maps").read_text()


def test_cleared_page_buffer_has_room() -> None:
    copied = PageBuffer(PAGES, 4)
    try:
        slots = copied.add(Guest(), np.arange(6))
        assert slots.tolist() == [1, 2, 3, 4, -1, -1]
        assert copied.room == 0
        copied.clear()
        assert (copied.room, copied.slots.max()) == (4, -1)
        assert copied.add(Guest(unbacked=frozenset({1}), swapped=frozenset({2})), np.arange(4)).tolist() == [
            1,
            0,
            -1,
            2,
        ]
    finally:
        copied.close()


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("seccomp.LIBRARY = 'libnothing.so'", "libseccomp is not available"),
        ("seccomp.allow_only = refuse", "refused by this kernel"),
    ],
)
def test_worker_refuses_to_run_without_seccomp(missing: str, why: str, tmp_path: Path) -> None:
    without = tmp_path / "without.py"
    without.write_text(
        "import sys\n"
        "from samepaged.privileges import PrivilegeError\n"
        "from samepaged.attribution import seccomp, worker\n"
        "def refuse(*_): raise PrivilegeError('refused by this kernel')\n"
        f"{missing}\n"
        "worker.main(None, sys.argv[1:])\n"
    )
    for must, told in ((True, why), (False, "AttributeError")):
        talk = WorkerClient(
            LAYOUTS, SourcesConfig(memory_limit=1 << 20, time_limit=20.0, seccomp=must), lambda: False, (str(without),)
        )
        try:
            with pytest.raises(WorkerRefused, match=told):
                talk.inspect(
                    Guest(), np.array([NOTE]), np.empty(0, dtype=np.uint8), np.ones(1, dtype=np.bool_), full=True
                )
        finally:
            talk.close()


def filtered(call: str) -> int:
    """Return the exit code of a child that loads the filter and then makes this system call."""
    child = os.fork()
    if child == 0:
        try:
            seccomp.allow_only(sandbox.ALLOWED_CALLS, sandbox.MASKED_CALLS, sandbox.REFUSED_CALLS)
            if call == "run":
                ctypes.CDLL(None).mmap(None, PAGE_SIZE, 5, 0x22, -1, 0)
            elif call == "map":
                mmap.mmap(-1, PAGE_SIZE)
            elif call == "open":
                os.open("/", os.O_RDONLY)
            else:
                os.sched_yield() if call == "yield" else os.pipe()
        except OSError as error:
            os._exit(error.errno or 99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("call", "end"), [("map", 0), ("yield", 0), ("open", errno.EPERM), ("pipe", -31), ("run", -31)]
)
def test_system_calls_are_allowed_refused_or_fatal(call: str, end: int) -> None:
    assert filtered(call) == end


def test_filter_loads_below_a_seccomp_filter() -> None:
    inner = (
        "import os; from samepaged.attribution import sandbox, seccomp\n"
        "seccomp.allow_only(sandbox.ALLOWED_CALLS, sandbox.MASKED_CALLS, sandbox.REFUSED_CALLS)\n"
        "try: os.open('/', os.O_RDONLY)\n"
        "except PermissionError: os._exit(7)\n"
    )
    outer = (
        "import os, sys; from samepaged.attribution import seccomp\n"
        "library = seccomp._library(); rules = library.seccomp_init(seccomp.ALLOW)\n"
        "seccomp._add(library, rules, seccomp.ERRNO | 1, 'seccomp')\n"
        "assert library.seccomp_load(rules) == 0\n"
        f"os.execv(sys.executable, [sys.executable, '-c', {inner!r}])\n"
    )
    assert subprocess.run([sys.executable, "-c", outer], check=False).returncode == 7


def test_missing_libseccomp_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seccomp.available() is None
    monkeypatch.setattr(seccomp, "LIBRARY", "libnothing.so")
    assert "libnothing.so" in (seccomp.available() or "")
    with pytest.raises(PrivilegeError, match="install libseccomp2"):
        seccomp.allow_only((), {}, ())


def test_worker_dies_with_its_parent() -> None:
    starts = (
        "import time; from tests.unit.attribution.test_sandbox import confined\n"
        "with confined('lost') as pid:\n    print(pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", starts], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.kill()

    def ended() -> bool:
        return not child.exists() or status(int(child.name)).get("State", "")[:1] == "Z"

    wait_for(ended, 10)
