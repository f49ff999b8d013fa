from __future__ import annotations

import logging
import threading
from functools import partial

import pytest

from samepaged.errors import GuestError, Reason
from samepaged.guest_id import GuestId
from samepaged.scan.clocks import MAX_AGENT_CALLS, ClockSync
from tests.support.hypervisor import URI, FakeDomain, FakeHypervisor

UUIDS = [f"u-{number}" for number in range(2 * MAX_AGENT_CALLS)]


class Agents:
    """The guest agents of a hypervisor, which answer as told; `calls` has the UUIDs of the guests asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error: GuestError | None = None
        self.answer = threading.Event()
        self.answer.set()
        self.hypervisor = FakeHypervisor([self._domain(uuid) for uuid in UUIDS])

    def _domain(self, uuid: str) -> FakeDomain:
        return FakeDomain(uuid=uuid, then={"sync_time": partial(self._set_time, uuid)})

    def _set_time(self, uuid: str) -> None:
        self.calls.append(uuid)
        assert self.answer.wait(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def agents() -> Agents:
    return Agents()


def clock_sync(agents: Agents) -> ClockSync:
    return ClockSync(lambda _: agents.hypervisor)


def request(sync: ClockSync, agents: Agents, uuid: str = "u-1") -> None:
    sync.request(GuestId(URI, uuid), f"web-{uuid}")


def test_agent_sets_the_clock(agents: Agents) -> None:
    sync = clock_sync(agents)
    request(sync, agents)
    sync.wait(30)
    assert (
        agents.hypervisor.connections == 0
    )  # a connection of its own: libvirt's client loses answers if two threads call over one
    assert agents.calls == ["u-1"]


def test_failure_is_logged_once(agents: Agents, caplog: pytest.LogCaptureFixture) -> None:
    sync = clock_sync(agents)
    agents.error = GuestError(Reason.LIBVIRT, "QEMU guest agent is not configured")
    with caplog.at_level(logging.WARNING):
        for uuid in ("u-1", "u-1", "u-2", "u-1"):
            request(sync, agents, uuid)
            sync.wait(30)
        assert [message.split()[10] for message in caplog.messages] == ['domain="web-u-1"', 'domain="web-u-2"']
        assert "not configured" in caplog.text
        agents.error, again = None, agents.error
        request(sync, agents)
        sync.wait(30)
        agents.error = again
        request(sync, agents)
        sync.wait(30)
        sync.forget({GuestId(URI, "u-1")})
        request(sync, agents, "u-2")
        sync.wait(30)
    assert len(caplog.records) == 4


def test_hanging_agent_does_not_block(agents: Agents) -> None:
    sync = clock_sync(agents)
    agents.answer.clear()
    try:
        for number in range(2 * MAX_AGENT_CALLS):
            request(sync, agents, f"u-{number}")
            request(sync, agents, f"u-{number}")
        sync.wait(0.05)
        assert len(agents.calls) == MAX_AGENT_CALLS
    finally:
        agents.answer.set()
    sync.wait(30)
    request(sync, agents)
    sync.wait(30)
    assert len(agents.calls) == MAX_AGENT_CALLS + 1
