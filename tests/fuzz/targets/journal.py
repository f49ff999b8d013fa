"""An entry of the journal of suspended guests. `samepaged recover` passes its values to libvirt."""

from __future__ import annotations

from dataclasses import astuple
from typing import Final
from uuid import UUID

from samepaged.guard.journal import Entry, JournalError
from tests.fuzz.target import Target

UUID_TEXT: Final = "71ebb48b-aaed-46d8-bce8-3cf9fc5e385e"
BOOT: Final = "0b6e2e0c-3f0e-4a7b-9d2f-6d0a4b1c5e77"
LARGEST_ID: Final = 2**31 - 1
WORDS: Final = (
    *(b'"uri"', b'"uuid"', b'"id"', b'"name"', b'"boot"', b": ", b", ", b"null", b"true", b"1.0", b"NaN", b"-Infinity"),
    *(b'"\\ud800"', b'"\\u0000"', b"{", b"}", b"[", b"]", b"[" * 500, b"-1", b"1e9", UUID_TEXT.encode(), b'"guard"'),
)


def check(data: bytes) -> None:
    entry = Entry.parse(data)
    assert Entry.parse(entry.line()) == entry
    for value in astuple(entry):
        # libvirt's binding converts strings to C strings.
        assert not isinstance(value, str) or b"\0" not in value.encode()
    UUID(entry.uuid)
    assert 0 < entry.id <= LARGEST_ID


TARGET = Target(
    check,
    seeds=(
        Entry("qemu:///system", UUID_TEXT, 3, "web-1", BOOT).line(),
        Entry("qemu:///system?socket=/run/a b/libvirt-sock", UUID_TEXT, LARGEST_ID, "名\n", BOOT).line(),
    ),
    words=WORDS,
    refusals=(JournalError,),
    longest=1024,
)
