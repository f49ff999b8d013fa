"""All checks of `samepaged doctor`, in order. A check does not suspend or read a guest, and does not change the host.
The other checks continue after a failure.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged import privileges
from samepaged.doctor.attribution import attribution
from samepaged.doctor.check import Check, Status, from_error, worst
from samepaged.doctor.guests import GuestResult, check_guest
from samepaged.doctor.host import host
from samepaged.doctor.leases import leases
from samepaged.doctor.libvirtd import connect, connection_checks
from samepaged.doctor.network import network
from samepaged.doctor.process import process, user_name
from samepaged.doctor.ram_layout import verify_layout
from samepaged.doctor.storage import read_configuration, storage
from samepaged.doctor.unit import units
from samepaged.errors import ConfigError, GuestError, HypervisorError
from samepaged.hypervisor.qemu_process import ProcessTable

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.config import Config
    from samepaged.hypervisor.protocol import Domain

__all__ = ["DoctorResult", "run_checks"]

FAILED_STATUS: Final = 1


@dataclass(frozen=True, slots=True)
class DoctorResult:
    """All checks, the result of each guest, and the exit status."""

    checks: tuple[Check, ...]
    guests: tuple[GuestResult, ...]
    exit_status: int


@dataclass(frozen=True, slots=True)
class _LibvirtResult:
    """Results of the checks that need a libvirt connection. `connected`: whether libvirt was reached."""

    connected: bool
    checks: list[Check]
    guests: list[GuestResult]
    guest_checks: list[Check]


def run_checks(path: Path | None, uri: str | None, *, verify_layout: bool) -> DoctorResult:
    """Check this host against the configuration file `path` (None: the defaults), with libvirt at `uri` (None: the
    configured URI). `verify_layout`: query the QEMU monitor, which taints the domains.
    """
    config, configuration = read_configuration(path)
    if uri is not None:
        config = config.model_copy(update={"libvirt": config.libvirt.model_copy(update={"uri": uri})})
    held = privileges.effective_capabilities()
    user = user_name(os.geteuid())
    kept = storage(config, user)
    kernel = [*host(config.scan, config.runtime_directory, held), *attribution(config.sources)]
    address = network(config.export, held)
    unit = units(config.scan)
    libvirt = _check_libvirt(config, user, verify_layout=verify_layout)
    own = process(config.scan, config.libvirt.uri, held)  # last, because it closes this process's pagemap
    leased = leases(config.libvirt.uri)
    checks = (*configuration, *kept, *libvirt.checks, *leased, *own, *unit, *kernel, *address, *libvirt.guest_checks)
    if worst(configuration) is Status.FAILURE:
        status = ConfigError.exit_status
    elif not libvirt.connected:
        status = HypervisorError.exit_status
    else:
        status = FAILED_STATUS if worst(checks) is Status.FAILURE else 0
    return DoctorResult(checks, tuple(libvirt.guests), status)


def _check_libvirt(config: Config, user: str, *, verify_layout: bool) -> _LibvirtResult:
    with connect(config.libvirt.uri) as (hypervisor, access):
        found = _LibvirtResult(access.versions is not None, connection_checks(access, user), [], [])
        if hypervisor is None or not found.connected:
            return found
        try:
            processes = ProcessTable()
            for domain in hypervisor.running():
                guest = check_guest(hypervisor, config, domain, processes)
                found.guests.append(guest)
                found.guest_checks.extend(one for one in (guest.check, guest.links) if one is not None)
                if verify_layout:
                    found.guest_checks.extend(_check_ram_layout(domain, guest))
        except (GuestError, HypervisorError) as error:
            found.checks.append(from_error("guests", error, "start libvirtd if it does not run, and try again"))
        return found


def _check_ram_layout(domain: Domain, guest: GuestResult) -> list[Check]:
    """Compare the RAM location of a guest with QEMU's; no check if the forecast has no RAM mappings."""
    if guest.forecast is None or not guest.forecast.mappings:
        return []
    return [verify_layout(domain, guest.forecast.mappings)]
