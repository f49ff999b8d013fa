"""States that a real domain is hard to bring into, by a domain that only says so."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import libvirt
import pytest

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.hypervisor import qemu_process
from samepaged.hypervisor.guest import describe
from samepaged.hypervisor.libvirt_domain import LibvirtDomain
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.procfs import start_time
from tests.support.descriptors import no_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

XML = "<domain><memory>131072</memory>{}</domain>"
SEV = "<launchSecurity type='sev'/>"


class Said:
    """A domain of these answers."""

    def __init__(self, state: int, why: int = 0, control: int = 0, job: int = 0, more: str = "") -> None:
        self._state, self._why, self._control, self._job, self._more = state, why, control, job, more

    def name(self) -> str:
        return "said"

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return "3f0c1e0a-0000-0000-0000-000000000000"

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        return 7

    def state(self) -> list[int]:
        return [self._state, self._why]

    def controlInfo(self) -> list[int]:  # noqa: N802 - libvirt's name
        return [self._control, 0, 60_000]

    def jobInfo(self) -> list[int]:  # noqa: N802 - libvirt's name
        return [self._job]

    def XMLDesc(self) -> str:  # noqa: N802 - libvirt's name
        return XML.format(self._more)


def hypervisor() -> LibvirtHypervisor:
    return LibvirtHypervisor("qemu:///system")


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        (Said(libvirt.VIR_DOMAIN_CRASHED), Reason.CRASHED),
        (Said(libvirt.VIR_DOMAIN_PMSUSPENDED), Reason.PM_SUSPENDED),
        (Said(libvirt.VIR_DOMAIN_SHUTOFF), Reason.NOT_RUNNING),
        (Said(libvirt.VIR_DOMAIN_SHUTDOWN), Reason.NOT_RUNNING),
        (Said(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION), Reason.IN_JOB),
        (Said(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY), Reason.IN_JOB),
        (Said(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP), Reason.NOT_RUNNING),
        (Said(libvirt.VIR_DOMAIN_RUNNING, control=libvirt.VIR_DOMAIN_CONTROL_JOB), Reason.IN_JOB),
        (Said(libvirt.VIR_DOMAIN_RUNNING, job=libvirt.VIR_DOMAIN_JOB_UNBOUNDED), Reason.IN_JOB),
        (Said(libvirt.VIR_DOMAIN_RUNNING, control=libvirt.VIR_DOMAIN_CONTROL_OCCUPIED), Reason.MONITOR_BUSY),
        (Said(libvirt.VIR_DOMAIN_RUNNING, control=libvirt.VIR_DOMAIN_CONTROL_ERROR), Reason.MONITOR_BUSY),
        (Said(libvirt.VIR_DOMAIN_RUNNING, more=SEV), Reason.ENCRYPTED),
        (Said(libvirt.VIR_DOMAIN_RUNNING), Reason.NO_PID),
    ],
)
def test_excluded_guest_has_a_reason(domain: Said, reason: Reason) -> None:
    with pytest.raises(GuestError) as caught:
        describe(LibvirtDomain("qemu:///system", hypervisor().call, cast("libvirt.virDomain", domain)))
    assert caught.value.reason is reason
    assert "'said'" in str(caught.value)
    assert "\n" not in str(caught.value)


def failing(code: int, source: int = libvirt.VIR_FROM_QEMU) -> Callable[[], None]:
    def call() -> None:
        error = libvirt.libvirtError("two\nlines")
        error.err = (code, source, "two\nlines", 2, None, None, None, 0, 0)
        raise error

    return call


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, Reason.GONE),
        (libvirt.VIR_ERR_OPERATION_INVALID, Reason.NOT_RUNNING),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, Reason.IN_JOB),
        (libvirt.VIR_ERR_ACCESS_DENIED, Reason.NO_PERMISSION),
    ],
)
def test_libvirt_errors_name_the_domain(code: int, reason: Reason) -> None:
    with pytest.raises(GuestError, match=r"doing it: libvirt reports: two lines") as caught:
        hypervisor().call("doing it", failing(code))
    assert caught.value.reason is reason


def test_lost_connection_is_hypervisor_error() -> None:
    with pytest.raises(HypervisorError, match="was lost while doing it"):
        hypervisor().call("doing it", failing(libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC))


def test_connection_needs_spare_descriptors() -> None:
    """GLib would end this process."""
    with no_descriptors(), pytest.raises(HypervisorError, match=r"few file descriptors .*; raise LimitNOFILE="):
        hypervisor().connect()


def test_replaced_process_is_detected() -> None:
    own = qemu_process.QemuProcess(os.getpid(), start_time(os.getpid()) or 0)
    own.check()
    with pytest.raises(GuestError, match="ended") as caught:
        qemu_process.QemuProcess(own.pid, own.start_time + 1).check()
    assert caught.value.reason is Reason.GONE
