"""An attributed scan, with a real process that reads a guest which is made up: well, badly, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.sources import attendant as module
from samepaged.sources import messages, sandbox
from samepaged.sources.attendant import Attendant, Known, Terms
from samepaged.sources.ownership import KIND
from tests.unit.sources.pretended import ARRAY, ARRAY_PAGES, CHOSEN, HOW, LAYOUTS, NOTE, OTHER, PAGES, Guest, program

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.sources.ownership import Ownership

TERMS = Terms(memory_limit=1 << 20, time_limit=20.0, names=True)
IMPATIENT = Terms(memory_limit=1 << 20, time_limit=0.5)
# Whatever the machine is doing: how long a guest may wait is no matter of these tests.
LONG = 20.0


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHOOSING", LONG)
    monkeypatch.setattr(sandbox, "BASE_MEMORY", 512 << 20)


def attend(
    guest: Guest,
    known: Known | None = None,
    terms: Terms = TERMS,
    how: str = "well",
    meanwhile: Callable[[], None] = lambda: None,
) -> Ownership:
    """A snapshot's attributed scan; `meanwhile` is what happens before the guest is held."""
    with Attendant(known or Known(1), LAYOUTS, terms, lambda: False, program(how)) as attendant:
        guest.asked.clear()
        attendant.prepare(guest)
        meanwhile()
        guest.asked.clear()
        with attendant.held(guest, None):
            pass
        held = guest.asked.copy()
        attendant.think()
        found = attendant.conclude()
        assert guest.asked == held  # nothing is copied of a guest that runs on
    return found


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_what_is_found_is_of_the_instant_and_not_of_before() -> None:
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


def test_while_the_guest_is_held_only_what_is_needed_is_copied_once() -> None:
    guest = Guest()
    attend(guest)
    assert sorted(guest.asked) == sorted({NOTE, OTHER, *range(ARRAY, ARRAY + ARRAY_PAGES), *CHOSEN})


def test_a_second_scan_knows_what_it_needs_without_a_rehearsal() -> None:
    guest, known = Guest(), Known(1)
    first = attend(guest, known)
    held = sorted(guest.asked)
    looked: list[int] = []
    second = attend(guest, known, meanwhile=lambda: looked.extend(guest.asked))
    assert second.kinds.tolist() == first.kinds.tolist()
    assert sorted(guest.asked) == held
    assert OTHER not in looked
    assert OTHER in known.others


def test_names_do_not_leave_the_process_that_is_not_asked_for_them() -> None:
    found = attend(Guest(), terms=Terms(1 << 20, 20.0))
    assert found.names == ("slab of\na kind",)
    assert found.processes == ()
    assert found.kinds[OTHER] == KIND["library"]


@pytest.mark.parametrize("how", sorted(set(HOW) - {"open"}))
def test_a_process_that_goes_wrong_costs_this_guests_rows_and_nothing_else(how: str) -> None:
    before = children()
    found = attend(Guest(), terms=IMPATIENT if how in {"hang", "sleep"} else TERMS, how=how)
    assert not found.kinds.any()
    assert found.note
    assert "the guest's own words" not in found.note
    assert children() <= before


