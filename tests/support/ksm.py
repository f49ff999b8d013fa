"""The kernel's own merging (Documentation/admin-guide/mm/ksm.rst) on the test machine."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.guests import Writer

__all__ = ["KSM", "ksm", "ksm_runs_to_completion", "mergeable_by_others"]

KSM: Final = Path("/sys/kernel/mm/ksm")


def ksm(name: str) -> int:
    return int((KSM / name).read_text())


@contextlib.contextmanager
def ksm_runs_to_completion() -> Iterator[None]:
    """Let KSM merge all that it finds (Documentation/admin-guide/mm/ksm.rst), and restore its settings on exit."""
    wanted = {"smart_scan": 0, "max_page_sharing": 1000000, "use_zero_pages": 1, "pages_to_scan": 100000}
    wanted |= {"sleep_millisecs": 0}
    (KSM / "run").write_text("2")  # max_page_sharing can be set only while nothing is merged
    before = {name: (KSM / name).read_text() for name in wanted if (KSM / name).exists()}
    try:
        for name in before:
            (KSM / name).write_text(str(wanted[name]))
        scans = ksm("full_scans")
        (KSM / "run").write_text("1")
        wait_for(lambda: ksm("full_scans") >= scans + 6, 120, "KSM has scanned all six times", every=0.1)
        yield
    finally:
        (KSM / "run").write_text("2")
        (KSM / "run").write_text("0")
        for name, value in before.items():
            (KSM / name).write_text(value)


def mergeable_by_others(*own: Writer) -> dict[int, str]:
    """Return the command lines of other processes that offer memory to KSM, by pid. They would change KSM's counters,
    and unmerging would affect them.
    """
    found = {}
    identities = [f"-uuid {writer.domain.UUIDString()} " for writer in own]
    for smaps in Path("/proc").glob("[0-9]*/smaps"):
        with contextlib.suppress(OSError):
            command = smaps.with_name("cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if not any(identity in command for identity in identities) and re.search(
                r"^VmFlags:.* mg\b", smaps.read_text(errors="replace"), re.MULTILINE
            ):
                found[int(smaps.parent.name)] = command
    return found
