"""Messages that the daemon accepts from an untrusted worker."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.attribution.messages import (
    MAX_NAME_BYTES,
    MAX_PROCESS_NAME_BYTES,
    are_page_numbers,
    page_owners_from_message,
    page_owners_to_message,
    replies,
    without_names,
)
from samepaged.attribution.page_owners import KIND, KINDS, PageOwners
from samepaged.attribution.wire import Channel
from samepaged.ipc import MAGIC, START, Array, Form, GoneError, Number, ProtocolError, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS = {
    "found": Form(
        {"count": Number(0, 9), "note": Text(4, optional=True)},
        {"pages": Array("<i8", 3), "kinds": Array("u1", 2, exact=True)},
    )
}
PAGES = 16


def speak(sock: socket.socket, raw: bytes) -> None:
    with contextlib.suppress(OSError):  # the reader may have closed the socket
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)


def said(raw: bytes, forms: Mapping[str, Form] | None = None) -> Any:
    """Return the message received from a process that sends these bytes and exits."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        speaker = threading.Thread(target=speak, args=(theirs, raw))
        speaker.start()
        try:
            return Channel(ours, lambda: False).receive(FORMS if forms is None else forms, time.monotonic() + 10)
        finally:
            ours.close()
            speaker.join()


def framed(header: object, arrays: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return START.pack(MAGIC, len(raw)) + raw + arrays


GOOD = {"kind": "found", "fields": {"count": 1, "note": None}, "lengths": {"pages": 1, "kinds": 2}}


def test_message_round_trips() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arrays: dict[str, Any] = {
            "pages": np.array([5, 1 << 40], dtype=np.int64),
            "kinds": np.array([1, 2], dtype=np.uint8),
        }
        Channel(theirs).send("found", arrays, {"count": 9, "note": "äöü"})
        taken = Channel(ours, lambda: False).receive(FORMS)
    assert (taken.kind, taken.fields) == ("found", {"count": 9, "note": "äöü"})
    assert taken.arrays["pages"].tolist() == [5, 1 << 40]
    assert taken.arrays["kinds"].tolist() == [1, 2]


def test_array_order_is_kept() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arrays: dict[str, Any] = {"kinds": np.array([1, 2], dtype=np.uint8), "pages": np.array([5, 6], dtype=np.int64)}
        Channel(theirs).send("found", arrays, {"count": 9, "note": None})
        taken = Channel(ours, lambda: False).receive(FORMS)
    assert {name: array.tolist() for name, array in taken.arrays.items()} == {"kinds": [1, 2], "pages": [5, 6]}


@pytest.mark.parametrize(
    "header",
    [
        [],
        None,
        {**GOOD, "more": 1},
        {**GOOD, "kind": "other"},
        {**GOOD, "kind": ["found"]},
        {**GOOD, "fields": []},
        {**GOOD, "fields": {"count": 10, "note": None}},
        {**GOOD, "fields": {"count": True, "note": None}},
        {**GOOD, "fields": {"count": 1.0, "note": None}},
        {**GOOD, "fields": {"count": 1, "note": "12345"}},
        {**GOOD, "fields": {"count": 1}},
        {**GOOD, "fields": {"count": 1, "note": None, "more": 1}},
        {**GOOD, "lengths": {"pages": 4, "kinds": 2}},
        {**GOOD, "lengths": {"pages": -1, "kinds": 2}},
        {**GOOD, "lengths": {"pages": 1 << 62, "kinds": 2}},
        {**GOOD, "lengths": {"pages": 1, "kinds": 1}},
        {**GOOD, "lengths": {"pages": 1, "kinds": 2, "more": 0}},
        {**GOOD, "lengths": {"kinds": 2}},
    ],
)
def test_message_outside_its_form_is_refused(header: object) -> None:
    with pytest.raises(ProtocolError):
        said(framed(header, bytes(100)))


@pytest.mark.parametrize("raw", [b"[" * 60_000, b'{"kind":' * 8_000, b"1" * 60_000, b"\xff", b'{"kind": NaN}', b""])
def test_invalid_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        said(START.pack(MAGIC, len(raw)) + raw)


def test_oversized_header_is_refused() -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        said(START.pack(MAGIC, 1 << 30))


@given(st.binary(max_size=200))
def test_noise_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        said(raw)


@given(at=st.integers(0, 120), bit=st.integers(0, 7))
@example(at=len(framed(GOOD, bytes(8 + 2))) - 1, bit=0)
def test_flipped_bit_is_refused_or_valid(at: int, bit: int) -> None:
    raw = bytearray(framed(GOOD, bytes(8 + 2)))
    raw[at % len(raw)] ^= 1 << bit
    try:
        taken = said(bytes(raw))
    except ProtocolError:
        assert at != len(raw) - 1  # the array data, which may be any bytes
        return
    assert 0 <= taken.fields["count"] <= 9
    assert (len(taken.arrays["pages"]), len(taken.arrays["kinds"])) in {(length, 2) for length in range(4)}


def test_truncated_message_is_an_end() -> None:
    with pytest.raises(GoneError):
        said(framed(GOOD, bytes(3)))


def test_receive_ends_at_deadline_or_stop() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ProtocolError, match="timed out"):
            Channel(ours, lambda: False).receive(FORMS, time.monotonic() + 0.01)
        with pytest.raises(ProtocolError, match="interrupted"):
            Channel(ours, lambda: True).receive(FORMS, time.monotonic() + 60)


