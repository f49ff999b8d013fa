"""Checks of the guests: the expected mode and pause of a scan, or the reason why a guest would be skipped."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.doctor.check import Check, Status, ok, one_line, warning
from samepaged.doctor.clock import clock_forecast
from samepaged.drift.budget import UNLIMITED, FixedBudget, hourly_limit
from samepaged.errors import GuestError, HypervisorError, Reason, excluded
from samepaged.formatting import seconds, size
from samepaged.hypervisor.guest import check_links, describe, interruption
from samepaged.memory.capture import AUTO, forecast, is_substitute
from samepaged.memory.reader import GuestMemory, ScanRequest
from samepaged.memory.scan_state import ScanState

if TYPE_CHECKING:
    from samepaged.config import Config, ScanConfig
    from samepaged.doctor.clock import ClockForecast
    from samepaged.drift.budget import DriftBudget
    from samepaged.hypervisor.guest import Guest
    from samepaged.hypervisor.protocol import Domain, Hypervisor
    from samepaged.hypervisor.qemu_process import ProcessTable
    from samepaged.memory.reader import Forecast

__all__ = ["GuestResult", "check_guest", "link_check", "scan_check", "skipped_check"]

NAME: Final = "guest"
LINKS: Final = "links"
# Reasons that can end without a change to the host's setup, before the next scan.
TRANSIENT_REASONS: Final = frozenset(
    {
        Reason.GONE,
        Reason.NOT_RUNNING,
        Reason.IN_JOB,
        Reason.CRASHED,
        Reason.PM_SUSPENDED,
        Reason.ENCRYPTED,
        Reason.MACVTAP,
    }
)
REMEDIES: Final = {
    Reason.IN_JOB: "wait for the end of the job (virsh domjobinfo {name}): the next scan includes the guest",
    Reason.NOT_RUNNING: "start the guest if it should be scanned",
    Reason.GONE: "start the guest if it should run",
    Reason.CRASHED: "virsh destroy {name}, then virsh start {name}",
    Reason.PM_SUSPENDED: "virsh dompmwakeup {name}, if it should be scanned",
    Reason.LIBVIRT: "see libvirt's log (journalctl -u libvirtd -u virtqemud)",
    Reason.NO_PERMISSION: "run as root; docs/operate/libvirt-access.md lists the necessary privileges",
    Reason.READ: "try again; if the error persists, exclude the guest (guests.exclude)",
}
DEFAULT_REMEDY: Final = "exclude the guest (guests.exclude) or report this as a bug"


@dataclass(frozen=True, slots=True)
class GuestResult:
    """Result for one guest: the `forecast` of a scan, or the `reason` of a skip. `memory`: bytes, None if unknown.
    `links`: a warning about network links that the scan would interrupt. `clock`: the forecast of the clock's drift.
    """

    name: str
    uuid: str
    memory: int | None
    paused: bool
    reason: Reason | None
    forecast: Forecast | None
    check: Check
    links: Check | None = None
    clock: ClockForecast | None = None


def skipped_check(name: str, error: GuestError) -> Check:
    """Return the check of a guest that a scan would skip."""
    message = one_line(f"skipped ({error.reason}): {error.detail}")
    if error.reason.intended:
        return ok(NAME, message, domain=name)
    remedy = error.remedy or REMEDIES.get(error.reason, DEFAULT_REMEDY).format(name=shlex.quote(name))
    status = Status.WARNING if error.reason in TRANSIENT_REASONS else Status.FAILURE
    return Check(NAME, status, message, one_line(remedy), name)


def scan_check(
    name: str, memory: int, forecast: Forecast, scan: ScanConfig, *, paused: bool, clock: ClockForecast | None = None
) -> Check:
    """Return the check of a guest that would be scanned: mode, pause and obstacles. `memory`: bytes."""
    backed = "" if forecast.backed is None else f" ({size(forecast.backed)} backed)"
    message = f"{size(memory)}{backed}, {forecast.mode}{_pauses(forecast, scan, paused=paused)}"
    if is_substitute(forecast.reader, AUTO):
        message += f", reader {forecast.reader}"
    if forecast.obstacle is not None:
        message += f"; a better mode is unavailable: {forecast.obstacle.text}"
    if forecast.mode == "precopy":
        message += f"; a snapshot would take {seconds(forecast.snapshot)}"
    if clock is not None and clock.scan_seconds:
        message += f"; {clock.text}"
        if clock.period_seconds is None:
            return warning(NAME, message, f"set scan.max_drift to {clock.ppm}ppm or more, or scan.mode to live", name)
    if forecast.pause > scan.max_pause:
        return warning(NAME, message, f"set scan.mode: auto, or scan.max_pause above {seconds(forecast.pause)}", name)
    if is_substitute(forecast.reader, scan.reader):
        remedy = f"set scan.reader: {forecast.reader} if this reader is intended, or report this as a bug"
        return warning(NAME, message, remedy, name)
    if forecast.mode == "sliced" and scan.mode != "sliced":
        return warning(
            NAME,
            message,
            f"set scan.max_pause above {seconds(forecast.snapshot)} if such a pause is acceptable, or remove the "
            "obstacle",
            name,
        )
    if scan.mode == "precopy" and forecast.mode != "precopy" and not paused:
        return warning(NAME, message, "set scan.mode: auto if this mode is intended, or remove the obstacle", name)
    return ok(NAME, message, name)


def link_check(name: str, modes: tuple[str, ...]) -> Check:
    """Return the warning for a guest with macvtap interfaces in these modes that a scan would suspend."""
    return warning(
        LINKS,
        f"the guest has {interruption(modes)} (scan.macvtap allows it)",
        "set scan.macvtap: skip, or scan.mode: live, if the link must not be interrupted",
        name,
    )


def _pauses(forecast: Forecast, scan: ScanConfig, *, paused: bool) -> str:
    if paused:
        return ", without a suspension: the guest is already paused, not by samepaged"
    if forecast.mode == "live":
        return ", without a pause"
    about = seconds(forecast.pause)
    if forecast.mode == "precopy":
        return f", pauses of about {about} (at most {seconds(scan.max_pause)})"
    if forecast.mode == "sliced":
        return f", many pauses of about {about}"
    return f", a pause of about {about}"


def _forecast(guest: Guest, config: Config) -> Forecast:
    """Return the forecast with an unspent drift budget; if that budget is too small, the forecast without it."""
    try:
        return _forecast_within(guest, config, FixedBudget(hourly_limit(config.scan.max_drift)))
    except GuestError as error:
        if error.reason is not Reason.DRIFT_BUDGET:
            raise
        return _forecast_within(guest, config, UNLIMITED)


def _forecast_within(guest: Guest, config: Config, budget: DriftBudget) -> Forecast:
    memory = GuestMemory(guest.process.pid, guest.xml.blocks, paused=guest.paused, vfio=guest.xml.vfio)
    return forecast(memory, ScanRequest(config.scan, budget), ScanState(guest.process.start_time))


def check_guest(
    hypervisor: Hypervisor,
    config: Config,
    domain: Domain,
    processes: ProcessTable,
) -> GuestResult:
    """Check one domain, without a suspension and without a read of its memory. Raises HypervisorError if the connection
    to libvirt is lost.
    """
    name, uuid = domain.name, domain.uuid
    guest: Guest | None = None
    try:
        if not config.selects(name):
            raise excluded(name)
        guest = describe(domain, processes)
        check_links(guest, config.scan.mode, config.scan.macvtap)
        found = _forecast(guest, config)
        guest.process.check()
    except GuestError as error:
        memory = None if guest is None else guest.xml.memory
        paused = guest is not None and guest.paused
        return GuestResult(name, uuid, memory, paused, error.reason, None, skipped_check(name, error))
    except HypervisorError as error:
        if not hypervisor.alive:
            raise
        refused = GuestError(Reason.LIBVIRT, error.problem, error.remedy)
        return GuestResult(name, uuid, None, False, Reason.LIBVIRT, None, skipped_check(name, refused))
    clock = clock_forecast(found.total, config.scan)
    check = scan_check(name, guest.xml.memory, found, config.scan, paused=guest.paused, clock=clock)
    interrupted = bool(guest.xml.macvtap) and found.mode != "live" and not guest.paused
    warned = link_check(name, guest.xml.macvtap) if interrupted else None
    reason = None if clock.period_seconds is not None else Reason.DRIFT_BUDGET
    return GuestResult(name, uuid, guest.xml.memory, guest.paused, reason, found, check, warned, clock)
