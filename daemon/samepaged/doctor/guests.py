"""The guests: which would be skipped and why, and what a scan would do to the others."""

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
# What passes by itself, or is the guest's own state: the next scan may find it otherwise.
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
    Reason.IN_JOB: "wait for the job's end (virsh domjobinfo {name}): the next scan takes the guest in",
    Reason.NOT_RUNNING: "none is needed: it is scanned when it runs",
    Reason.GONE: "none is needed, if it was meant to end",
    Reason.CRASHED: "virsh destroy {name}, then virsh start {name}",
    Reason.PM_SUSPENDED: "virsh dompmwakeup {name}, if it is to be scanned",
    Reason.LIBVIRT: "see what libvirt's log says (journalctl -u libvirtd -u virtqemud)",
    Reason.NO_PERMISSION: "run as root; docs/operate/libvirt-access.md names the rights that it takes",
    Reason.READ: "try again; if it lasts, exclude the guest (guests.exclude)",
}
DEFAULT_REMEDY: Final = "exclude the guest (guests.exclude) or report this as a bug"


@dataclass(frozen=True, slots=True)
class GuestResult:
    """One guest: what a scan would do (`forecast`), or why it would be left out (`reason`). `memory` is in bytes, None
    where it is not known. `link_check` warns about links that the scan would interrupt; `clock` is what scans will take
    of its clock.
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
    """A guest that would not be scanned."""
    message = one_line(f"skipped ({error.reason}): {error.detail}")
    if error.reason.intended:
        return ok(NAME, message, domain=name)
    remedy = error.remedy or REMEDIES.get(error.reason, DEFAULT_REMEDY).format(name=shlex.quote(name))
    status = Status.WARNING if error.reason in TRANSIENT_REASONS else Status.FAILURE
    return Check(NAME, status, message, one_line(remedy), name)


def scan_check(
    name: str, memory: int, forecast: Forecast, scan: ScanConfig, *, paused: bool, clock: ClockForecast | None = None
) -> Check:
    """A guest of so many bytes that would be scanned: how, how long it would stand still, why not in a better way."""
    backed = "" if forecast.backed is None else f" ({size(forecast.backed)} backed)"
    message = f"{size(memory)}{backed}, {forecast.mode}{_pauses(forecast, scan, paused=paused)}"
    if is_substitute(forecast.reader, AUTO):
        message += f", by a {forecast.reader}"
    if forecast.obstacle is not None:
        message += f"; no better, as {forecast.obstacle.text}"
    if forecast.mode == "precopy":
        message += f"; a snapshot would take {seconds(forecast.snapshot)}"
    if clock is not None and clock.scan_seconds:
        message += f"; {clock.text}"
        if clock.period_seconds is None:
            return warning(NAME, message, f"set scan.max_drift to {clock.ppm}ppm or more, or scan.mode to live", name)
    if forecast.pause > scan.max_pause:
        return warning(NAME, message, f"set scan.mode: auto, or scan.max_pause above {seconds(forecast.pause)}", name)
    if is_substitute(forecast.reader, scan.reader):
        remedy = f"set scan.reader: {forecast.reader}, if that is as it should be, or report this"
        return warning(NAME, message, remedy, name)
    if forecast.mode == "sliced" and scan.mode != "sliced":
        return warning(
            NAME,
            message,
            f"set scan.max_pause above {seconds(forecast.snapshot)} if it may stand still so long, or remove the "
            "reason",
            name,
        )
    if scan.mode == "precopy" and forecast.mode != "precopy" and not paused:
        return warning(NAME, message, "set scan.mode: auto, if that is as it should be, or remove the reason", name)
    return ok(NAME, message, name)


def link_check(name: str, modes: tuple[str, ...]) -> Check:
    """A guest with macvtap interfaces in these modes that a scan would suspend, as scan.macvtap allows."""
    return warning(
        LINKS,
        f"it has {interruption(modes)} (scan.macvtap allows it)",
        "set scan.macvtap: skip, or scan.mode: live, if the guest or its peers must not notice",
        name,
    )


def _pauses(forecast: Forecast, scan: ScanConfig, *, paused: bool) -> str:
    if paused:
        return ", as it stands: somebody else has paused it"
    if forecast.mode == "live":
        return ", without a pause"
    about = seconds(forecast.pause)
    if forecast.mode == "precopy":
        return f", pauses of about {about}, and no longer than {seconds(scan.max_pause)}"
    if forecast.mode == "sliced":
        return f", many pauses of about {about}"
    return f", a pause of about {about}"


def _forecast(guest: Guest, config: Config) -> Forecast:
    """What a scan would do if no drift budget is spent yet; if that is not enough, what it would do without it."""
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
    """Look at one domain. It is neither suspended nor read. Raises HypervisorError where libvirt is lost."""
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