def test_send_ends_at_deadline() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ProtocolError, match="timed out"):
        Channel(ours, lambda: False).send(
            "found", {"pages": np.zeros(1 << 20, dtype=np.int64)}, deadline=time.monotonic() + 0.1
        )


def test_slow_reader_does_not_extend_deadline() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:  # a small message always fits
        with pytest.raises(ProtocolError, match="timed out"):
            Channel(ours, lambda: False).send("found", deadline=time.monotonic() - 1)
        with pytest.raises(ProtocolError, match="interrupted"):
            Channel(ours, lambda: True).send("found", deadline=time.monotonic() + 60)


def ownership(**changes: Any) -> PageOwners:
    whole = {
        "kinds": np.full(PAGES, KIND["library"], dtype=np.uint8),
        "labels": np.arange(PAGES, dtype=np.int32) % 3 - 1,
        "offsets": np.arange(PAGES, dtype=np.int64) * 4096,
        "modes": np.arange(PAGES, dtype=np.uint16),
        "names": ("/lib/a\tb.so", "slab dentry"),
        "used_pages": np.array([3, 3, 9], dtype=np.int32),
        "used_by": np.array([1, 0, 1], dtype=np.int32),
        "processes": ("sshd", "ä\udcff"),
        "kernel": "6.1.0",
        "missing": 2,
        "note": None,
    }
    return PageOwners(**{**whole, **changes})


def passed(found: PageOwners) -> PageOwners:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fields, arrays = page_owners_to_message(found)
        sender = threading.Thread(
            target=lambda: Channel(theirs).send("attribution", {**arrays, "extra_pages": np.arange(2)}, fields)
        )
        sender.start()
        message = Channel(ours, lambda: False).receive(replies(PAGES), time.monotonic() + 10)
        sender.join()
    return page_owners_from_message(message.fields, message.arrays)


def test_page_owners_round_trip() -> None:
    before, after = ownership(), passed(ownership())
    for name in ("kinds", "labels", "offsets", "modes"):
        assert getattr(after, name).tolist() == getattr(before, name).tolist()
        assert getattr(after, name).dtype == getattr(before, name).dtype
    assert (after.used_pages.tolist(), after.used_by.tolist()) == ([3, 3, 9], [0, 1, 1])
    assert after.names == before.names
    assert after.processes == ("sshd", "ä\\udcff")
    assert (after.kernel, after.missing, after.note) == ("6.1.0", 2, None)


