"""One scan of a guest's memory, or its forecast, with the reader set in the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.memory.dump_reader import DumpReader
from samepaged.memory.hashing import SubpageDigests
from samepaged.memory.observer import NullObserver
from samepaged.memory.process_reader import ProcessReader
from samepaged.memory.scan_state import EarlierScan
from samepaged.sharing.digest import PageDigest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from samepaged.memory.hashing import Hashing
    from samepaged.memory.observer import PageObserver
    from samepaged.memory.reader import Capture, Forecast, GuestControl, GuestMemory, Reader, ScanRequest
    from samepaged.memory.scan_state import ScanState

__all__ = ["AUTO", "AUTO_READERS", "READERS", "candidates", "capture", "forecast", "is_substitute", "needs_process"]

# With this value of scan.reader, AUTO_READERS are tried in order until one finds the guest's memory.
AUTO: Final = "auto"
AUTO_READERS: Final[tuple[type[Reader], ...]] = (ProcessReader, DumpReader)
# Readers that are used only if scan.reader has their name. To add a reader: write its module, list the class here or
# above, and add its name and description to config/schema.py.
OTHER_READERS: Final[tuple[type[Reader], ...]] = ()
READERS: Final[Mapping[str, type[Reader]]] = {reader.name: reader for reader in (*AUTO_READERS, *OTHER_READERS)}


def forecast(guest: GuestMemory, request: ScanRequest, state: ScanState) -> Forecast:
    """Predict the scan that `capture` would make, without touching the guest or its process: the pages that the host
    backs are counted, and permission to read them is checked. Raises GuestError as `capture` would.
    """
    return _open_reader(candidates(request.config.reader), guest, request, state).forecast()


def capture(
    guest: GuestMemory,
    control: GuestControl,
    hashing: Hashing,
    request: ScanRequest,
    state: ScanState,
    observer: PageObserver | None = None,
) -> Capture:
    """Scan a guest and update its state. The observer takes part if the reader and the mode allow it. Raises
    GuestError; the state is then empty unless the drift budget refused the scan.
    """
    earlier = state.take()
    if request.subpage_sizes:
        earlier = EarlierScan()  # the state does not keep hashes of subpages
        subpages = SubpageDigests(sum(guest.blocks) // PAGE_SIZE, request.subpage_sizes, hashing.hasher, hashing.seed)
        hashing = replace(hashing, subpages=subpages)
    reader = _open_reader(candidates(request.config.reader), guest, request, state)
    captured = reader.read(control, hashing, observer or NullObserver(), earlier)
    state.digest = captured.digest.pages
    state.scans += 1
    if hashing.subpages is None:
        return captured
    hashing.subpages.settle(captured.digest.pages)
    digests = tuple(PageDigest(parts, size) for size, parts in hashing.subpages.parts.items())
    return replace(captured, subpages=digests)


def _open_reader(
    readers: Sequence[type[Reader]],
    guest: GuestMemory,
    request: ScanRequest,
    state: ScanState,
    replaced: GuestError | None = None,
) -> Reader:
    """Return the first of these readers that finds the guest's memory. Raises GuestError."""
    try:
        return readers[0](guest, request, state, replaced)
    except GuestError as error:
        if error.reason is not Reason.LAYOUT or len(readers) == 1:
            raise
        return _open_reader(readers[1:], guest, request, state, error)


def candidates(name: str) -> tuple[type[Reader], ...]:
    """The readers that a scan may use with this value of scan.reader, the preferred one first."""
    return (READERS[name],) if name in READERS else AUTO_READERS


def needs_process(name: str) -> bool:
    """Whether scans with this value of scan.reader read the QEMU process."""
    return any(reader.needs_process for reader in candidates(name))


def is_substitute(used: str, name: str) -> bool:
    """Whether the reader `used` replaces the preferred one for the value `name` of scan.reader."""
    return used != candidates(name)[0].name
