"""Which scans ask whose a guest's pages are, and what comes of it when all guests are scanned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from samepaged.config import SourcesConfig
from samepaged.hypervisor.guests import Guest
from samepaged.hypervisor.process import QemuProcess
from samepaged.service.attribution import BYTES_A_PAGE, Attribution
from samepaged.service.owners import answers_of
from samepaged.service.scanner import Scanned
from samepaged.sharing import Contents, PageDigest
from samepaged.sources.ownership import Ownership
from tests.unit.export.builders import guest_scan
from tests.unit.sources.owned import Page, digest, ownership

MEMORY = 64 << 20


def never() -> bool:
    return False


def guest(uuid: str = "1", *, started: int = 1) -> Guest:
    process = QemuProcess(pid=1, start_time=started)
    return Guest(
        name=f"g{uuid}",
        uuid=uuid,
        id=1,
        paused=False,
        process=process,
        blocks=(MEMORY,),
        vfio=False,
        machine="pc-q35-7.2",
    )


def asked(attribution: Attribution, scans: int, uuid: str = "1") -> bool:
    attendant = attribution.attend(guest(uuid), scans, never)
    if attendant is not None:
        with attendant:
            pass
    return attendant is not None


def test_every_nth_scan_of_a_guest_asks_its_first_among_them() -> None:
    attribution = Attribution(SourcesConfig(enabled=True, every=3))
    assert [scans for scans in range(9) if asked(attribution, scans)] == [0, 3, 6]


def test_none_asks_unless_that_is_wanted() -> None:
    attribution = Attribution(SourcesConfig())
    assert not any(asked(attribution, scans) for scans in range(30))


def test_as_many_guests_of_a_round_as_there_is_room_for_and_the_others_at_their_next_scan() -> None:
    room = 2 * MEMORY // 4096 * BYTES_A_PAGE
    attribution = Attribution(SourcesConfig(enabled=True, every=10, memory_limit=room))
    running = ("1", "2", "3", "4", "5")
    rounds = []
    for scans in range(4):
        rounds.append([uuid for uuid in running if asked(attribution, scans, uuid)])
        attribution.forget(running)
    assert rounds == [["1", "2"], ["3", "4"], ["5"], []]


def test_a_guest_that_needs_more_than_there_is_room_for_is_asked_alone() -> None:
    attribution = Attribution(SourcesConfig(enabled=True, memory_limit=1 << 16))
    assert asked(attribution, 0)


def test_where_a_memory_device_lies_that_does_not_say_so_nothing_is_asked_of_the_guest() -> None:
    attribution = Attribution(SourcesConfig(enabled=True))
    attendant = attribution.attend(replace(guest(), dimms=((-1, MEMORY // 2),)), 0, never)
    assert attendant is not None
    with attendant:
        attendant.think()
        assert attendant.conclude().note == "where its memory devices lie is not told"


def scanned(name: str, group: str, *pages: Page, owned: Ownership | None = None) -> Scanned:
    found = PageDigest(digest(*pages), 4096)
    process = QemuProcess(pid=1, start_time=1)
    return Scanned(guest_scan(name, group), process, Contents.of(found), None, {}, owned, found)


@pytest.mark.parametrize(("group", "inter"), [("tenant", 1), ("stranger", 0)])
def test_a_guest_shares_with_the_others_of_its_group_alone(group: str, inter: int) -> None:
    pages = (Page(10, "heap", users=("sh",)), Page(11, "free"))
    both = {
        "a": scanned("a", "tenant", *pages, owned=ownership(*pages)),
        "b": scanned("b", group, Page(10, "free"), Page(12, "free")),
    }
    beats: list[None] = []
    answers = answers_of(both, names=True, beat=lambda: beats.append(None))
    assert answers.keys() == {"a"}
    assert answers["a"].inter_sharing_pages == inter
    assert len(beats) == 1


def test_owners_and_digests_are_let_go_of_when_the_round_is_over() -> None:
    lean = scanned("a", "tenant", Page(10, "free"), owned=Ownership.unknown(1, "")).lean()
    assert (lean.ownership, lean.digest) == (None, None)
    assert np.array_equal(lean.contents.distinct, [10])
