"""Attributed scans of a fake guest, with a real worker that behaves well, badly, or does not reply."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.attribution import client, messages, page_buffer, sandbox
from samepaged.attribution import session as module
from samepaged.attribution.page_owners import KIND
from samepaged.attribution.session import AttributionSession, GuestKernelCache
from samepaged.config import SourcesConfig
from tests.unit.attribution.pretended import (
    ARRAY,
    ARRAY_PAGES,
    CHOSEN,
    HOW,
    LAYOUTS,
    NOTE,
    OTHER,
    PAGES,
    Guest,
    program,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.attribution.page_owners import PageOwners

TERMS = SourcesConfig(memory_limit=1 << 20, time_limit=20.0, names=True)
IMPATIENT = SourcesConfig(memory_limit=1 << 20, time_limit=0.5)
# Long enough for a busy machine; these tests do not check the limit.
LONG = 20.0


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SELECTION_SECONDS", LONG)
    monkeypatch.setattr(sandbox, "BASE_MEMORY_BYTES", 512 << 20)


def attend(
    guest: Guest,
    known: GuestKernelCache | None = None,
    terms: SourcesConfig = TERMS,
    how: str = "well",
    meanwhile: Callable[[], None] = lambda: None,
) -> PageOwners:
    """Run an attributed snapshot scan; `meanwhile` runs before the guest is suspended."""
    with AttributionSession(known or GuestKernelCache(1), LAYOUTS, terms, lambda: False, program(how)) as attendant:
        guest.asked.clear()
        attendant.prepare(guest)
        meanwhile()
        guest.asked.clear()
        with attendant.while_suspended(guest, None):
            pass
        held = guest.asked.copy()
        attendant.start_attribution()
        found = attendant.finish()
        assert guest.asked == held  # after the resume, pages are not copied
    return found


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_owners_are_of_the_captured_instant() -> None:
    guest = Guest()

    def change() -> None:
        guest.choose(50, 70)
        guest.words[70, 0] = KIND["page_table"]
        guest.words[OTHER, 0] = 8

    found = attend(guest, meanwhile=change)
    assert found.note is None
    assert np.flatnonzero(found.kinds).tolist() == [50, 70, OTHER]
    assert found.kinds[[50, 70]].tolist() == [KIND["slab"], KIND["page_table"]]
    assert int(found.offsets[OTHER]) == 8
    assert found.names[found.labels[OTHER]] == "/lib/secret.so"
    assert [found.processes[by] for by in found.used_by] == ["sshd", "apache2"]


def test_suspended_guest_copies_only_needed_pages() -> None:
    guest = Guest()
    attend(guest)
    assert sorted(guest.asked) == sorted({NOTE, OTHER, *range(ARRAY, ARRAY + ARRAY_PAGES), *CHOSEN})


def test_second_scan_reuses_the_page_list() -> None:
    guest, known = Guest(), GuestKernelCache(1)
    first = attend(guest, known)
    held = sorted(guest.asked)
    looked: list[int] = []
    second = attend(guest, known, meanwhile=lambda: looked.extend(guest.asked))
    assert second.kinds.tolist() == first.kinds.tolist()
    assert sorted(guest.asked) == held
    assert OTHER not in looked
    assert OTHER in known.extra_pages


def test_names_stay_in_the_worker() -> None:
    found = attend(Guest(), terms=SourcesConfig(memory_limit=1 << 20, time_limit=20.0))
    assert found.names == ("slab of\na kind",)
    assert found.processes == ()
    assert found.kinds[OTHER] == KIND["library"]


@pytest.mark.parametrize("how", sorted(set(HOW) - {"open"}))
def test_failed_worker_costs_one_attribution(how: str) -> None:
    before = children()
    found = attend(Guest(), terms=IMPATIENT if how in {"hang", "sleep"} else TERMS, how=how)
    assert not found.kinds.any()
    assert found.note
    assert "the guest's own words" not in found.note
    assert children() <= before


@pytest.mark.parametrize("how", ["raise", "hang", "rubbish", "leave", "connect"])
def test_worker_failing_during_the_pause_is_dropped(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SELECTION_SECONDS", 0.5)
    found = attend(Guest(), how=f"{how}-choosing")
    assert not found.kinds.any()
    assert found.note


def test_pause_does_not_wait_for_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # too small for a request with more pages
    monkeypatch.setattr(socket, "socketpair", lambda *_: (ours, theirs))
    monkeypatch.setattr(module, "SELECTION_SECONDS", 0.1)
    known = GuestKernelCache(1, extra_pages=np.arange(PAGES, dtype=np.int64))
    found = attend(Guest(), known, SourcesConfig(memory_limit=2 << 20, time_limit=3600.0), how="deaf")
    assert found.note == "attribution worker failed: timed out"


def test_btf_requests_are_bounded(tmp_path: Path) -> None:
    found = attend(Guest(), terms=TERMS.model_copy(update={"btf_directory": tmp_path}), how="asking")
    assert found.note == "attribution worker failed: it sent too many find_btf requests"


def test_worker_finds_no_files() -> None:
    assert attend(Guest(), how="open").note is None


def test_stopped_scan_does_not_wait_for_worker() -> None:
    with AttributionSession(GuestKernelCache(1), LAYOUTS, TERMS, lambda: True, program("sleep")) as attendant:
        attendant.prepare(Guest())
        assert attendant.expected_copies(None) == 0
        attendant.start_attribution()
        assert "interrupted" in (attendant.finish().note or "")


def test_guest_without_vmcoreinfo_starts_no_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest, known = Guest(), GuestKernelCache(1)
    guest.words[NOTE] = 0
    searches = 0
    search = Guest.starting_with

    def counted(self: Guest, mark: bytes) -> object:
        nonlocal searches
        searches += 1
        return search(self, mark)

    monkeypatch.setattr(Guest, "starting_with", counted)
    monkeypatch.setattr(module, "WorkerClient", None)
    seen = []
    for _ in range(40):
        assert "no Linux" in (attend(guest, known).note or "")
        seen.append(searches)
    assert [1 + seen.index(count) for count in range(1, searches + 1)] == [1, 2, 4, 8, 16, 26, 36]


def test_booting_guest_is_found_next_scan() -> None:
    guest, known = Guest(), GuestKernelCache(1)
    array, guest.words[NOTE, 2] = int(guest.words[NOTE, 2]), 0
    assert "no kernel in any of the notes" in (attend(guest, known).note or "")
    guest.words[8], guest.words[NOTE] = guest.words[NOTE], 0
    guest.words[8, 2] = array
    assert attend(guest, known).note is None
    guest.words[8, 2] = 0  # now it stays away
    for _ in range(3):
        assert attend(guest, known).note
    assert known.failures == 2


def test_rebooted_kernel_is_found_at_once() -> None:
    guest, known = Guest(), GuestKernelCache(1)
    attend(guest, known)
    guest.words[8], guest.words[NOTE] = guest.words[NOTE], 0
    found = attend(guest, known)
    assert found.note is None
    assert found.kinds[OTHER] == KIND["library"]
    assert known.notes is not None
    assert known.notes.tolist() == [8]


def test_failed_attribution_clears_the_cache() -> None:
    guest, known = Guest(), GuestKernelCache(1)
    attend(guest, known)
    guest.words[NOTE, 2] = 0
    found = attend(guest, known)
    assert "no kernel in any of the notes" in (found.note or "")
    assert len(known.profile) == 0


def test_guest_beyond_memory_limit_is_not_copied() -> None:
    guest = Guest()
    found = attend(guest, terms=SourcesConfig(memory_limit=5 * 4096, time_limit=20.0))
    assert "sources.memory_limit" in (found.note or "")
    assert guest.asked == []


def test_memory_limit_is_named_as_reason() -> None:
    guest = Guest()
    guest.words[NOTE - 1, :2] = guest.words[NOTE, :2]  # begins like a note, but is not one
    assert attend(guest, terms=SourcesConfig(memory_limit=4096, time_limit=20.0)).note == (
        "attribution must copy more guest memory than sources.memory_limit (4 KiB); increase the limit"
    )


def test_selected_pages_are_copied_up_to_the_room() -> None:
    guest = Guest()
    guest.choose(*range(100, 200))
    found = attend(guest, terms=SourcesConfig(memory_limit=16 * 4096, time_limit=20.0))
    assert 0 < np.count_nonzero(found.kinds) < 100
    assert "not copied" in (found.note or "")


def test_growth_of_the_selection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXTRA_SELECTION_PAGES", 2)
    guest = Guest()
    attend(guest, meanwhile=lambda: guest.choose(*range(100, 200)))
    assert len([page for page in guest.asked if 100 <= page < 200]) == len(CHOSEN) + 2


def test_absent_pages_read_zero_swapped_pages_are_missing() -> None:
    guest = Guest(unbacked=frozenset({51}), swapped=frozenset({60, OTHER}))
    found = attend(guest)
    assert found.kinds[[50, 51, 60]].tolist() == [KIND["slab"], 0, 0]
    assert found.missing == 2


def test_unbacked_blocks_need_no_struct_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Blocks of two pages, here and in the worker: page 20, which has struct pages, is then not needed.
    monkeypatch.setattr(module, "BLOCK_PAGES", 2)
    guest = Guest(unbacked=frozenset({20, 21, 30, 33}))
    monkeypatch.setattr(messages, "BLOCK_PAGES", 2)

    def one_of_them_is_used() -> None:
        guest.unbacked = frozenset({20, 30, 33})

    found = attend(guest, how="by-twos", meanwhile=one_of_them_is_used)
    assert not {20, 21} & set(guest.asked)
    assert found.kinds[20] == KIND["absent"]
    assert found.kinds[[21, 30, 33]].tolist() == [0, 0, 0]  # backed since then, or in a backed block
    assert found.missing == 0


def test_written_pages_are_copied_again() -> None:
    guest = Guest()
    with AttributionSession(GuestKernelCache(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.copy_running(guest)
        guest.asked.clear()
        guest.words[OTHER, 0] = 11
        written = np.zeros(PAGES, dtype=np.bool_)
        written[[OTHER, 200]] = True
        attendant.copy_written(guest, written)
        assert guest.asked == [OTHER]
        guest.choose(50, 80)  # writes their struct pages; page 80 is new
        guest.words[OTHER, 0] = 12
        written[:] = False
        written[[OTHER, 80, *range(ARRAY, ARRAY + ARRAY_PAGES)]] = True
        guest.asked.clear()
        with attendant.while_suspended(guest, written):
            pass
        assert sorted(guest.asked) == [*range(ARRAY, ARRAY + ARRAY_PAGES), 80, OTHER]
        attendant.start_attribution()
        found = attendant.finish()
    assert np.flatnonzero(found.kinds).tolist() == [50, 80, OTHER]
    assert int(found.offsets[OTHER]) == 12


def test_discarded_pages_are_not_stale() -> None:
    guest = Guest()
    nothing = np.zeros(PAGES, dtype=np.bool_)
    with AttributionSession(GuestKernelCache(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.copy_running(guest)
        guest.swapped, guest.unbacked = frozenset({OTHER}), frozenset({60})
        with attendant.while_suspended(guest, nothing):
            pass
        attendant.start_attribution()
        found = attendant.finish()
    assert int(found.offsets[OTHER]) != 5
    assert found.kinds[60] == 0


def test_full_buffer_is_recopied_during_the_pause() -> None:
    guest = Guest()
    terms = SourcesConfig(memory_limit=12 * 4096, time_limit=20.0, names=True)
    everything = np.ones(PAGES, dtype=np.bool_)
    with AttributionSession(GuestKernelCache(1), LAYOUTS, terms, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.copy_running(guest)
        attendant.copy_written(guest, everything)
        guest.words[OTHER, 0] = 13
        with attendant.while_suspended(guest, np.zeros(PAGES, dtype=np.bool_)):
            pass
        attendant.start_attribution()
        found = attendant.finish()
    assert found.note is None
    assert int(found.offsets[OTHER]) == 13
    assert np.flatnonzero(found.kinds).tolist() == [*CHOSEN, OTHER]


def test_full_recopy_is_forecast() -> None:
    guest = Guest()
    terms = SourcesConfig(memory_limit=12 * 4096, time_limit=20.0)
    nothing, everything = np.zeros(PAGES, dtype=np.bool_), np.ones(PAGES, dtype=np.bool_)
    with AttributionSession(GuestKernelCache(1), LAYOUTS, terms, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        whole = attendant.expected_copies(None)
        attendant.copy_running(guest)
        assert attendant.expected_copies(everything) == whole
        attendant.copy_written(guest, everything)
        assert attendant.expected_copies(nothing) == whole


def test_discarded_pages_take_no_room() -> None:
    guest = Guest()
    guest.choose(*range(100, 110))
    terms = SourcesConfig(memory_limit=20 * 4096, time_limit=20.0)
    with AttributionSession(GuestKernelCache(1), LAYOUTS, terms, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.copy_running(guest)
        guest.unbacked, guest.swapped = frozenset(range(100, 105)), frozenset(range(105, 110))
        guest.asked.clear()
        with attendant.while_suspended(guest, np.zeros(PAGES, dtype=np.bool_)):
            pass
        assert {page for page in guest.asked if page < 100} == set()
        attendant.start_attribution()
        assert not attendant.finish().kinds[100:110].any()


def test_selection_during_the_pause_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EXTRA_SELECTION_PAGES", 2)
    guest = Guest()
    guest.choose(*range(100, 200))
    written = np.zeros(PAGES, dtype=np.bool_)
    written[ARRAY : ARRAY + ARRAY_PAGES] = True
    with AttributionSession(GuestKernelCache(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.copy_running(guest)
        guest.choose(*range(100, 250))
        guest.asked.clear()
        announced = attendant.expected_copies(written)
        with attendant.while_suspended(guest, written):
            pass
        assert len(guest.asked) == announced == ARRAY_PAGES + 100 // module.EXTRA_SELECTION_DIVISOR + 2
        attendant.start_attribution()
        assert "not copied" in (attendant.finish().note or "")


def test_scan_survives_memory_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    guest = Guest()
    everything = np.ones(PAGES, dtype=np.bool_)
    monkeypatch.setattr(module, "EXTRA_SELECTION_PAGES", 0)
    monkeypatch.setattr(client, "PREALLOCATED_PAGES", 1)
    with AttributionSession(GuestKernelCache(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.copy_running(guest)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with attendant.while_suspended(guest, everything):
            pass
        attendant.start_attribution()
        assert "No space left" in (attendant.finish().note or "")


def test_timely_reply_counts_when_read_late() -> None:
    guest = Guest()
    with AttributionSession(GuestKernelCache(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        with attendant.while_suspended(guest, None):
            pass
        attendant.start_attribution()
        assert attendant._client is not None
        attendant._client._request_deadline = 0.0  # the other work on this scan took longer than the deadline
        assert attendant.finish().note is None


def test_populate_failure_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_buffer, "MADV_POPULATE_WRITE", 9999)  # as on a kernel without this flag
    held = page_buffer.PageBuffer(PAGES, 16)
    monkeypatch.setattr(held, "_locked", False)
    try:
        held.preallocate(16)
        assert os.fstat(held.file).st_blocks * 512 >= 17 * 4096
        assert held.add(Guest(), np.array([NOTE, OTHER])).tolist() == [1, 2]
    finally:
        held.close()


def test_unread_guest_has_a_reason() -> None:
    with AttributionSession(GuestKernelCache(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.decline("its memory was read by a dump")
        attendant.decline("for another reason")
        attendant.start_attribution()
        found = attendant.finish()
    assert found.note == "its memory was read by a dump"
    assert len(found.kinds) == PAGES