@pytest.mark.parametrize("how", ["raise", "hang", "rubbish", "leave", "connect"])
def test_a_process_that_goes_wrong_while_the_guest_is_held_is_given_up(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHOOSING", 0.5)
    found = attend(Guest(), how=f"{how}-choosing")
    assert not found.kinds.any()
    assert found.note


def test_a_process_that_looks_for_files_finds_none() -> None:
    assert attend(Guest(), how="open").note is None


def test_a_scan_that_is_stopped_does_not_wait_for_the_process() -> None:
    with Attendant(Known(1), LAYOUTS, TERMS, lambda: True, program("sleep")) as attendant:
        attendant.prepare(Guest())
        assert attendant.expected(None) == 0
        attendant.think()
        assert "interrupted" in (attendant.conclude().note or "")


def test_of_a_guest_without_a_note_no_process_is_started_and_it_is_not_searched_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest, known = Guest(), Known(1)
    guest.words[NOTE] = 0
    searches = 0
    search = Guest.starting_with

    def counted(self: Guest, mark: bytes) -> object:
        nonlocal searches
        searches += 1
        return search(self, mark)

    monkeypatch.setattr(Guest, "starting_with", counted)
    monkeypatch.setattr(module, "Conversation", None)
    for _ in range(module.LOOK_AGAIN):
        assert "no Linux" in (attend(guest, known).note or "")
    assert searches == 1
    attend(guest, known)
    assert searches == 2


def test_a_kernel_that_was_started_since_is_found_at_the_same_scan() -> None:
    guest, known = Guest(), Known(1)
    attend(guest, known)
    guest.words[8], guest.words[NOTE] = guest.words[NOTE], 0
    found = attend(guest, known)
    assert found.note is None
    assert found.kinds[OTHER] == KIND["library"]
    assert known.notes is not None
    assert known.notes.tolist() == [8]


def test_what_is_known_of_a_guest_that_makes_no_sense_any_more_is_forgotten() -> None:
    guest, known = Guest(), Known(1)
    attend(guest, known)
    guest.words[NOTE, 2] = 0
    found = attend(guest, known)
    assert "no kernel in any of the notes" in (found.note or "")
    assert len(known.profile) == 0


def test_a_guest_that_needs_more_than_the_limit_is_not_copied_at_all() -> None:
    guest = Guest()
    found = attend(guest, terms=Terms(memory_limit=5 * 4096, time_limit=20.0))
    assert "sources.memory_limit" in (found.note or "")
    assert guest.asked == []


def test_of_what_is_chosen_as_much_is_copied_as_there_is_room_for() -> None:
    guest = Guest()
    guest.choose(*range(100, 200))
    found = attend(guest, terms=Terms(memory_limit=16 * 4096, time_limit=20.0))
    assert 0 < np.count_nonzero(found.kinds) < 100
    assert "not copied" in (found.note or "")


def test_a_guest_cannot_choose_much_more_than_it_chose_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARGIN", 2)
    guest = Guest()
    attend(guest, meanwhile=lambda: guest.choose(*range(100, 200)))
    assert len([page for page in guest.asked if 100 <= page < 200]) == len(CHOSEN) + 2


def test_absent_pages_are_zeros_and_swapped_ones_are_missing() -> None:
    guest = Guest(unbacked=frozenset({51}), swapped=frozenset({60, OTHER}))
    found = attend(guest)
    assert found.kinds[[50, 51, 60]].tolist() == [KIND["slab"], 0, 0]
    assert found.missing == 2


def test_of_blocks_that_the_host_does_not_back_no_struct_pages_are_copied_and_nobody_uses_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Blocks of two pages, here and in the process that reads: page 20, which has struct pages, is of no use then.
    monkeypatch.setattr(module, "BLOCK", 2)
    guest = Guest(unbacked=frozenset({20, 21, 30, 33}))
    monkeypatch.setattr(messages, "BLOCK", 2)

    def one_of_them_is_used() -> None:
        guest.unbacked = frozenset({20, 30, 33})

    found = attend(guest, how="by-twos", meanwhile=one_of_them_is_used)
    assert not {20, 21} & set(guest.asked)
    assert found.kinds[20] == KIND["absent"]
    assert found.kinds[[21, 30, 33]].tolist() == [0, 0, 0]  # used since, or beside one that is
    assert found.missing == 0


def test_what_was_copied_ahead_is_copied_again_where_it_was_written() -> None:
    guest = Guest()
    with Attendant(Known(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.ahead(guest)
        guest.asked.clear()
        guest.words[OTHER, 0] = 11
        written = np.zeros(PAGES, dtype=np.bool_)
        written[[OTHER, 200]] = True
        attendant.again(guest, written)
        assert guest.asked == [OTHER]
        guest.choose(50, 80)  # of which the struct pages are written, and page 80 is none that was known of
        guest.words[OTHER, 0] = 12
        written[:] = False
        written[[OTHER, 80, *range(ARRAY, ARRAY + ARRAY_PAGES)]] = True
        guest.asked.clear()
        with attendant.held(guest, written):
            pass
        assert sorted(guest.asked) == [*range(ARRAY, ARRAY + ARRAY_PAGES), 80, OTHER]
        attendant.think()
        found = attendant.conclude()
    assert np.flatnonzero(found.kinds).tolist() == [50, 80, OTHER]
    assert int(found.offsets[OTHER]) == 12


def test_what_was_copied_ahead_and_is_not_there_any_more_is_not_taken_for_what_it_was() -> None:
    guest = Guest()
    nothing = np.zeros(PAGES, dtype=np.bool_)
    with Attendant(Known(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.ahead(guest)
        guest.swapped, guest.unbacked = frozenset({OTHER}), frozenset({60})
        with attendant.held(guest, nothing):
            pass
        attendant.think()
        found = attendant.conclude()
    assert int(found.offsets[OTHER]) != 5
    assert found.kinds[60] == 0


def test_where_there_is_no_room_to_copy_again_all_is_copied_while_the_guest_is_held() -> None:
    guest = Guest()
    terms = Terms(memory_limit=12 * 4096, time_limit=20.0, names=True)
    everything = np.ones(PAGES, dtype=np.bool_)
    with Attendant(Known(1), LAYOUTS, terms, lambda: False, program("well")) as attendant:
        attendant.prepare(guest)
        attendant.ahead(guest)
        attendant.again(guest, everything)
        guest.words[OTHER, 0] = 13
        with attendant.held(guest, np.zeros(PAGES, dtype=np.bool_)):
            pass
        attendant.think()
        found = attendant.conclude()
    assert found.note is None
    assert int(found.offsets[OTHER]) == 13
    assert np.flatnonzero(found.kinds).tolist() == [*CHOSEN, OTHER]


def test_who_was_not_held_says_why_nothing_is_known() -> None:
    with Attendant(Known(1), LAYOUTS, TERMS, lambda: False, program("well")) as attendant:
        attendant.decline("its memory was read by a dump")
        attendant.decline("for another reason")
        attendant.think()
        found = attendant.conclude()
    assert found.note == "its memory was read by a dump"
    assert len(found.kinds) == PAGES
