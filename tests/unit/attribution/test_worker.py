"""The attribution worker without its sandbox: its requests and replies."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import PAGE_WORDS, GuestRam, Unreadable
from samepaged.attribution.messages import regions_of, replies
from samepaged.attribution.ram_map import RamMap, RamRegion
from samepaged.attribution.wire import Channel
from samepaged.attribution.worker import Worker
from samepaged.ipc import ProtocolError
from tests.unit.attribution.pretended import LAYOUTS, NOTE, PAGES, Guest, Pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from samepaged.attribution.wire import Message

NOTHING = np.empty(0, dtype=np.uint8)
FORMS = replies(PAGES)


class Daemon:
    """The daemon's side. The whole guest is copied already, page n in slot n."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def tell(self, kind: str, **parts: Any) -> None:
        fields = {name: part for name, part in parts.items() if isinstance(part, int)}
        self._channel.send(kind, {name: part for name, part in parts.items() if name not in fields}, fields)

    def begin(self, layouts: Sequence[RamMap] = LAYOUTS, full: int = 0, names: int = 1) -> Message:
        blocks, notes = np.ones(1, dtype=np.uint8), np.array([NOTE])
        self.tell(
            "inspect", regions=regions_of(layouts), notes=notes, profile=NOTHING, blocks=blocks, full=full, names=names
        )
        return self.hear()

    def hear(self) -> Message:
        """Answer all fetch requests, and return the next other message."""
        while (message := self._channel.receive(FORMS, time.monotonic() + 20)).kind == "fetch":
            self.tell("page_slots", slots=message.arrays["pages"].astype(np.int32))
        return message

    def hold(self, pages: Sequence[int]) -> Message:
        numbers = np.array(pages, dtype=np.int64)
        self.tell("select", pages=numbers, slots=numbers.astype(np.int32))
        return self.hear()


@contextmanager
def reading(guest: Guest, analysis: Pretended | None = None) -> Iterator[Daemon]:
    ours, theirs = socket.socketpair()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            Worker(Channel(theirs), guest.words, PAGES, analysis or Pretended()).run()
        except ProtocolError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)
        theirs.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Daemon(Channel(ours, lambda: False))
    finally:
        ours.close()
        thread.join()
    assert failures == []


def test_worker_fetches_and_lists_pages() -> None:
    with reading(Guest()) as daemon:
        found = daemon.begin(full=1)
    assert found.kind == "inspection"
    assert {name: array.tolist() for name, array in found.arrays.items() if name != "profile"} == {
        "struct_pages": [20, 21, 22, 23],
        "selected_pages": [50, 51, 60],
        "extra_pages": [NOTE, 99],
    }


def test_layouts_are_tried_in_order() -> None:
    class Picky(Pretended):
        def open(self, ram: GuestRam, *rest: Any) -> tuple[GuestRam, list[int]]:
            if len(ram.layout.regions) < 2:
                raise Unreadable("not so")
            return super().open(ram, *rest)

    high = RamMap((RamRegion(0, 128 * PAGE_SIZE), RamRegion(1 << 32, 128 * PAGE_SIZE)))
    with reading(Guest(), Picky()) as daemon:
        assert daemon.begin([*LAYOUTS, high]).kind == "inspection"
        refused = daemon.begin(LAYOUTS)
        assert (refused.kind, refused.fields["linux"], refused.fields["reason"]) == ("error", 0, "not so")
        assert daemon.begin([high]).kind == "inspection"  # the earlier state is dropped


def test_worker_requests_btf_while_inspecting() -> None:
    asked: list[bytes | None] = []

    class Typed(Pretended):
        def open(
            self, ram: GuestRam, notes: Sequence[int], profile: bytes, types: Callable[[str], bytes | None]
        ) -> tuple[GuestRam, list[int]]:
            asked.append(types("0123abcd"))
            return super().open(ram, notes, profile, types)

    with reading(Guest(), Typed()) as daemon:
        message = daemon.begin()
        assert (message.kind, message.fields["build_id"]) == ("find_btf", "0123abcd")
        daemon.tell("btf", btf=np.frombuffer(b"BTF", dtype=np.uint8))
        assert daemon.hear().kind == "inspection"
        daemon.hold([NOTE, 20, 21, 22, 23])
        daemon.tell("attribute", pages=np.array([50]), slots=np.array([50], dtype=np.int32))
        assert daemon.hear().kind == "attribution"
    assert asked == [b"BTF", None]


def test_selection_uses_the_captured_pages() -> None:
    guest = Guest()
    with reading(guest) as daemon:
        daemon.begin()
        guest.choose(70)
        assert daemon.hold([NOTE, 20, 21, 22, 23]).arrays["pages"].tolist() == [70]
        assert daemon.hold([NOTE, 21, 22, 23]).arrays["pages"].tolist() == []  # page 20 selects page 70


def test_unexpected_error_hides_guest_text() -> None:
    class Broken(Pretended):
        def attribute(self, kernel: Any) -> Any:
            raise ValueError("the guest's own words", kernel)

    with reading(Guest(), Broken()) as daemon:
        assert daemon.begin(full=1).kind == "inspection"  # errors during the inspection are ignored
        daemon.hold([NOTE])
        daemon.tell("attribute", pages=np.array([50]), slots=np.array([50], dtype=np.int32))
        told = daemon.hear()
    assert told.kind == "error"
    assert told.fields["reason"].startswith("ValueError in test_worker.py:")


@pytest.mark.parametrize("order", ["select", "attribute"])
def test_request_without_inspection_ends_worker(order: str) -> None:
    with reading(Guest()) as daemon:
        daemon.tell(order, pages=np.array([1]), slots=np.array([1], dtype=np.int32))
        with pytest.raises(ProtocolError, match="connection closed"):
            daemon.hear()


def test_guest_of_zeros_has_no_kernel() -> None:
    with reading(Guest()) as daemon:
        assert daemon.begin().kind == "inspection"
    empty = Guest()
    empty.words = np.zeros((PAGES, PAGE_WORDS), dtype=np.uint64)
    with reading(empty) as daemon:
        assert daemon.begin().fields["linux"] == 0
