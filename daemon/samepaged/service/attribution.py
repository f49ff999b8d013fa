"""Which scans ask whose a guest's pages are, and what is kept of each guest for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.sources.attendant import Attendant, Known, Terms
from samepaged.sources.layout import Layout, Region, layouts
from samepaged.sources.ram import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from samepaged.config import SourcesConfig
    from samepaged.hypervisor.guests import Guest

__all__ = ["Attribution"]

# What is found of a guest waits, with its digest, until all guests are scanned.
BYTES_A_PAGE: Final = 32


class Attribution:
    """By the configuration; what is kept of a guest is of one process of it, and is used for no other guest.

    Of a round no more are asked than `sources.memory_limit` has room for what is found of them, one at least; the
    others are at their next scan.
    """

    def __init__(self, config: SourcesConfig) -> None:
        self._config = config
        self._known: dict[str, Known] = {}
        self._late: set[str] = set()
        self._taken = 0

    def change(self, config: SourcesConfig) -> None:
        """From now on, by this configuration."""
        if not config.enabled or config.btf_directory != self._config.btf_directory:
            self._known.clear()
        self._config = config

    def attend(self, guest: Guest, scans: int, stop: Callable[[], bool]) -> Attendant | None:
        """Who attends a guest's next scan, of which so many were made before; None where it is not due."""
        config = self._config
        if not config.enabled or (scans % config.every and guest.uuid not in self._late):
            return None
        takes = guest.memory // PAGE * BYTES_A_PAGE
        if self._taken and self._taken + takes > config.memory_limit:
            self._late.add(guest.uuid)
            return None
        self._late.discard(guest.uuid)
        self._taken += takes
        known = self._known.get(guest.uuid)
        if known is None or known.start_time != guest.process.start_time:
            known = self._known[guest.uuid] = Known(guest.process.start_time)
        terms = Terms(
            memory_limit=config.memory_limit,
            time_limit=config.time_limit,
            seccomp=config.seccomp,
            names=config.names,
            btf_directory=config.btf_directory,
        )
        boot = guest.memory - sum(size for _, size in guest.dimms)
        dimms = [Region(start, size) for start, size in guest.dimms]
        try:
            found = list(layouts(guest.machine, boot, dimms))
        except ValueError:
            found = []
        told = found and all(start >= 0 for start, _ in guest.dimms)
        attendant = Attendant(known, found if told else [Layout((Region(0, guest.memory),))], terms, stop)
        if not told:
            attendant.decline("where its memory devices lie is not told")
        return attendant

    def forget(self, running: Collection[str]) -> None:
        """What is kept of guests other than these (UUIDs). The round is over."""
        self._taken = 0
        self._late &= set(running)
        for uuid in self._known.keys() - set(running):
            del self._known[uuid]
