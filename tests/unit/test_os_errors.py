"""The causes of failed system calls, and the errors that they become."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import pytest

from samepaged.errors import ConfigError, GuestError, Reason
from samepaged.guard.journal import Entry, Journal, JournalError, open_entries, runtime_directory
from samepaged.hash_seed import load
from samepaged.hypervisor.qemu_process import ProcessTable, QemuProcess
from samepaged.ksm import activity, has_merged, is_running, process_merging
from samepaged.ksm import control as ksm_still
from samepaged.ksm import counters as ksm_counters
from samepaged.memory import ram_location, softdirty
from samepaged.memory.backing_file import BackingFile
from samepaged.memory.dump_reader import DumpStream
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.memory.pagemap import Pagemap
from samepaged.memory.process_vm import ProcessMemory
from samepaged.memory.ram_location import RamMapping
from samepaged.memory.softdirty import SoftDirtyLock
from samepaged.os_errors import process_error
from samepaged.procfs import has_ended, is_alive, names_living, start_time
from tests.support.descriptors import no_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PID: Final = os.getpid()
UUID: Final = "3f0c1e0a-0000-0000-0000-000000000000"
ENTRY: Final = Entry("qemu:///system", UUID, 7, "web-1", "a boot")


@pytest.mark.parametrize(
    ("number", "reason", "words"),
    [
        (errno.EMFILE, Reason.NO_RESOURCES, "LimitNOFILE="),
        (errno.ENFILE, Reason.NO_RESOURCES, "fs.file-max"),
        (errno.ENOMEM, Reason.NO_RESOURCES, "MemoryMax="),
        (errno.EAGAIN, Reason.NO_RESOURCES, "TasksMax="),
        (errno.ENOENT, Reason.GONE, "process 7 has ended"),
        (errno.ESRCH, Reason.GONE, "process 7 has ended"),
        (errno.EACCES, Reason.NO_PERMISSION, "; run as root"),
        (errno.EPERM, Reason.NO_PERMISSION, "; run as root"),
        (errno.EIO, Reason.READ, "; try again"),
    ],
)
def test_an_error_number_becomes_its_reason(number: int, reason: Reason, words: str) -> None:
    error = process_error(OSError(number, os.strerror(number)), 7, "/proc/7/smaps", "run as root")
    assert error.reason is reason
    assert words in str(error)
    assert "\n" not in str(error)


def backing_file(_: Path) -> None:
    BackingFile(PID, RamMapping(0, 4096, (0, 0), 1, 0, "/memfd:none (deleted)", True, False, False))


def dump(directory: Path) -> None:
    DumpStream(lambda _: None, directory, (4096,), Hashing(best_hasher(), 0, 1, lambda: False)).read()


def supported(_: Path) -> None:
    softdirty.supported.cache_clear()
    softdirty.supported()


@pytest.mark.parametrize(
    "opens",
    [
        lambda _: ram_location.read_smaps(PID),
        lambda _: Pagemap(PID),
        lambda _: ProcessMemory(PID),
        lambda _: softdirty.clear(PID),
        supported,
        lambda _: SoftDirtyLock(PID),
        backing_file,
        dump,
        lambda _: ProcessTable().find("web-1", UUID),
        lambda _: QemuProcess(PID, 1).check(),
        lambda _: has_merged(),
        lambda _: is_running(),
        lambda _: activity(),
        lambda _: process_merging(PID),
        runtime_directory,
        Journal,
        lambda directory: load(None, directory),
    ],
)
def test_descriptor_exhaustion_names_the_limit(opens: Callable[[Path], object], tmp_path: Path) -> None:
    with no_descriptors(), pytest.raises(GuestError, match=r"\(Too many open files\); raise LimitNOFILE=") as caught:
        opens(tmp_path)
    assert caught.value.reason is Reason.NO_RESOURCES
    assert list(tmp_path.iterdir()) == []


def test_descriptor_exhaustion_ends_no_process() -> None:
    started = start_time(PID)
    assert started is not None
    with no_descriptors():
        assert not has_ended(PID)
        assert is_alive(PID, started)
        assert names_living(str(PID), str(started))
        with pytest.raises(OSError, match="Too many open files"):
            start_time(PID)
    assert not names_living(str(PID), str(started + 1))


def test_descriptor_exhaustion_keeps_journal_entries(tmp_path: Path) -> None:
    (tmp_path / "suspended-1-2").write_bytes(ENTRY.line())
    with no_descriptors():
        found = list(open_entries(tmp_path))
    assert len(found) == 1
    assert isinstance(found[0], JournalError)


def test_descriptor_exhaustion_writes_no_entry(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with no_descriptors(), pytest.raises(GuestError, match="LimitNOFILE=") as caught:
        journal.write(ENTRY)
    assert caught.value.reason is Reason.NO_RESOURCES


def test_unopenable_seed_is_not_replaced(tmp_path: Path) -> None:
    seed = load(None, tmp_path)
    with no_descriptors(), pytest.raises(GuestError):
        load(None, tmp_path)
    assert load(None, tmp_path) == seed
    (tmp_path / "seed").write_text("?")
    with pytest.raises(ConfigError):
        load(None, tmp_path)


def test_ksm_restore_needs_no_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ksm_still, "KSM", tmp_path)
    run = tmp_path / "run"
    run.write_text("1\n")
    with ksm_still.paused(tmp_path) as still:
        assert still
        assert run.read_text() == "0\n"
        limit = no_descriptors()
        limit.__enter__()
    limit.__exit__(None, None, None)
    assert run.read_text() == "1\n"


def test_kernel_without_ksm_has_no_counters(tmp_path: Path) -> None:
    assert ksm_counters.host_merging(tmp_path) is None
