"""State of a connection when a call on it does not return."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import libvirt
import pytest

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.hypervisor import libvirt_hypervisor as module
from samepaged.hypervisor.connection import Connection
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from samepaged.hypervisor.protocol import ResumeCounter


class Link:
    """A connection of a libvirt that is not there; `closed` says whether it was closed."""

    def __init__(self, resumes: ResumeCounter) -> None:
        self.resumes = resumes
        self.closed = False

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        return not self.closed

    def close(self) -> None:
        self.closed = True

    def lookupByUUIDString(self, uuid: str) -> Any:  # noqa: N802 - libvirt's name
        return uuid, self


class Domain:
    """The domain of an event."""

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return "u-1"


def resumed(hypervisor: LibvirtHypervisor, link: Link) -> None:
    """Deliver the event of a resume over a connection."""
    domain = cast("libvirt.virDomain", Domain())
    hypervisor._lifecycle(None, domain, libvirt.VIR_DOMAIN_EVENT_RESUMED, 0, link.resumes)


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[Link]:
    found: list[Link] = []

    def opening(uri: str, lifecycle: Callable[..., None], resumes: ResumeCounter, *, read_only: bool) -> Connection:
        link = Link(resumes)
        found.append(link)
        return Connection(cast("libvirt.virConnect", link), "QEMU", None)

    monkeypatch.setattr(module, "open_connection", opening)
    monkeypatch.setattr(module, "start_event_loop", lambda: None)
    return found


@pytest.fixture
def hypervisor(links: list[Link]) -> Iterator[LibvirtHypervisor]:
    one = LibvirtHypervisor("qemu:///system")
    one.connect()
    yield one
    one.close()


def test_connection_is_kept_while_calls_return(hypervisor: LibvirtHypervisor, links: list[Link]) -> None:
    for _ in range(5):
        assert hypervisor.call("asking", lambda: 7) == 7
        hypervisor.connect()
    assert len(links) == 1


def test_hanging_call_keeps_its_connection(hypervisor: LibvirtHypervisor, links: list[Link]) -> None:
    release = threading.Event()
    with pytest.raises(GuestError) as caught:
        hypervisor.call("suspending domain 'web-1'", release.wait, 0.05)
    assert caught.value.reason is Reason.NO_ANSWER
    assert "suspending domain 'web-1'" in str(caught.value)
    # The next call has another connection: libvirt's client loses answers if two threads call over one.
    found: Any = hypervisor.by_uuid("u-1").native
    assert found == ("u-1", links[1])
    assert hypervisor.unanswered == 1
    assert not links[0].closed
    release.set()
    wait_for(lambda: links[0].closed)
    assert hypervisor.unanswered == 0
    assert not links[1].closed


def test_abandoned_connection_events_are_ignored(hypervisor: LibvirtHypervisor, links: list[Link]) -> None:
    release = threading.Event()
    with pytest.raises(GuestError):
        hypervisor.call("asking", release.wait, 0.05)
    assert not hypervisor.resumes.by_others("u-1")
    hypervisor.resumes.count_call("u-1")
    for link in links:  # libvirtd tells both of our resume
        resumed(hypervisor, link)
    assert not hypervisor.resumes.by_others("u-1")
    resumed(hypervisor, links[1])
    assert hypervisor.resumes.by_others("u-1")
    release.set()


def test_dump_keeps_its_connection_open(hypervisor: LibvirtHypervisor, links: list[Link]) -> None:
    release, begun = threading.Event(), threading.Event()

    def dump() -> None:
        begun.set()
        release.wait()

    thread = threading.Thread(target=lambda: hypervisor.call("dumping", dump, None))
    thread.start()
    assert begun.wait(10)
    hypervisor.connect()  # to resume the guest with the hung dump
    assert len(links) == 2
    assert not links[0].closed
    release.set()
    thread.join()
    assert links[0].closed
    assert not links[1].closed


def test_failed_reconnection_is_reported(
    hypervisor: LibvirtHypervisor, links: list[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Connection:
        raise cast("Exception", libvirt.libvirtError("connection refused"))

    monkeypatch.setattr(module, "open_connection", refuse)
    release = threading.Event()
    with pytest.raises(GuestError):
        hypervisor.call("asking", release.wait, 0.05)
    assert not hypervisor.alive
    with pytest.raises(HypervisorError, match="not connected"):
        hypervisor.by_uuid("u-1")
    release.set()
    wait_for(lambda: links[0].closed)


def test_unresponsive_libvirtd_times_out(links: list[Link], monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: object, **__: object) -> Connection:
        release.wait()
        raise cast("Exception", libvirt.libvirtError("late"))

    monkeypatch.setattr(module, "open_connection", hang)
    with pytest.raises(HypervisorError, match="does not respond"):
        LibvirtHypervisor("qemu:///system").connect(0.2)
    release.set()
