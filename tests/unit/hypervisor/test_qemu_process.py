"""Finding QEMU processes in a /proc of this test's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samepaged.errors import GuestError, Reason
from samepaged.hypervisor import qemu_process
from samepaged.hypervisor.qemu_process import ProcessTable, QemuProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


def uuid(number: int) -> str:
    return f"3f0c1e0a-0000-0000-0000-{number:012d}"


class Proc:
    """A directory with the files of processes, which counts how often it is listed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listings = 0

    def start(self, pid: int, started: int, *words: str) -> None:
        directory = self.path / str(pid)
        directory.mkdir(exist_ok=True)
        (directory / "stat").write_text(f"{pid} (qemu) S {' '.join(['0'] * 18)} {started} 0\n")
        (directory / "cmdline").write_text("\0".join(("qemu", *words, "")))

    def end(self, pid: int) -> None:
        for name in ("stat", "cmdline"):
            (self.path / str(pid) / name).unlink()
        (self.path / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    found = Proc(tmp_path)
    iterdir = Path.iterdir

    def counted(path: Path) -> Iterator[Path]:
        found.listings += path == tmp_path
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", counted)
    monkeypatch.setattr(qemu_process, "_pid_files", lambda _: ())
    return found


def no_pid(table: ProcessTable, number: int) -> bool:
    with pytest.raises(GuestError) as caught:
        table.find("web", uuid(number))
    return caught.value.reason is Reason.NO_PID


def test_fifty_domains_take_one_listing(proc: Proc) -> None:
    for number in range(50):
        proc.start(100 + number, 7000 + number, "-uuid", uuid(number))
    proc.start(1, 5, "init")
    table = ProcessTable(proc.path)
    for number in range(50):
        assert table.find("web", uuid(number)) == QemuProcess(100 + number, 7000 + number)
    assert proc.listings == 1


def test_fifty_invisible_domains_take_one_listing(proc: Proc) -> None:
    table = ProcessTable(proc.path)
    assert all(no_pid(table, number) for number in range(50))
    assert proc.listings == 1


def test_later_domain_needs_one_listing(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ProcessTable(proc.path)
    assert no_pid(table, 1)
    proc.start(100, 7000, "-uuid", uuid(1))
    monkeypatch.setattr(qemu_process, "REFRESH_SECONDS", 0.0)
    assert table.find("web", uuid(1)) == QemuProcess(100, 7000)
    assert proc.listings == 2


def test_restarted_domain_needs_one_listing(proc: Proc) -> None:
    proc.start(100, 7000, "-uuid", uuid(1))
    table = ProcessTable(proc.path)
    assert table.find("web", uuid(1)).pid == 100
    proc.end(100)
    proc.start(200, 9000, "-uuid", uuid(1))
    assert table.find("web", uuid(1)) == QemuProcess(200, 9000)
    assert proc.listings == 2


def test_foreign_command_line_is_rejected(proc: Proc) -> None:
    proc.start(100, 7000, "-uuid", uuid(1))
    table = ProcessTable(proc.path)
    table.find("web", uuid(1))
    proc.start(100, 9000, "-uuid", uuid(2))
    assert no_pid(table, 1)


def test_readable_pid_file_avoids_listing(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.start(100, 7000, "-uuid", uuid(1))
    (proc.path / "web.pid").write_text("100")
    monkeypatch.setattr(qemu_process, "_pid_files", lambda name: (proc.path / f"{name}.pid",))
    assert ProcessTable(proc.path).find("web", uuid(1)) == QemuProcess(100, 7000)
    assert proc.listings == 0
