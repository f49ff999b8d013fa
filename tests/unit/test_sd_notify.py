from __future__ import annotations

import os
import socket
import uuid
from typing import TYPE_CHECKING

import pytest

from samepaged import sd_notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's end of the notification socket, with NOTIFY_SOCKET set as systemd would."""
    name = f"@samepaged-test-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


@pytest.fixture(autouse=True)
def no_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


def test_assignments_are_one_datagram(manager: socket.socket) -> None:
    sd_notify.notify("READY=1", "STATUS=three guests")
    assert manager.recv(4096) == b"READY=1\nSTATUS=three guests"


def test_line_breaks_cannot_add_assignments(manager: socket.socket) -> None:
    sd_notify.notify("STATUS=scanning evil\nMAINPID=1", "WATCHDOG=1")
    assert manager.recv(4096) == b"STATUS=scanning evil MAINPID=1\nWATCHDOG=1"


def test_invalid_unicode_is_sent(manager: socket.socket) -> None:
    sd_notify.notify("STATUS=scanning \udcff")
    assert manager.recv(4096) == b"STATUS=scanning ?"


def test_missing_service_manager_is_ignored(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")
    sd_notify.notify("READY=1")
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.recv(1)


@pytest.mark.parametrize("address", ["{dir}/gone", "{dir}/" + "x" * 200, "@samepaged-nobody-listens", "vsock:2:1", ""])
def test_a_lost_socket_is_no_error(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address.format(dir=tmp_path))
    sd_notify.notify("WATCHDOG=1")


def test_stalled_service_manager_is_ignored(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd_notify, "SEND_SECONDS", 0.01)
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        filler.connect(manager.getsockname())
        while True:
            try:
                filler.send(b"x")
            except BlockingIOError:
                break
            sent += 1
    sd_notify.notify("WATCHDOG=1")
    assert {manager.recv(16) for _ in range(sent)} == {b"x"}


def test_watchdog_interval_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    assert sd_notify.watchdog_interval() == 30
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert sd_notify.watchdog_interval() == 30


def test_watchdog_of_other_process_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    assert sd_notify.watchdog_interval() is None


@pytest.mark.parametrize("allowed", [None, "", "0", "-1", "soon"])
def test_no_usable_watchdog_is_no_watchdog(allowed: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if allowed is not None:
        monkeypatch.setenv("WATCHDOG_USEC", allowed)
    assert sd_notify.watchdog_interval() is None
