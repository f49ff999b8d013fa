"""One scan of all guests: the hall where hypervisor, memory and sharing meet."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import libvirt

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.export.snapshot import GuestScan, HostScan, Skipped
from samepaged.hypervisor.guests import Guest, describe
from samepaged.hypervisor.pause import Suspender
from samepaged.memory.capture import Capture, Hashing, Source, capture
from samepaged.memory.hashing import Interrupted
from samepaged.sharing import Contents, Member, analyse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from samepaged.config import Config
    from samepaged.hypervisor.connection import Hypervisor

__all__ = ["Round", "Scanned", "report", "scan_all"]

log = logging.getLogger(__name__)

PAGE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Scanned:
    """One guest's scan: how it went, what it found, and each of its pauses in seconds."""

    scan: GuestScan
    contents: Contents
    pauses: tuple[float, ...]


@dataclass(slots=True)
class Round:
    """One scan of all guests while it is being made. `running` names every domain that libvirt says runs."""

    started: float
    running: frozenset[str] = frozenset()
    scanned: dict[str, Scanned] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def report(scanned: Mapping[str, Scanned], skipped: Sequence[Skipped], started: float, duration: float) -> HostScan:
    """Analyse what was scanned. `started` is in seconds of the Unix epoch, `duration` in seconds."""
    members = [Member(name, one.scan.group, one.contents) for name, one in sorted(scanned.items())]
    return HostScan(
        started=started,
        duration_seconds=duration,
        scans=tuple(scanned[member.name].scan for member in members),
        skipped=tuple(skipped),
        report=analyse(members, PAGE_SIZE),
    )


class Scanner:
    """Scans guests, one after another: never are two suspended at once."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        config: Config,
        hashing: Hashing,
        directory: Path,
        give_up: Callable[[], bool],
    ) -> None:
        self._hypervisor = hypervisor
        self._config = config
        self._hashing = hashing
        self._directory = directory
        self._give_up = give_up

    def scan(self, domain: Any) -> Scanned:  # noqa: ANN401 - libvirt's type
        """Scan one guest. Raises GuestError, HypervisorError or Interrupted; the guest runs again in any case."""
        guest = describe(self._hypervisor, domain)
        suspender = Suspender(self._hypervisor, guest, self._give_up)
        started, began = time.time(), time.monotonic()
        captured = capture(
            Source(
                pid=guest.process.pid,
                blocks=guest.blocks,
                pause=suspender,
                dump=lambda path: self._dump(guest, path),
                directory=self._directory,
            ),
            self._hashing,
            reader=self._config.scan.reader,
        )
        guest.process.check()
        duration = time.monotonic() - began
        if captured.fallback_reason:
            log.warning("domain %r: read by %s: %s", guest.name, captured.reader, captured.fallback_reason)
        pauses = tuple(suspender.pauses)
        scan = self._describe(guest, captured, pauses, started, duration)
        return Scanned(scan, Contents.of(captured.digest), pauses)

    def _dump(self, guest: Guest, path: Path) -> None:
        domain = self._hypervisor.by_uuid(guest.uuid)
        self._hypervisor.call(
            f"dumping domain {guest.name!r}",
            lambda: domain.coreDumpWithFormat(
                str(path), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY
            ),
        )

    def _describe(
        self, guest: Guest, captured: Capture, pauses: tuple[float, ...], started: float, duration: float
    ) -> GuestScan:
        return GuestScan(
            name=guest.name,
            uuid=guest.uuid,
            group=self._config.group_of(guest.name),
            mode=captured.mode,
            reader=captured.reader,
            started=started,
            duration_seconds=duration,
            pauses=len(pauses),
            pause_seconds=sum(pauses),
            longest_pause_seconds=max(pauses, default=0.0),
            bytes_read=captured.bytes_read,
            fallback_reason=captured.fallback_reason,
        )


def _skip(name: str, error: Exception) -> Skipped:
    if isinstance(error, GuestError):
        return Skipped(name, error.reason, str(error))
    log.error("domain %r: an error that was not foreseen; please report it", name, exc_info=error)
    return Skipped(name, Reason.INTERNAL, f"domain {name!r}: {type(error).__name__}; please report it, with the log")


def scan_all(
    hypervisor: Hypervisor,
    config: Config,
    scanner: Scanner,
    names: Sequence[str] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> Round:
    """Scan the named domains, or all that run and that the configuration selects. A failure belongs to its domain:
    it is in `skipped`, and the others are scanned. Raises HypervisorError where libvirt is lost, and Interrupted.
    """
    round_ = Round(time.time())
    domains: list[Any] = []
    if names:
        for name in dict.fromkeys(names):
            try:
                domains.append(hypervisor.by_name(name))
            except GuestError as error:
                round_.skipped.append(_skip(name, error))
    else:
        running = hypervisor.running()
        round_.running = frozenset(domain.name() for domain in running)
        for domain in running:
            if config.selects(domain.name()):
                domains.append(domain)
            else:
                text = f"domain {domain.name()!r} is excluded by the configuration (guests)"
                round_.skipped.append(Skipped(domain.name(), Reason.EXCLUDED, text))
    for number, domain in enumerate(domains, start=1):
        name = domain.name()
        if progress is not None:
            progress(number, len(domains), name)
        try:
            round_.scanned[name] = scanner.scan(domain)
        except Interrupted:
            raise
        except HypervisorError as error:
            if not hypervisor.alive:
                raise
            round_.skipped.append(Skipped(name, Reason.LIBVIRT, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the other guests
            round_.skipped.append(_skip(name, error))
    return round_
