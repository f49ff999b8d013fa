from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.web.protocol import (
    LARGEST_BODIES,
    LONGEST_HEADER,
    Answer,
    Document,
    Documents,
    FeedError,
    FrameReader,
    Message,
    Report,
    Settings,
    encode,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=50)
NUMBERS = st.integers(0, 2**40)
DOCUMENT = st.builds(Document, TEXTS, TEXTS, st.binary(max_size=200), st.integers(200, 599))
MESSAGE = st.one_of(
    st.builds(Documents, st.lists(DOCUMENT, max_size=5).map(tuple)),
    st.builds(Settings, NUMBERS, TEXTS, st.integers(0, 65535), st.none() | TEXTS),
    st.builds(Answer, NUMBERS, TEXTS, st.integers(0, 65535), st.booleans(), TEXTS, st.booleans()),
    st.builds(Report, TEXTS),
)


@given(st.lists(MESSAGE, max_size=5), st.data())
def test_messages_come_out_as_they_went_in_whatever_pieces_the_stream_is_in(
    messages: list[Message], data: st.DataObject
) -> None:
    stream = b"".join(part for message in messages for part in encode(message))
    reader = FrameReader()
    heard: list[Message] = []
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        heard += reader.feed(stream[at : at + size])
        at += size
    assert heard == messages


ANCHOR = [bytes(part) for part in encode(Report("a line"))]


@given(st.lists(st.binary(max_size=100)))
@example(ANCHOR)
def test_whatever_comes_is_messages_or_a_feed_error(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        messages = [message for piece in pieces for message in reader.feed(piece)]
    except FeedError as error:
        assert "\n" not in str(error)
    else:
        assert messages or pieces != ANCHOR


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 700) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
KINDS = st.sampled_from(["documents", "settings", "answer", "report", "other"])


@given(st.dictionaries(KINDS, JSON, max_size=2) | JSON, st.binary(max_size=20))
@example({"report": ["a line"]}, b"")
def test_a_header_that_makes_no_sense_is_a_feed_error(header: Any, bodies: bytes) -> None:
    text = json.dumps(header).encode()
    reader = FrameReader()
    try:
        (message,) = reader.feed(struct.pack("!II", len(text), len(bodies)) + text + bodies)
    except FeedError:
        assert header != {"report": ["a line"]}
        return
    if isinstance(message, Documents):
        assert sum(len(one.body) for one in message.documents) == len(bodies)


def frame(header: str, bodies: bytes = b"") -> bytes:
    return struct.pack("!II", len(header), len(bodies)) + header.encode() + bodies


@pytest.mark.parametrize(
    "data",
    [
        frame("[" * 50_000),
        frame('{"documents": [["/", "a", 200, 3]]}', b"ab"),
        frame('{"documents": [["/", "a", 200, 1]]}', b"ab"),
        frame('{"documents": [["/", "a", 200, -1]]}'),
        frame('{"documents": [["/", "a", 100, 0]]}'),
        frame('{"documents": [["/", "a", true, 0]]}'),
        frame('{"settings": [1, "a", "80", null]}'),
        frame('{"settings": [1, "a", 80]}'),
        frame('{"settings": [1, "a", 80, null], "report": [""]}'),
        frame('{{"documents": {}}}'.format(json.dumps([["/", "a", 200, 0]] * 65))),
        struct.pack("!II", LONGEST_HEADER + 1, 0),
        struct.pack("!II", 2, LARGEST_BODIES + 1),
    ],
)
def test_what_is_against_the_protocol_is_a_feed_error(data: bytes) -> None:
    with pytest.raises(FeedError):
        FrameReader().feed(data)


def test_the_scanner_takes_no_bodies() -> None:
    with pytest.raises(FeedError):
        FrameReader(largest=0).feed(frame('{"documents": [["/", "a", 200, 1]]}', b"a"))


def test_too_much_is_not_sent() -> None:
    body = bytes(LARGEST_BODIES // 2 + 1)
    with pytest.raises(FeedError, match="at most"):
        encode(Documents((Document("/a", "", body), Document("/b", "", body))))


def test_bodies_are_not_copied() -> None:
    document = Document("/", "text/plain", b"x" * 1000)
    assert encode(Documents((document,)))[1] is document.body


def test_an_error_without_end_is_cut() -> None:
    (said,) = FrameReader().feed(b"".join(encode(Answer(1, error="é" * 100_000))))
    assert isinstance(said, Answer)
    assert 1000 < len(said.error) < 10_000