def test_kernel_text_is_printable() -> None:
    fields, arrays = page_owners_to_message(ownership())
    fields |= {"kernel": "6.1\ud800\u202e", "note": "well\n\x1b[2Jdomain 'other': its pages are mine"}
    found = page_owners_from_message(fields, arrays)
    assert found.kernel == "6.1\\ud800\\u202e"
    assert found.note == "well\\n\\x1b[2Jdomain 'other': its pages are mine"


def test_excess_names_are_empty() -> None:
    long = "x" * MAX_NAME_BYTES
    after = passed(ownership(names=("first", *[long] * 400, "last"), processes=("y" * 100, "z")))
    assert after.names[:2] == ("first", long)
    assert after.names[300:] == ("",) * 101 + ("last",)
    assert after.processes == ("y" * MAX_PROCESS_NAME_BYTES, "z")


def test_message_size_is_bounded_by_guest() -> None:
    pages = 1 << 22
    held = sum(array.most * np.dtype(array.dtype).itemsize for array in replies(pages)["attribution"].arrays.values())
    assert held < pages * 128


def test_long_and_zero_names_are_sanitized() -> None:
    after = passed(ownership(names=("a\0b", "ä" * MAX_NAME_BYTES), processes=("", "x")))
    assert after.names[0] == "a b"
    assert len(after.names[1].encode()) <= MAX_NAME_BYTES + 2  # a character that was cut becomes a replacement
    assert after.processes == ("", "x")


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": np.full(PAGES, len(KINDS), dtype=np.uint8)},
        {"labels": np.full(PAGES, 2, dtype=np.int32)},
        {"labels": np.full(PAGES, -2, dtype=np.int32)},
        {"offsets": np.full(PAGES, -2, dtype=np.int64)},
        {"used_pages": np.array([3, 3, PAGES], dtype=np.int32)},
        {"used_pages": np.array([-1, 3, 9], dtype=np.int32)},
        {"used_by": np.array([0, 1, 2], dtype=np.int32)},
        {"names": ()},
        {"processes": ()},
    ],
)
def test_contradictory_page_owners_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        passed(ownership(**change))


@pytest.mark.parametrize(("pages", "by"), [([3, 3], [1, 1]), ([9, 3], [0, 0]), ([3, 3], [1, 0]), ([3], [0, 1])])
def test_unordered_users_are_refused(pages: list[int], by: list[int]) -> None:
    fields, arrays = page_owners_to_message(ownership())
    arrays["used_pages"], arrays["used_by"] = np.array(pages, dtype=np.int32), np.array(by, dtype=np.int32)
    with pytest.raises(ProtocolError):
        page_owners_from_message(fields, arrays)


@pytest.mark.parametrize("raw", [b"x", b"\0" * 70 + b"x", b"x" * (MAX_NAME_BYTES + 2) + b"\0", bytes((1 << 18) + 1)])
def test_unterminated_names_are_refused(raw: bytes) -> None:
    fields, arrays = page_owners_to_message(ownership())
    arrays["names"] = np.frombuffer(raw, dtype=np.uint8)
    with pytest.raises(ProtocolError):
        page_owners_from_message(fields, arrays)


@given(st.lists(st.integers(-2, PAGES + 1), max_size=8))
def test_page_numbers_are_strictly_ascending(numbers: list[int]) -> None:
    good = sorted(set(numbers)) == numbers and all(0 <= number < PAGES for number in numbers)
    assert are_page_numbers(np.array(numbers, dtype=np.int64), PAGES) is good


def test_without_names_keeps_kinds() -> None:
    kinds = np.full(PAGES, KIND["slab"], dtype=np.uint8)
    kinds[:8] = KIND["library"]
    labels = np.zeros(PAGES, dtype=np.int32)
    labels[8:] = 1
    labels[15] = -1
    bare = without_names(ownership(kinds=kinds, labels=labels))
    assert bare.kinds.tolist() == kinds.tolist()
    assert (bare.names, bare.processes, len(bare.used_pages)) == (("slab dentry",), (), 0)
    assert bare.labels.tolist() == [-1] * 8 + [0] * 7 + [-1]
    assert bare.offsets[:8].tolist() == [-1] * 8
