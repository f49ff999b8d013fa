"""Which guests a scan would cut off from the network, and which of them it may."""

from __future__ import annotations

import pytest

from samepaged.errors import GuestError, Reason
from samepaged.guest_id import GuestId
from samepaged.hypervisor.guest import DomainXml, Guest, check_links
from samepaged.hypervisor.qemu_process import QemuProcess
from tests.support.hypervisor import URI, UUID


def guest(*modes: str, paused: bool = False, vfio: bool = False, nosharepages: bool = False) -> Guest:
    return Guest(
        name="web",
        guest_id=GuestId(URI, UUID),
        id=7,
        paused=paused,
        process=QemuProcess(1, 1),
        xml=DomainXml((1 << 20,), encryption=None, vfio=vfio, nosharepages=nosharepages, macvtap=modes),
    )


@pytest.mark.parametrize(
    ("modes", "allowed", "remedy"),
    [
        (("bridge",), "skip", "scan.macvtap: allow,"),
        (("vepa",), "skip", "scan.macvtap: allow,"),
        (("passthrough",), "skip", "scan.macvtap: allow_passthrough,"),
        (("passthrough",), "allow", "scan.macvtap: allow_passthrough,"),
        (("bridge", "passthrough"), "allow", "scan.macvtap: allow_passthrough,"),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "snapshot", "precopy", "sliced"])
def test_a_protected_link_is_not_interrupted(modes: tuple[str, ...], allowed: str, remedy: str, mode: str) -> None:
    with pytest.raises(GuestError) as caught:
        check_links(guest(*modes), mode, allowed)
    message = str(caught.value)
    assert caught.value.reason is Reason.MACVTAP
    assert remedy in message
    assert "\n" not in message
    assert ("host's network device" in message) == ("passthrough" in modes)


@pytest.mark.parametrize(
    ("modes", "allowed"),
    [
        ((), "skip"),
        (("vepa", "bridge", "private"), "allow"),
        (("passthrough",), "allow_passthrough"),
        (("bridge", "passthrough"), "allow_passthrough"),
    ],
)
def test_an_allowed_link_is_interrupted(modes: tuple[str, ...], allowed: str) -> None:
    check_links(guest(*modes), "snapshot", allowed)


def test_scan_without_suspend_is_allowed() -> None:
    check_links(guest("passthrough"), "live", "skip")
    check_links(guest("passthrough", paused=True), "snapshot", "skip")


def test_pinned_memory_outweighs_other_obstacles() -> None:
    assert guest().merge_obstacle is None
    assert guest(nosharepages=True).merge_obstacle == "nosharepages"
    assert guest(vfio=True).merge_obstacle == guest(vfio=True, nosharepages=True).merge_obstacle == "pinned"
