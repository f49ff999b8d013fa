from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, cast

import libvirt
import pytest

from samepaged.errors import GuestError, Reason
from samepaged.scan.clock_sync import MOST_UNDER_WAY, ClockSync

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor


class Agents:
    """A hypervisor whose guests' agents answer as told, and note the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, int], int]] = []
        self.error: GuestError | None = None
        self.open = 0
        self.answer = threading.Event()
        self.answer.set()

    def connect(self) -> None:
        self.open += 1

    def close(self) -> None:
        self.open -= 1

    def by_uuid(self, uuid: str) -> Any:
        agents = self

        class Domain:
            def setTime(self, time: dict[str, int], flags: int) -> int:  # noqa: N802 - libvirt's name
                agents.calls.append((uuid, time, flags))
                assert agents.answer.wait(30)
                if agents.error is not None:
                    raise agents.error
                return 0

        return Domain()

    def call(self, what: str, function: Callable[[], Any], seconds: float | None = 30.0) -> Any:
        assert "setting the clock of domain 'web" in what
        assert seconds is None
        return function()


@pytest.fixture
def agents() -> Agents:
    return Agents()


def clock_sync(agents: Agents) -> ClockSync:
    return ClockSync(lambda _: cast("LibvirtHypervisor", agents))


def request(sync: ClockSync, agents: Agents, uuid: str = "u-1") -> None:
    sync.request("qemu:///system", uuid, f"web-{uuid}")


def test_the_agent_is_asked_to_set_the_clock(agents: Agents) -> None:
    sync = clock_sync(agents)
    request(sync, agents)
    sync.wait(30)
    assert agents.open == 0  # a connection of its own: libvirt's client loses answers if two threads call over one
    assert agents.calls == [("u-1", {"seconds": 0, "nseconds": 0}, libvirt.VIR_DOMAIN_TIME_SYNC)]


def test_a_failure_is_one_line_until_it_has_worked(agents: Agents, caplog: pytest.LogCaptureFixture) -> None:
    sync = clock_sync(agents)
    agents.error = GuestError(Reason.LIBVIRT, "QEMU guest agent is not configured")
    with caplog.at_level(logging.WARNING):
        for uuid in ("u-1", "u-1", "u-2", "u-1"):
            request(sync, agents, uuid)
            sync.wait(30)
        assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == ["web-u-1", "web-u-2"]
        assert "not configured" in caplog.text
        agents.error, again = None, agents.error
        request(sync, agents)
        sync.wait(30)
        agents.error = again
        request(sync, agents)
        sync.wait(30)
        sync.forget({"u-1"})
        request(sync, agents, "u-2")
        sync.wait(30)
    assert len(caplog.records) == 4


def test_a_hanging_agent_holds_nothing_up(agents: Agents) -> None:
    sync = clock_sync(agents)
    agents.answer.clear()
    try:
        for number in range(2 * MOST_UNDER_WAY):
            request(sync, agents, f"u-{number}")
            request(sync, agents, f"u-{number}")
        sync.wait(0.05)
        assert len(agents.calls) == MOST_UNDER_WAY
    finally:
        agents.answer.set()
    sync.wait(30)
    request(sync, agents)
    sync.wait(30)
    assert len(agents.calls) == MOST_UNDER_WAY + 1
